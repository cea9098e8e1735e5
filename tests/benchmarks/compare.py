"""What a second model costs: two models on one image, with one trunk and with different ones.

    PYTHONPATH=. python tests/benchmarks/compare.py
    PYTHONPATH=. python tests/benchmarks/compare.py --backbone swin_b --json compare.json
    PYTHONPATH=. python tests/benchmarks/compare.py --bundled

A KAN and an MLP model with random weights, once with backbone and pixel decoder copied from one to
the other and once each with its own. A round is image in, class map and msp score out of every
model. "one" is the mean of the two models by themselves; the peer of the comparison is running
them one after the other. The results are compared bit for bit. ``--bundled`` takes the bundled road
pair as it ships, with its inference settings, on 720x960.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable

import measure
import numpy as np
import torch
from inference import image

from mask2kan.checkpoints import load_model
from mask2kan.inference.comparison import Comparison
from mask2kan.inference.prediction import Prediction
from mask2kan.inference.predictor import Predictor
from mask2kan.media.images import RGB
from mask2kan.modeling.mask2kan import create_model

BUNDLED = "bundled"
FAMILIES = ("mask2kan", "mask2former")
TRUNK = ("backbone", "pixel_decoder")


def pixels_for(backbone: str) -> RGB:
    """An example in the size that the figures are of."""
    return image(*((720, 960) if backbone == BUNDLED else (512, 1024)))


def predictors(backbone: str, copied: bool) -> list[Predictor]:
    """A KAN and an MLP predictor."""
    if backbone == BUNDLED:
        return [Predictor(load_model(f"{family}_road"), "cpu") for family in FAMILIES]
    models = []
    for seed, family in enumerate(FAMILIES):
        torch.manual_seed(seed)
        models.append(create_model(f"{family}_{backbone}"))
    if copied:
        for part in TRUNK:
            getattr(models[1], part).load_state_dict(getattr(models[0], part).state_dict())
    return [Predictor(model, "cpu") for model in models]


def finished(predictions: list[Prediction]) -> list[Prediction]:
    """With class map and score computed."""
    for prediction in predictions:
        prediction.prepare(("msp",))
    return predictions


def comparison_setup(backbone: str, copied: bool) -> Callable[[], list[Prediction]]:
    """Both at once."""
    comparison, pixels = Comparison(*predictors(backbone, copied)), pixels_for(backbone)
    return lambda: finished(comparison(pixels))


def single_setup(backbone: str) -> Callable[[], list[Prediction]]:
    """One model."""
    predictor, pixels = predictors(backbone, copied=False)[0], pixels_for(backbone)
    return lambda: finished([predictor(pixels)])


def row(backbone: str, copied: bool, repeats: int) -> measure.Row:
    """Times and memory of a pair."""
    pair, pixels = predictors(backbone, copied), pixels_for(backbone)
    comparison = Comparison(*pair)
    calls = {
        "left": lambda: finished([pair[0](pixels)]),
        "right": lambda: finished([pair[1](pixels)]),
        "comparison": lambda: finished(comparison(pixels)),
    }
    equal = all(
        np.array_equal(alone.pred_logits, together.pred_logits)
        and np.array_equal(alone.pred_masks, together.pred_masks)
        and np.array_equal(alone.anomaly("msp"), together.anomaly("msp"))
        for alone, together in zip(
            [*calls["left"](), *calls["right"]()], calls["comparison"](), strict=True
        )
    )
    times = measure.by_turns(calls, repeats)
    one = [(a + b) / 2 for a, b in zip(times["left"], times["right"], strict=True)]
    peak = measure.peak_megabytes(functools.partial(comparison_setup, backbone, copied))
    alone = measure.peak_megabytes(functools.partial(single_setup, backbone))
    return {
        "backbone": backbone,
        "trunks": "the same" if copied else "different",
        "one s": statistics.median(one),
        "both apart s": 2 * statistics.median(one),
        "comparison s": statistics.median(times["comparison"]),
        "comparison / one": measure.ratio(times["comparison"], one),
        "bit-equal": equal,
        "one peak MB": alone["peak_mb"],
        "comparison peak MB": peak["peak_mb"],
        "hashing s": _hashing(pair),
    }


def _hashing(pair: list[Predictor]) -> float:
    """Of finding out, once per pair, what they share."""
    return statistics.median(measure.by_turns({"hash": lambda: Comparison(*pair)}, 3)["hash"])


def main() -> None:
    """Print the table."""
    parser = measure.parser(__doc__, 5)
    parser.add_argument("--backbone", default="swin_t", help="default swin_t")
    parser.add_argument("--bundled", action="store_true", help="the bundled road pair")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    facts = measure.about(arguments.threads)
    if arguments.bundled:
        rows = [row(BUNDLED, True, arguments.repeats)]
    else:
        rows = [row(arguments.backbone, copied, arguments.repeats) for copied in (True, False)]
    measure.show(rows, facts)
    measure.write({"rows": rows}, facts, arguments.json)


if __name__ == "__main__":
    main()
