"""Bundle a trained pair as checkpoints that come with the project.

    python -m training.bundle runs/road_pair_end --name road \
        --settings training/results/road_settings.json

Writes ``mask2kan_<name>``, ``mask2former_<name>`` and their ``<name>_trunk`` in float16, without
calibration: next come ``training.calibrate`` and ``training.cards``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from mask2kan.checkpoints import save_pair
from mask2kan.cli.run import run_command
from mask2kan.inference.kan_activity import collect_queries, head_activity
from mask2kan.media.files import read_record
from mask2kan.modeling.mask2kan import Mask2KAN
from mask2kan.modeling.settings import InferenceSettings

from .data import open_split
from .evaluation.measure import evenly_spread
from .evaluation.validation import validate
from .experiments.spline_trials import without_splines
from .models.pair import KAN_HEAD, load_pair, members

QUERY_IMAGES, ZEROED_IMAGES = 25, 100
FAMILIES = {KAN_HEAD: "mask2kan", "mlp": "mask2former"}


def bundle(
    pair: Path,
    folder: Path,
    name: str,
    settings: InferenceSettings,
    facts: dict[str, str],
    *,
    data: str,
) -> list[Path]:
    """Write a pair's files; return those of the heads.

    Args:
        pair: folder of a joint run, or with ``kan`` and ``mlp`` files.
        folder: where to write.
        name: of the pair.
        settings: for both models.
        facts: for the models' cards.
        data: on whose validation images the heads are measured.

    Raises:
        Mask2KANError: when the pair cannot be read or written.
    """
    models = members(load_pair(pair))
    for model in models.values():
        model.calibration = {}
        model.settings = settings
        model.card = {**model.card, **facts, **activity_facts(model, data)}
    named = {f"{FAMILIES[head]}_{name}": model for head, model in models.items()}
    save_pair(named, folder, f"{name}_trunk", torch.float16)
    return [folder / f"{stem}.safetensors" for stem in named]


def activity_facts(model: Mask2KAN, data: str) -> dict[str, str]:
    """Measure how much of a KAN the head is, in words for its card."""
    model.eval()
    images = open_split(data, "val")
    chosen = evenly_spread(images, QUERY_IMAGES)
    queries = collect_queries(model, (images[index][0] for index in chosen))
    activity = head_activity(model.transformer_decoder.mask_embed, queries)
    where = f"on {activity.queries} queries of {len(chosen)} images of {data} val"
    facts = {"curvature": f"{activity.curvature:.4f}, {where}"}
    if activity.spline_shares:
        shares = " and ".join(f"{share:.3f}" for share in activity.spline_shares)
        facts["spline share"] = f"{shares} of the layers' variance, {where}"
        mious = []
        for variant in (model, without_splines(model)):
            validation = validate(variant, images, ZEROED_IMAGES)
            assert validation is not None
            mious.append(validation.values["miou"])
        facts["splines set to zero"] = (
            f"mIoU {mious[0]:.3f} becomes {mious[1]:.3f} on {ZEROED_IMAGES} of the images"
        )
    return facts


def _run(options: argparse.Namespace) -> None:
    settings = InferenceSettings.from_dict(read_record(options.settings))
    facts = read_record(options.facts) if options.facts else {}
    written = bundle(
        options.pair,
        options.out,
        options.name,
        settings,
        {key: str(value) for key, value in facts.items()},
        data=options.data,
    )
    for path in written:
        print(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.bundle", description="A trained pair as bundled checkpoints."
    )
    parser.add_argument("pair", type=Path, help="folder of a joint run")
    parser.add_argument("--name", default="road", help="default: %(default)s")
    parser.add_argument("--settings", type=Path, required=True, help="JSON of InferenceSettings")
    parser.add_argument("--data", default="cityscapes256", help="to measure the heads on")
    parser.add_argument("--facts", type=Path, help="JSON of what the cards say of the training")
    parser.add_argument("--out", type=Path, default="weights", help="default: %(default)s")
    return run_command(parser, _run, arguments)


if __name__ == "__main__":
    sys.exit(main())
