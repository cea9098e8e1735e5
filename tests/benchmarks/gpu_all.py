"""Everything that needs a card, in one call of under eight minutes.

    PYTHONPATH=. python tests/benchmarks/gpu_all.py
    PYTHONPATH=. python tests/benchmarks/gpu_all.py --original path/to/Mask2Former/.../ops
    PYTHONPATH=. python tests/benchmarks/gpu_all.py --rehearse     # this script, without a card

Sections, each left out where time has run out: the tests marked gpu; the attention kernels on 200
random shapes against float64; their times at the encoder's shapes against the grid-sample form and,
where their sources are given, the original's kernels; compute-sanitizer over small cases; the whole
model and a training step against transformers with the same weights, both under autocast to the
same type; and how far bfloat16 moves the bundled models. Results are printed and written to
tests/benchmarks/results/gpu_<name>.json, section by section.

Times are the card's own (events), the median over rounds in which the sides run by turns on inputs
that change from call to call; of the model and the training step, wall-clock time with the card
idle before and after. The ceiling of the kernels is the rate of a large copy; their floor is every
tensor read or written once.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import measure
import torch
from card import Setting
from gpu_kernels import HEAD_SIZE, correctness, kernels, sanitized, sanitizer
from gpu_models import models, rounding, training_step

from mask2kan.ops import cuda

BUDGET_MINUTES = 8.0
# By itself: collecting the others needs packages that a machine with a card may lack.
GPU_TESTS = "tests/unit/mask2kan/test_gpu.py"


def gpu_tests(setting: Setting) -> list[measure.Row]:
    """What ``pytest -m gpu`` says."""
    if setting.rehearsal:
        return [{"tests": "pytest -m gpu", "result": "needs a card"}]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", GPU_TESTS]
    done = subprocess.run(
        command, cwd=measure.REPOSITORY, capture_output=True, text=True, check=False, timeout=240
    )
    print(done.stdout[-3000:])
    return [{"tests": "pytest -m gpu", "result": done.stdout.strip().splitlines()[-1]}]


SECTIONS: dict[str, Callable[[Setting], list[measure.Row]]] = {
    "tests": gpu_tests,
    "correctness": correctness,
    "kernels": kernels,
    "models": models,
    "training": training_step,
    "rounding": rounding,
    "sanitizer": sanitizer,
}


def about_card(setting: Setting) -> dict[str, object]:
    """What a reader of the figures has to know of the run."""
    facts = measure.about(torch.get_num_threads())
    if setting.device.type == "cuda":
        facts["card"] = torch.cuda.get_device_name()
        facts["cuda"] = torch.version.cuda
        start = time.perf_counter()
        cuda.prepare(torch.device("cuda", 0), torch.bfloat16, HEAD_SIZE)
        facts["kernels compiled or read in s"] = time.perf_counter() - start
    return facts


def main() -> None:
    """Run the sections, print and write what they found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--original", type=Path, help="folder of the original op's sources")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--compile", action="store_true", help="also torch.compile: minutes more")
    parser.add_argument("--minutes", type=float, default=BUDGET_MINUTES, help="default %(default)s")
    parser.add_argument(
        "--json", type=Path, help="default tests/benchmarks/results/gpu_<name>.json"
    )
    parser.add_argument("--rehearse", action="store_true", help="on the processor, at toy sizes")
    parser.add_argument("--sanitized", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.rehearse and not torch.cuda.is_available():
        raise SystemExit("No CUDA GPU was found; --rehearse runs this script without one.")
    if arguments.sanitized:
        sanitized()
        return
    setting = Setting(arguments)
    facts = about_card(setting)
    measure.show([], facts)
    card = re.sub(r"\W+", "_", str(facts.get("card", "rehearsal"))).lower()
    path = arguments.json or measure.REPOSITORY / f"tests/benchmarks/results/gpu_{card}.json"
    tables: dict[str, list[measure.Row]] = {}
    failed = []
    for name in arguments.sections:
        if setting.seconds_left() < 15:
            tables[name] = [{"left out": "time ran out"}]
            failed.append(name)
            continue
        start = time.monotonic()
        try:
            tables[name] = SECTIONS[name](setting)
        except Exception as error:  # one section's fault must not cost the others' results
            traceback.print_exc()
            tables[name] = [{"error": f"{type(error).__name__}: {error}"}]
            failed.append(name)
        print(f"{name}: {time.monotonic() - start:.0f} s")
        measure.show(tables[name])
        if not setting.rehearsal:
            measure.write(tables, facts, path)
    if failed:
        raise SystemExit(f"Without a result: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
