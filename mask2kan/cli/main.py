"""The command line: ``python -m mask2kan predict | compare | info | models | convert | export``.

Exit status: 0 for success, 1 when an image or step failed (one line each on standard error; the
rest is done), 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mask2kan.cli import commands
from mask2kan.cli.run import run_command
from mask2kan.inference.scores import SCORES
from mask2kan.runtime.memory import keep_freed_memory
from mask2kan.runtime.precision import DTYPES

_FLAG: dict[str, Any] = {"action": "store_true"}
_EXAMPLES = {
    "predict": """examples:
  python -m mask2kan predict road.jpg
  python -m mask2kan predict photos/ 'more/*.png' --score entropy --out results
  python -m mask2kan predict road.jpg --model model_final.pth --threshold 0.4 --flip --refine
  python -m mask2kan predict road.jpg --model last.ckpt --weights ema
  python -m mask2kan predict day1/ --out day1_results --resume --ray --workers 4""",
    "compare": """examples:
  python -m mask2kan compare road.jpg
  python -m mask2kan compare photos/ --left a.safetensors --right b.pth --score rba""",
    "info": """examples:
  python -m mask2kan info mask2kan_swin_t
  python -m mask2kan info model_final.pth --json""",
    "models": """example:
  python -m mask2kan models""",
    "convert": """examples:
  python -m mask2kan convert model_final.pth model.safetensors
  python -m mask2kan convert model_final.pth half.safetensors --dtype float16""",
    "export": """examples:
  python -m mask2kan export mask2kan_road model.onnx --height 720 --width 960""",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command with these arguments, or the process's; returns the exit status."""
    return run_command(_parser(), _run, arguments, prefix="mask2kan", failure=1)


def _run(options: argparse.Namespace) -> int:
    keep_freed_memory()
    # image sizes are checked, with a message of our own, before anything is decoded
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


def _called() -> str:
    """Name the command as it was called: the installed program, or the module."""
    return "mask2kan" if Path(sys.argv[0]).stem == "mask2kan" else "python -m mask2kan"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_called(),
        description="Semantic and anomaly segmentation of road images, with KAN and MLP heads.",
        epilog="example: python -m mask2kan compare road.jpg\n"
        "python -m mask2kan COMMAND --help shows a command's options and examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    source = "file, folder, bundled name or Hub id (also id@revision)"

    add = _command(subparsers, commands.predict, "segment images with one model")
    add("--model", help=f"{source} (default: the bundled KAN model)")
    _checkpoint_options(add)
    _image_options(add)
    add("--resume", help="leave out what the same model and options were done with", **_FLAG)
    add("--ray", help="spread the images with Ray Data", **_FLAG)
    add("--ray-address", help="of a running cluster, which shares --out (default: start one here)")
    add("--workers", type=int, help="Ray actors (default: a GPU or four cores each)")

    add = _command(subparsers, commands.compare, "two models side by side on the same images")
    add("--left", help=f"{source} (default: the bundled KAN model)")
    add("--right", help="the same (default: the bundled MLP model)")
    add("--left-threshold", type=float, help="instead of --threshold, for the left model")
    add("--right-threshold", type=float, help="instead of --threshold, for the right model")
    _image_options(add)

    add = _command(subparsers, commands.info, "what a checkpoint is made of")
    add("model", help=f"{source}, or an architecture name")
    _checkpoint_options(add)
    add("--device", default="auto", help="where to load it (default: %(default)s)")
    add("--json", help="print JSON", **_FLAG)

    add = _command(subparsers, commands.models, "list architectures and weights")
    add("--json", help="print JSON", **_FLAG)

    add = _command(subparsers, commands.convert, "write any checkpoint as safetensors")
    add("model", help=source)
    _checkpoint_options(add)
    add("output", type=Path, help="the .safetensors file to write")
    add("--dtype", choices=("float32", "float16"), default="float32", help="of the weights")
    add("--force", help="replace an existing file", **_FLAG)

    add = _command(subparsers, commands.export, "write a model as ONNX for other programs")
    add("model", help=source)
    _checkpoint_options(add)
    add("output", type=Path, help="the .onnx file to write")
    add("--height", type=int, default=512, help="of its images (default: %(default)s)")
    add("--width", type=int, default=1024, help="of its images (default: %(default)s)")
    add("--force", help="replace an existing file", **_FLAG)
    return parser


def _command(
    subparsers: Any, command: Callable[[argparse.Namespace], int], summary: str
) -> Callable[..., Any]:
    """Add a command under its function's name; returns its ``add_argument``."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        command.__name__,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=_EXAMPLES[command.__name__],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command)
    return parser.add_argument


def _checkpoint_options(add: Callable[..., Any]) -> None:
    add("--file", help="the weights' file, when a folder or repository holds several")
    add("--revision", help="a branch, tag or commit on the Hub")
    add(
        "--weights",
        help="which set of weights a file with several gives, e.g. ema or state_dict "
        "(default: the averaged one, else the largest)",
    )


def _image_options(add: Callable[..., Any]) -> None:
    add("images", nargs="+", help="images, folders, http(s) addresses and quoted patterns")
    add("--score", choices=SCORES, help="anomaly score (default: the checkpoint's, else msp)")
    add(
        "--settings",
        choices=("checkpoint", "native"),
        default="checkpoint",
        help="sizes and smoothing: as the checkpoint's makers say, or one pass at the image's "
        "own size (default: %(default)s)",
    )
    add("--threshold", type=float, help="anomalous from here on (default: the calibrated one)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default: %(default)s)")
    add(
        "--dtype",
        choices=("auto", *DTYPES),
        default="auto",
        help="of the arithmetic; auto takes bfloat16 on GPUs and CPUs made for it",
    )
    add(
        "--max-side",
        type=int,
        default=2048,
        help="larger images are computed at this many pixels (default: %(default)s)",
    )
    add("--flip", help="average with the left-right flipped image", **_FLAG)
    add("--refine", help="Mask2Anomaly's refinement of anomaly scores", **_FLAG)
    add("--compile", help="run the model through torch.compile", **_FLAG)
    add("--graphs", help="replay it as a CUDA graph, one per image size", **_FLAG)
    add("--out", type=Path, default=Path("mask2kan_results"), help="folder (default: %(default)s)")
