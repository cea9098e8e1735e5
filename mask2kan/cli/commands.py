"""The commands; ``mask2kan.cli.main`` parses their options."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from tqdm import tqdm

from mask2kan.checkpoints import list_weights, load_model, save_model
from mask2kan.cli.predict_job import PredictJob, Report, Task
from mask2kan.cli.reporting import complain, describe_model, print_results, say_stage
from mask2kan.errors import ConfigError, printable
from mask2kan.inference.comparison import Comparison
from mask2kan.inference.predictor import Predictor
from mask2kan.inference.scale_out import Outcome, run_actors, run_here
from mask2kan.media.files import json_bytes, write_bytes
from mask2kan.media.images import find_images
from mask2kan.media.web import is_url
from mask2kan.modeling.config import model_config, model_names
from mask2kan.modeling.mask2kan import create_model
from mask2kan.outputs.names import unique_stems
from mask2kan.outputs.summary import Analysis
from mask2kan.outputs.tables import Table
from mask2kan.outputs.writer import write_results

SIDES = ("left", "right")
_PREDICTOR_OPTIONS = (
    *("device", "dtype", "max_side", "flip", "refine", "compile", "graphs"),
    "settings",
)


def predict(options: argparse.Namespace) -> int:
    """Segment images with one model; write maps, masks, scores and a JSON summary each."""
    tasks = _tasks(options.images, lambda stem: options.out / f"{stem}.json")
    job = PredictJob(
        model=options.model or _bundled("mask2kan"),
        checkpoint=_checkpoint_options(options),
        out=options.out,
        score=options.score,
        threshold=options.threshold,
        predictor={name: getattr(options, name) for name in _PREDICTOR_OPTIONS},
    )
    todo = [task for task in tasks if not (options.resume and job.is_done(task))]
    if len(todo) < len(tasks):
        print(f"{len(tasks) - len(todo)} of {len(tasks)} images were done before.")
    if options.ray or options.ray_address or options.workers is not None:
        workers, address = options.workers, options.ray_address
        outcomes = run_actors(job.worker, todo, workers=workers, address=address)
    else:
        outcomes = run_here(job.worker, todo)
    return _report_all(outcomes, len(todo))


def compare(options: argparse.Namespace) -> int:
    """Run two models on the same images; write a folder per image."""
    tasks = _tasks(options.images, lambda stem: options.out / stem / "comparison.json")
    return _report_all(run_here(lambda: _comparer(options), tasks), len(tasks))


def _comparer(options: argparse.Namespace) -> Callable[[Task], Report]:
    # matplotlib takes a second to import
    from mask2kan.outputs.comparison_figure import comparison_page, write_page

    sources = (options.left or _bundled("mask2kan"), options.right or _bundled("mask2former"))
    settings = {name: getattr(options, name) for name in _PREDICTOR_OPTIONS}
    models = (load_model(source, device=options.device) for source in sources)
    comparison = Comparison(*(Predictor(model, **settings) for model in models))
    titles = [
        printable(Path(source).name if Path(source).exists() else source) for source in sources
    ]
    thresholds = [
        options.threshold if threshold is None else threshold
        for threshold in (options.left_threshold, options.right_threshold)
    ]

    def compare_image(task: Task) -> Report:
        path, folder = task[0], options.out / task[1]
        predictions = comparison(path)
        analyses = [
            Analysis(prediction, options.score, threshold)
            for prediction, threshold in zip(predictions, thresholds, strict=True)
        ]
        files = [
            file
            for side, analysis in zip(SIDES, analyses, strict=True)
            for file in write_results(analysis, folder, side)
        ]
        name = printable(Path(path).name)
        page = comparison_page(list(zip(titles, analyses, strict=True)), name=name)
        files.append(write_page(folder / "comparison.png", page))
        summaries = [analysis.summary() for analysis in analyses]
        facts = {
            "picture": path,
            **dict(zip(SIDES, summaries, strict=True)),
            "files": [file.name for file in files],
        }
        written = write_bytes(folder / "comparison.json", json_bytes(facts))
        labels = [f"{side} ({title}): " for side, title in zip(SIDES, titles, strict=True)]
        return Report(list(zip(labels, summaries, strict=True)), predictions[0].notes, written)

    return compare_image


def info(options: argparse.Namespace) -> int:
    """Describe a checkpoint or an architecture."""
    if options.model in model_names():
        model = create_model(options.model)
    else:
        model = load_model(options.model, device=options.device, **_checkpoint_options(options))
    parts = {name: _count_parameters(part) for name, part in model.named_children()}
    facts = {
        "model": options.model,
        "format": model.format or "architecture with random weights",
        "architecture": {
            key: value
            for key, value in model.config.to_dict().items()
            if key not in ("class_names", "palette")
        },
        "parameters": {
            "total": sum(parts.values()),
            **parts,
            "mask_embed": _count_parameters(model.transformer_decoder.mask_embed),
        },
        "class_names": list(model.class_names),
        "palette": model.palette.tolist(),
        "calibration": model.calibration,
        "card": model.card,
        "settings": None if model.settings is None else model.settings.to_dict(),
        "notes": list(model.notes),
    }
    print(json.dumps(facts, indent=2) if options.json else describe_model(facts))
    return 0


def _count_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def models(options: argparse.Namespace) -> int:
    """List architectures and the weights that can be loaded by name."""
    bundled = list_weights(bundled_only=True)
    if options.json:
        weights = [{"name": name, "bundled": name in bundled} for name in list_weights()]
        print(json.dumps({"architectures": model_names(), "weights": weights}, indent=2))
        return 0
    architectures = [
        (name, f"{config.mask_embed} head, {config.masked_attention} masked attention")
        for name in model_names()
        for config in [model_config(name)]
    ]
    title = "architectures (random weights, for create_model and info):"
    print(Table(("", ""), architectures, title, text_columns=2).text())
    title = "weights (for --model, --left, --right):"
    places = [
        (name, "bundled" if name in bundled else "downloaded when used") for name in list_weights()
    ]
    print(Table(("", ""), places, title, text_columns=2).text())
    print("Files (.safetensors, .pth, .ckpt …), folders and Hub repository ids do as well.")
    return 0


def convert(options: argparse.Namespace) -> int:
    """Convert a checkpoint to our safetensors."""
    _require_new_file(options.output, ".safetensors", "a safetensors file", options.force)
    model = load_model(options.model, device="cpu", **_checkpoint_options(options))
    dtype = torch.float16 if options.dtype == "float16" else None
    save_model(model, options.output, dtype=dtype)
    print(f"{options.output} ({options.output.stat().st_size / 1e6:.2f} MB)")
    return 0


def export(options: argparse.Namespace) -> int:
    """Write a model as ONNX and compare it with itself."""
    from mask2kan.checkpoints.formats.onnx import (
        export_onnx,
        largest_onnx_difference,
        require_exportable,
    )

    _require_new_file(options.output, ".onnx", "an ONNX file", options.force)
    require_exportable(options.height, options.width)
    say_stage(f"Loading {options.model} ...")
    model = load_model(options.model, device="cpu", **_checkpoint_options(options))
    say_stage("Tracing and writing it, which takes a minute ...")
    export_onnx(model, options.output, options.height, options.width)
    size = f"{options.output.stat().st_size / 1e6:.2f} MB"
    print(f"{options.output} ({size}, images of {options.width} x {options.height})")
    if find_spec("onnxruntime") is None:
        print("Not checked: onnxruntime is not installed.")
        return 0
    say_stage("Checking it in onnxruntime, beside ours ...")
    for name, difference in largest_onnx_difference(model, options.output).items():
        print(f"  {name}: at most {difference:.2g} from ours in onnxruntime")
    return 0


def _tasks(arguments: Sequence[str], summary_of: Callable[[str], Path]) -> list[Task]:
    images: dict[str, None] = {}
    for argument in arguments:
        found = [argument] if is_url(argument) else map(str, find_images([argument]))
        images.update(dict.fromkeys(found))
    return list(zip(images, unique_stems(list(images), summary_of), strict=True))


def _report_all(outcomes: Iterator[Outcome[Task, Report]], count: int) -> int:
    """Print every image's results or failure; returns the exit status."""
    failed = 0
    hidden = count == 1 or not sys.stderr.isatty()
    for outcome in tqdm(outcomes, total=count, unit="image", disable=hidden):
        path = outcome.item[0]
        if outcome.error is not None:
            failed += 1
            complain(outcome.error, path)
        if outcome.result is not None:
            print_results(path, *outcome.result)
    if failed and count > 1:
        tqdm.write(f"{failed} of {count} images failed.", file=sys.stderr)
    return 1 if failed else 0


def _checkpoint_options(options: argparse.Namespace) -> dict[str, str | None]:
    """Return the options of ``load_model`` that choose among files, revisions and sets."""
    return {name: getattr(options, name) for name in ("file", "revision", "weights")}


def _bundled(family: str) -> str:
    """Return the first bundled model of a family."""
    for name in list_weights(bundled_only=True):
        if name.startswith(family):
            return name
    raise ConfigError(
        f"No {family} weights are bundled here; name a checkpoint (the models command lists some)."
    )


def _require_new_file(path: Path, suffix: str, kind: str, force: bool) -> None:
    if path.suffix != suffix:
        raise ConfigError(
            f"Can't write {str(path)!r}: the result is {kind}; "
            f"give it a name that ends in {suffix}."
        )
    if path.exists() and not force:
        raise ConfigError(f"{str(path)!r} exists; choose another name or add --force.")
