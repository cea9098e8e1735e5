r"""Write the card of a bundled checkpoint and its line in ``weights/manifest.json``.

    python -m training.cards weights/mask2kan_road.safetensors --title "Mask2KAN, road scenes" \
        --scene road --results results/mask2kan_*.json --seen results/seen.txt

Figures come from ``training.evaluate --json``; the fixed words are in ``reporting/card.md``.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from mask2kan.checkpoints import load_model
from mask2kan.checkpoints.files.opened import sha256_of
from mask2kan.checkpoints.formats.native import trunk_of
from mask2kan.cli.run import run_command
from mask2kan.errors import ConfigError
from mask2kan.media.files import read_record, write_bytes, write_record
from mask2kan.modeling.mask2kan import Mask2KAN
from mask2kan.outputs.tables import Table, calibration_table

from .reporting.evaluation import result_table

LICENCE = "non-commercial research"
TEMPLATE = Path(__file__).parent / "reporting" / "card.md"


def _architecture(model: Mask2KAN) -> str:
    config = model.config
    parameters = sum(parameter.numel() for parameter in model.parameters())
    head = "MLP"
    if config.mask_embed == "kan":
        head = f"KAN (grid {config.grid_size}, order {config.spline_order})"
    return (
        f"Mask head: {head}. Backbone {config.backbone}, {config.num_encoder_layers} encoder and "
        f"{config.num_decoder_layers} decoder layers, {config.num_queries} queries, "
        f"{config.hidden_dim} channels; {parameters / 1e6:.2f} million parameters. Classes: "
        f"{', '.join(model.class_names)}."
    )


def _facts(model: Mask2KAN) -> str:
    rows = [[key, str(value)] for key, value in model.card.items()]
    if model.settings is not None:
        rows.append(["run with", model.settings.in_words()])
    return Table(("", ""), rows, text_columns=2).markdown().rstrip()


def _measured(name: str, result: dict[str, Any]) -> str:
    split = f" --split {result['split']}" if "split" in result else ""
    native = " --settings native" if result.get("native") else ""
    data = f"{result['set']}={result['data']}" if "set" in result else result["data"]
    command = f"python -m training.evaluate {name} --data {data}{split}{native}"
    table = result_table(result)
    count = table.title.partition(": ")[2]
    untitled = dataclasses.replace(table, title="", notes=())
    lines = [f"`{command}` ({count}):", "", untitled.markdown()]
    if "regions" in result:
        regions = result["regions"]
        lines.append(
            f"At the shipped threshold {regions['found']} of {regions['objects']} objects are "
            f"at least half covered, and an image has a median of {regions['false_median']:g} "
            "regions without an anomaly."
        )
    return "\n".join(lines).rstrip()


def _calibration(model: Mask2KAN) -> str:
    if not model.calibration:
        raise ConfigError(
            "The checkpoint is not calibrated, and a card needs its thresholds. Run "
            "python -m training.calibrate on it first."
        )
    data = next(iter(model.calibration.values()))["data"]
    names = ("5 % of known pixels", "95 % of anomalies", "best F1")
    table = calibration_table(model.calibration, names).markdown().rstrip()
    return f"From {data}; anomalous if score ≥ threshold.\n\n{table}"


def update_manifest(manifest: Path, entry: dict[str, Any]) -> None:
    """Replace a manifest's entry of the same name, or add it, in one step.

    Args:
        manifest: ``{"weights": [{"name", "file", "sha256", "title", "scene", "score", "licence",
            "card"}]}``, also ``trunk`` where it has a file of its own and ``measured``, one figure;
            made when absent.
        entry: one such entry.

    Raises:
        ConfigError: when the manifest is not of this form.
    """
    entries = read_record(manifest).get("weights") if manifest.is_file() else []
    if not isinstance(entries, list):
        raise ConfigError(f"{manifest} has no list of weights; repair it, or remove it.")
    if not all(isinstance(item, dict) and "name" in item for item in entries):
        raise ConfigError(f"{manifest} lists weights without a name; repair it, or remove it.")
    by_name = {item["name"]: item for item in [*entries, entry]}
    write_record(manifest, {"weights": [by_name[name] for name in sorted(by_name)]})


def write_card(
    checkpoint: Path, *, title: str, scene: str, results: Sequence[Path], seen: Path | None
) -> Path:
    """Write ``<checkpoint>.md`` and the manifest's entry beside a checkpoint; return the card.

    Args:
        checkpoint: a calibrated ``.safetensors`` file.
        title: one line.
        scene: ``road`` or ``indoor``.
        results: of ``training.evaluate --json``.
        seen: text on what a person saw in the model's images.

    Raises:
        Mask2KANError: for a checkpoint or file that is missing or does not belong.
    """
    name = checkpoint.stem
    model = load_model(str(checkpoint), device="cpu")
    sha256 = sha256_of(checkpoint)
    measured = [read_record(path) for path in results]
    for path, result in zip(results, measured, strict=True):
        if result.get("sha256") != sha256:
            raise ConfigError(
                f"{path} measured {result.get('weights')} with sha256 {result.get('sha256')}, not "
                f"{checkpoint} with {sha256}. Evaluate this file and pass that result."
            )
    trunk = trunk_of(checkpoint)
    remarks = seen.read_text(encoding="utf-8").strip() if seen else ""
    card = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=title,
        name=name,
        size=f"{checkpoint.stat().st_size / 1e6:.1f}",
        sha256=sha256,
        trunk=_trunk_in_words(checkpoint.with_name(trunk["file"])) if trunk else "",
        architecture=_architecture(model),
        facts=_facts(model),
        measured="\n\n".join(_measured(name, result) for result in measured),
        seen=f"## Seen in its images\n\n{remarks}\n\n" if remarks else "",
        calibration=_calibration(model),
    )
    path = checkpoint.with_suffix(".md")
    write_bytes(path, card.encode())
    entry: dict[str, Any] = {
        "name": name,
        "file": checkpoint.name,
        "sha256": sha256,
        "title": title,
        "scene": scene,
        "score": model.settings.score if model.settings else "msp",
        "licence": LICENCE,
        "card": path.name,
    }
    if trunk:
        entry["trunk"] = trunk["file"]
    entry |= _headline(entry["score"], measured)
    update_manifest(checkpoint.with_name("manifest.json"), entry)
    return path


def _headline(score: str, measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Choose the one figure that pages show: AP on the first anomaly data set."""
    for result in measured:
        if score in result.get("scores", {}):
            figure = {"ap": round(result["scores"][score]["ap"], 4)}
            about = {"data": result["data"], "pictures": result["pictures"], "score": score}
            return {"measured": about | figure}
    return {}


def _trunk_in_words(path: Path) -> str:
    size = path.stat().st_size / 1e6
    return f"; a head: it needs `{path.name}`, {size:.1f} MB, beside it, the trunk it shares"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.cards",
        description="Write the card of a bundled checkpoint and its entry in the manifest.",
        epilog="example: python -m training.cards weights/mask2kan_road.safetensors "
        '--title "Mask2KAN, road scenes" --results results/*.json',
    )
    parser.add_argument("checkpoint", type=Path, help="a calibrated .safetensors file")
    parser.add_argument("--title", required=True, help="one line for lists and the card's head")
    parser.add_argument("--scene", choices=("road", "indoor"), default="road")
    parser.add_argument(
        "--results", type=Path, nargs="+", required=True, help="JSON files of training.evaluate"
    )
    parser.add_argument("--seen", type=Path, help="text: what was seen in the model's images")
    return parser


def _run(options: argparse.Namespace) -> None:
    path = write_card(
        options.checkpoint,
        title=options.title,
        scene=options.scene,
        results=options.results,
        seen=options.seen,
    )
    print(f"{path} and {path.with_name('manifest.json')} written")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command(_parser(), _run, arguments)


if __name__ == "__main__":
    sys.exit(main())
