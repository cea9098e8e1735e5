"""How long an image takes and how much memory: ours against transformers with the same weights.

    PYTHONPATH=. python tests/benchmarks/inference.py
    PYTHONPATH=. python tests/benchmarks/inference.py --sizes 1024x2048 --repeats 3 --json out.json

Swin-T, 100 queries, random weights written by transformers and read by load_model, so both compute
the same function of a real image. "forward" is the two networks alone on the same tensor; "end
to end" is image in, class map out: Predictor against transformers' image processor, model and
post-processing at the image's own size. Ours also runs with dtype auto where that is bfloat16
here, and with it forced by --dtype. Peak memory is that of a fresh process per row and side.

The agreement is the largest difference of the raw queries. Masked attention is a step function of
the masks: random weights put thousands of mask logits near the step, where rounding decides the
side and the decoder amplifies it, so float32 results of both differ from float64 ones by more than
they differ in arithmetic. The table therefore also gives their agreement in float64 and the
distance of either from the float64 result. The floor is the operations over the rate of a matrix
product, and the weights' bytes over the rate of a copy, both measured in this run.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import measure
import numpy as np
import torch
from PIL import Image

from mask2kan.checkpoints import load_model
from mask2kan.inference.predictor import Predictor
from mask2kan.runtime.precision import resolve_dtype

IMAGE = measure.REPOSITORY / "examples"
QUERIES = ("pred_logits", "pred_masks")
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def write_checkpoint(folder: str) -> None:
    """A transformers Mask2Former with Swin-T's and Cityscapes' numbers and random weights."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    torch.manual_seed(0)
    backbone = SwinConfig(
        embed_dim=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        drop_path_rate=0.0,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(backbone_config=backbone, num_labels=19, num_queries=100)
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)


def image(height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8: the first example, resized."""
    path = next(p for p in sorted(IMAGE.iterdir()) if p.suffix in (".jpg", ".jpeg", ".webp"))
    return np.array(Image.open(path).convert("RGB").resize((width, height)))


def tensor(height: int, width: int) -> torch.Tensor:
    """(1, 3, H, W): the image as our model takes it."""
    return torch.from_numpy(image(height, width)).permute(2, 0, 1)[None].float() / 255


def normalised(images: torch.Tensor) -> torch.Tensor:
    """As transformers' model takes it."""
    return (images - MEAN) / STD


def ours_forward(folder: str, size: tuple[int, int], dtype: str) -> Callable[[], Any]:
    """Our network on a tensor."""
    model = load_model(folder, device="cpu").eval()
    images = tensor(*size)
    chosen = resolve_dtype(dtype, model.device)

    def call() -> Any:
        with torch.inference_mode(), torch.autocast("cpu", chosen, chosen != torch.float32):
            return model(images, with_aux=False)

    return call


def ours_end_to_end(folder: str, size: tuple[int, int], dtype: str) -> Callable[[], Any]:
    """Image to class map."""
    predictor = Predictor(load_model(folder, device="cpu"), "cpu", dtype)
    pixels = image(*size)
    return lambda: predictor(pixels).semantic


def theirs(folder: str) -> Any:
    """transformers' model from the same file."""
    from transformers import Mask2FormerForUniversalSegmentation
    from transformers.utils import logging

    logging.disable_progress_bar()
    return Mask2FormerForUniversalSegmentation.from_pretrained(folder).eval()


def theirs_forward(folder: str, size: tuple[int, int]) -> Callable[[], Any]:
    """Their network on the same tensor."""
    model = theirs(folder)
    images = normalised(tensor(*size))

    def call() -> Any:
        with torch.inference_mode():
            return model(pixel_values=images)

    return call


def theirs_end_to_end(folder: str, size: tuple[int, int]) -> Callable[[], Any]:
    """Image to class map, at the image's own size."""
    from transformers import Mask2FormerImageProcessor

    model = theirs(folder)
    processor = Mask2FormerImageProcessor(do_resize=False, size_divisor=32)
    pixels = image(*size)

    def call() -> Any:
        with torch.inference_mode():
            inputs = processor(images=pixels, return_tensors="pt")
            output = model(**inputs)
            [labels] = processor.post_process_semantic_segmentation(output, target_sizes=[size])
            return labels.numpy()

    return call


def agreement(folder: str, size: tuple[int, int]) -> measure.Row:
    """Largest differences of the queries, in float32 and float64."""
    model, peer = load_model(folder, device="cpu").eval(), theirs(folder)
    images = tensor(*size)

    def queries() -> list[dict[str, torch.Tensor]]:
        kind = next(model.parameters()).dtype
        with torch.inference_mode():
            own = model(images.to(kind), with_aux=False)
            other = peer(pixel_values=normalised(images).to(kind))
        found = (other.class_queries_logits, other.masks_queries_logits)
        return [{name: own[name] for name in QUERIES}, dict(zip(QUERIES, found, strict=True))]

    def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
        return max(float((a[name] - b[name]).abs().max()) for name in QUERIES)

    ours32, theirs32 = queries()
    model.double()
    peer.double()
    ours64, theirs64 = queries()
    return {
        "size": "{}x{}".format(*size),
        "float32, ours - theirs": apart(ours32, theirs32),
        "float64, ours - theirs": apart(ours64, theirs64),
        "ours float32 - float64": apart(ours32, ours64),
        "theirs float32 - float64": apart(theirs32, theirs64),
    }


def timing_rows(
    folder: str, size: tuple[int, int], dtypes: list[str], repeats: int
) -> list[measure.Row]:
    """Forward and end to end, each dtype of ours against float32 of theirs."""
    model = load_model(folder, device="cpu").eval()
    images = tensor(*size)
    work = measure.operations(functools.partial(model, images, with_aux=False))
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    del model
    floor = max(work / measure.gemm_rate(), weights / measure.copy_rate())
    rows: list[measure.Row] = []
    for kind, ours, peer in (
        ("forward", ours_forward, theirs_forward),
        ("end to end", ours_end_to_end, theirs_end_to_end),
    ):
        setups = {dtype: functools.partial(ours, folder, size, dtype) for dtype in dtypes}
        setups["transformers"] = functools.partial(peer, folder, size)
        times = measure.by_turns({name: setup() for name, setup in setups.items()}, repeats)
        peaks = {name: measure.peak_megabytes(setup) for name, setup in setups.items()}
        for dtype in dtypes:
            rows.append(
                {
                    "size": "{}x{}".format(*size),
                    "what": kind,
                    "dtype": dtype,
                    "ours s": statistics.median(times[dtype]),
                    "transformers s": statistics.median(times["transformers"]),
                    "speed-up": measure.ratio(times["transformers"], times[dtype]),
                    "floor s": floor,
                    "ours peak MB": peaks[dtype]["peak_mb"],
                    "transformers peak MB": peaks["transformers"]["peak_mb"],
                    "peak ratio": peaks[dtype]["peak_mb"] / peaks["transformers"]["peak_mb"],
                    "ours call MB": peaks[dtype]["call_mb"],
                    "transformers call MB": peaks["transformers"]["call_mb"],
                }
            )
    return rows


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(part) for part in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH") from None
    return height, width


def main() -> None:
    """Print both tables."""
    parser = measure.parser(__doc__, 5)
    parser.add_argument("--sizes", type=_size, nargs="+", default=[(512, 1024), (1024, 2048)])
    parser.add_argument("--dtype", help="also run ours in this dtype (bfloat16, float16)")
    parser.add_argument("--no-float64", action="store_true", help="leave the agreement out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    facts = measure.about(arguments.threads)
    auto = str(resolve_dtype("auto", torch.device("cpu"))).removeprefix("torch.")
    facts["dtype auto is"] = auto
    dtypes = list(dict.fromkeys(["float32", auto, *filter(None, [arguments.dtype])]))
    tables: dict[str, list[measure.Row]] = {"times": [], "agreement": []}
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(folder)
        for size in arguments.sizes:
            tables["times"] += timing_rows(folder, size, dtypes, arguments.repeats)
        measure.show(tables["times"], facts)
        if not arguments.no_float64:
            tables["agreement"] = [agreement(folder, arguments.sizes[0])]
            measure.show(tables["agreement"])
    measure.write(tables, facts, arguments.json)


if __name__ == "__main__":
    main()
