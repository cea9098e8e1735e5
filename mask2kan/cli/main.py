"""The command line: ``python -m mask2kan predict | compare | info | models | convert``.

Exit status: 0 when everything worked, 1 when some picture or step failed (each with one line on
standard error, the rest still done), 2 for arguments that make no sense.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from mask2kan.cli.predict_job import PredictJob, Report, Task
from mask2kan.cli.reporting import complain, describe_model, tell_results
from mask2kan.cli.run import run_command
from mask2kan.errors import ConfigError, Mask2KANError
from mask2kan.inference.comparison import Comparison
from mask2kan.inference.prediction import Prediction
from mask2kan.inference.predictor import Predictor
from mask2kan.inference.scale_out import Outcome, run_actors, run_here
from mask2kan.inference.scores import SCORES
from mask2kan.media.images import find_pictures
from mask2kan.modeling.config import model_config, model_names
from mask2kan.outputs.comparison_figure import comparison_page, write_page
from mask2kan.outputs.results import (
    summarize,
    unique_stems,
    write_json,
    write_results,
)
from mask2kan.outputs.tables import Table
from mask2kan.runtime.memory import keep_freed_memory
from mask2kan.runtime.precision import DTYPES

SIDES = ("left", "right")
_PREDICTOR_OPTIONS = (
    *("device", "dtype", "max_side", "flip", "refine", "compile", "graphs"),
    "settings",
)

_EXAMPLES = {
    "predict": """examples:
  python -m mask2kan predict road.jpg
  python -m mask2kan predict photos/ 'more/*.png' --score entropy --out results
  python -m mask2kan predict road.jpg --model model_final.pth --threshold 0.4 --flip --refine
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
    """Run one command.

    Args:
        arguments: what follows the program's name; None for those of this process.

    Returns:
        The exit status.
    """
    return run_command(_parser(), _run, arguments, prefix="mask2kan", failure=1)


def _run(options: argparse.Namespace) -> int:
    keep_freed_memory()
    # picture sizes are checked, with a message of our own, before anything is decoded
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


def predict(options: argparse.Namespace) -> int:
    """Segment pictures with one model; four files and a JSON summary each."""
    pictures = find_pictures(options.pictures)
    job = PredictJob(
        model=options.model or _bundled("mask2kan"),
        out=options.out,
        score=options.score,
        threshold=options.threshold,
        predictor={name: getattr(options, name) for name in _PREDICTOR_OPTIONS},
    )
    tasks = list(zip(map(str, pictures), unique_stems(pictures), strict=True))
    missing = [task for task in tasks if not (options.resume and job.is_done(task))]
    if len(missing) < len(tasks):
        print(f"{len(tasks) - len(missing)} of {len(tasks)} pictures were done before.")
    if options.ray or options.ray_address or options.workers is not None:
        workers, address = options.workers, options.ray_address
        outcomes = run_actors(job.worker, missing, workers=workers, address=address)
    else:
        outcomes = run_here(job.worker, missing)
    return _report_all(outcomes, len(missing))


def compare(options: argparse.Namespace) -> int:
    """Run two models on the same pictures; one folder per picture."""
    pictures = find_pictures(options.pictures)
    sources = (options.left or _bundled("mask2kan"), options.right or _bundled("mask2former"))
    comparison = Comparison(*(_predictor(source, options) for source in sources))
    thresholds = [
        options.threshold if own is None else own
        for own in (options.left_threshold, options.right_threshold)
    ]

    def one(path: Path, stem: str) -> None:
        folder = options.out / stem
        predictions: list[tuple[str, Prediction]] = []
        facts: dict[str, Any] = {"picture": str(path)}
        files: list[Path] = []
        for side, source, prediction, threshold in zip(
            SIDES, sources, comparison(path), thresholds, strict=True
        ):
            files += write_results(prediction, folder, side, options.score, threshold)
            facts[side] = summarize(prediction, options.score, threshold)
            predictions.append((_title(source), prediction))
        page = comparison_page(predictions, options.score, thresholds, name=path.name)
        files.append(write_page(folder / "comparison.png", page))
        facts["files"] = [file.name for file in files]
        written = write_json(folder / "comparison.json", facts)
        notes = predictions[0][1].notes
        tell_results(path, [(f"{side} ", facts[side]) for side in SIDES], notes, written)

    return _for_each(pictures, one)


def info(options: argparse.Namespace) -> int:
    """Print what a checkpoint (or a model name) is."""
    model, found = _model_or_checkpoint(options.model, options.device)
    parts = {
        name: sum(parameter.numel() for parameter in part.parameters())
        for name, part in model.named_children()
    }
    head = model.transformer_decoder.mask_embed
    facts = {
        "model": options.model,
        "format": found.get("format", "architecture with random weights"),
        "architecture": {
            key: value
            for key, value in model.config.to_dict().items()
            if key not in ("class_names", "palette")
        },
        "parameters": {
            "total": sum(parts.values()),
            **parts,
            "mask_embed": sum(parameter.numel() for parameter in head.parameters()),
        },
        "class_names": list(model.class_names),
        "palette": model.palette.tolist(),
        "calibration": model.calibration,
        "card": found.get("card", {}),
        "settings": found.get("settings"),
    }
    print(json.dumps(facts, indent=2) if options.json else describe_model(facts))
    return 0


def models(options: argparse.Namespace) -> int:
    """List architectures and the weights that can be loaded by name."""
    from mask2kan.checkpoints import list_weights

    bundled = set(list_weights(bundled_only=True))
    weights = {name: name in bundled for name in list_weights()}
    if options.json:
        listed = [{"name": name, "bundled": here} for name, here in weights.items()]
        print(json.dumps({"architectures": model_names(), "weights": listed}, indent=2))
        return 0
    configs = {name: model_config(name) for name in model_names()}
    architectures = [
        (name, f"{config.mask_embed} head, {config.masked_attention} masked attention")
        for name, config in configs.items()
    ]
    title = "architectures (random weights, for create_model and info):"
    print(Table(("", ""), architectures, title, text_columns=2).text())
    places = [
        (name, "bundled" if here else "downloaded when used") for name, here in weights.items()
    ]
    print(Table(("", ""), places, "weights (for --model, --left, --right):", text_columns=2).text())
    print("Any .safetensors, .pth or .pkl file and any Hub repository id can stand there too.")
    return 0


def convert(options: argparse.Namespace) -> int:
    """Write any readable checkpoint as our safetensors."""
    import torch

    from mask2kan.checkpoints import load_model, save_model

    _require_new_file(options.output, ".safetensors", "a safetensors file", options.force)
    model = load_model(options.model, device="cpu")
    dtype = torch.float16 if options.dtype == "float16" else None
    options.output.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, options.output, dtype=dtype)
    print(f"{options.output} ({options.output.stat().st_size / 1e6:.2f} MB)")
    return 0


def export(options: argparse.Namespace) -> int:
    """Write a model as ONNX and compare it with itself."""
    from mask2kan.checkpoints import load_model
    from mask2kan.checkpoints.onnx import export_onnx, largest_onnx_difference

    _require_new_file(options.output, ".onnx", "an ONNX file", options.force)
    model = load_model(options.model, device="cpu")
    export_onnx(model, options.output, options.height, options.width)
    size = f"{options.output.stat().st_size / 1e6:.2f} MB"
    print(f"{options.output} ({size}, pictures of {options.width} x {options.height})")
    if find_spec("onnxruntime") is None:
        print("Not checked: onnxruntime is not installed.")
        return 0
    for name, apart in largest_onnx_difference(model, options.output).items():
        print(f"  {name}: at most {apart:.2g} from ours in onnxruntime")
    return 0


def _require_new_file(path: Path, suffix: str, kind: str, force: bool) -> None:
    if path.suffix != suffix:
        raise ConfigError(
            f"Can't write {str(path)!r}: the result is {kind}; "
            f"give it a name that ends in {suffix}."
        )
    if path.exists() and not force:
        raise ConfigError(f"{str(path)!r} exists; choose another name or add --force.")


def _for_each(pictures: list[Path], one: Callable[[Path, str], None]) -> int:
    """Go on after a picture that fails; say so; fail at the end."""
    failed = 0
    progress = tqdm(
        list(zip(pictures, unique_stems(pictures), strict=True)),
        unit="picture",
        disable=len(pictures) == 1 or not sys.stderr.isatty(),
    )
    for path, stem in progress:
        try:
            one(path, stem)
        except (Mask2KANError, OSError) as error:
            failed += 1
            complain(error, path)
    if failed and len(pictures) > 1:
        tqdm.write(f"{failed} of {len(pictures)} pictures failed.", file=sys.stderr)
    return 1 if failed else 0


def _report_all(outcomes: Iterator[Outcome[Task, Report]], count: int) -> int:
    """Say what became of every picture; fail at the end when one failed."""
    failed = 0
    hidden = count == 1 or not sys.stderr.isatty()
    for outcome in tqdm(outcomes, total=count, unit="picture", disable=hidden):
        path, report = Path(outcome.item[0]), outcome.result
        if outcome.error is not None:
            failed += 1
            complain(outcome.error, path)
        if report is not None:
            tell_results(path, [("", report.summary)], report.notes, report.written)
    if failed and count > 1:
        tqdm.write(f"{failed} of {count} pictures failed.", file=sys.stderr)
    return 1 if failed else 0


def _model_or_checkpoint(source: str, device: str) -> tuple[Any, dict[str, Any]]:
    """A model, and what its checkpoint says besides (nothing for an architecture's name)."""
    from mask2kan.checkpoints import describe, load_model, open_checkpoint
    from mask2kan.modeling.mask2kan import create_model

    if source in model_names():
        return create_model(source), {}
    checkpoint = open_checkpoint(source)
    return load_model(checkpoint, device=device), describe(checkpoint)


def _predictor(source: str, options: argparse.Namespace) -> Predictor:
    from mask2kan.checkpoints import load_model

    chosen = {name: getattr(options, name) for name in _PREDICTOR_OPTIONS}
    return Predictor(load_model(source, device=options.device), **chosen)


def _bundled(family: str) -> str:
    """The first bundled model of a family."""
    from mask2kan.checkpoints import list_weights

    for name in list_weights(bundled_only=True):
        if name.startswith(family):
            return name
    raise ConfigError(
        f"No {family} weights are bundled here; name a checkpoint (the models command lists some)."
    )


def _title(source: str) -> str:
    path = Path(source)
    return path.name if path.exists() else source


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mask2kan",
        description="Semantic and anomaly segmentation of road pictures, with KAN and MLP heads.",
        epilog="example: python -m mask2kan compare road.jpg\n"
        "python -m mask2kan COMMAND --help shows a command's options and examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    add = _command(commands, "predict", predict, "segment pictures with one model")
    add("--model", help="file, bundled name or Hub id (default: the bundled KAN model)")
    _picture_options(add)
    add(
        "--resume",
        action="store_true",
        help="leave out pictures that the same model and options were done with",
    )
    add("--ray", action="store_true", help="spread the pictures with Ray Data")
    add("--ray-address", help="of a running cluster, which shares --out (default: start one here)")
    add("--workers", type=int, help="Ray actors (default: a card or four cores each)")

    add = _command(commands, "compare", compare, "two models side by side on the same pictures")
    add("--left", help="file, bundled name or Hub id (default: the bundled KAN model)")
    add("--right", help="the same (default: the bundled MLP model)")
    add("--left-threshold", type=float, help="instead of --threshold, for the left model")
    add("--right-threshold", type=float, help="instead of --threshold, for the right model")
    _picture_options(add)

    add = _command(commands, "info", info, "what a checkpoint is made of")
    add("model", help="file, bundled name, Hub id or architecture name")
    add("--device", default="auto", help="where to load it (default: %(default)s)")
    add("--json", action="store_true", help="print JSON")

    add = _command(commands, "models", models, "list architectures and weights")
    add("--json", action="store_true", help="print JSON")

    add = _command(commands, "convert", convert, "write any checkpoint as safetensors")
    add("model", help="file, bundled name or Hub id")
    add("output", type=Path, help="the .safetensors file to write")
    add("--dtype", choices=("float32", "float16"), default="float32", help="of the weights")
    add("--force", action="store_true", help="replace an existing file")

    add = _command(commands, "export", export, "write a model as ONNX for other programs")
    add("model", help="file, bundled name or Hub id")
    add("output", type=Path, help="the .onnx file to write")
    add("--height", type=int, default=512, help="of its pictures (default: %(default)s)")
    add("--width", type=int, default=1024, help="of its pictures (default: %(default)s)")
    add("--force", action="store_true", help="replace an existing file")
    return parser


def _command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], int], summary: str
) -> Callable[..., Any]:
    command = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=_EXAMPLES[name],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(command=function)
    add: Callable[..., Any] = command.add_argument
    return add


def _picture_options(add: Callable[..., Any]) -> None:
    add("pictures", nargs="+", help="pictures, folders and quoted patterns")
    add("--score", choices=SCORES, help="anomaly score (default: the checkpoint's, else msp)")
    add(
        "--settings",
        choices=("checkpoint", "native"),
        default="checkpoint",
        help="sizes and smoothing: as the checkpoint's makers say, or one look at the picture's "
        "own size (default: %(default)s)",
    )
    add("--threshold", type=float, help="anomalous from here on (default: the calibrated one)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default: %(default)s)")
    add(
        "--dtype",
        choices=("auto", *DTYPES),
        default="auto",
        help="of the arithmetic; auto takes bfloat16 where the device is faster with it",
    )
    add(
        "--max-side",
        type=int,
        default=2048,
        help="larger pictures are computed at this many pixels (default: %(default)s)",
    )
    add("--flip", action="store_true", help="average with the left-right flipped picture")
    add("--refine", action="store_true", help="Mask2Anomaly's refinement of anomaly scores")
    add("--compile", action="store_true", help="run the model through torch.compile")
    add("--graphs", action="store_true", help="replay it as a CUDA graph, one per picture size")
    add("--out", type=Path, default=Path("mask2kan_results"), help="folder (default: %(default)s)")
