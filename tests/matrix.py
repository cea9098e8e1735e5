"""Try the oldest and the newest versions we promise: ``python tests/matrix.py [oldest] [newest]``.

``oldest`` installs exactly the floors of requirements.txt and of the extra ``[training]`` under the
oldest Python that pyproject.toml allows, ``newest`` the newest of everything under Python 3.13.
Each gets an environment of its own (about 6 GB, deleted afterwards), which does everything once:
imports, describes a model, predicts on the command line and in Python, starts the app, asks it, and
trains a step. Where this machine lacks the Python, it is skipped, and says so.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # of a script, Python sees only the folder

from tests.pythons import promised, pythons  # noqa: E402
from tests.serving import serving  # noqa: E402

NEWEST = (3, 13)
WHICH = ("oldest", "newest")
UV = (sys.executable, "-m", "uv")
WANTED = ("-r", "requirements.txt", "-e", ".[training]")
EXAMPLE = "examples/road_sofa.webp"
PREDICT = f"""
import mask2kan, training.train, app.page
prediction = mask2kan.Predictor(mask2kan.load_model("mask2kan_road"))({EXAMPLE!r})
assert prediction.semantic.shape == prediction.anomaly("msp").shape == (512, 1024)
print("Python has a prediction of", len(prediction.class_names), "classes")
"""
ASK = f"""
import sys
from gradio_client import Client, handle_file
client = Client(sys.argv[1], download_files=sys.argv[2], verbose=False)
summary, files = client.predict(handle_file({EXAMPLE!r}), api_name="/segment")
assert summary["model"]["score"] == "msp" and len(files) == 5, (summary, files)
print("the app answered:", ", ".join(summary["model"]))
"""


def floors() -> dict[str, str]:
    """The lower bound of every requirement, by its name."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    training = re.search(r"^training = \[(.*)\]", project, re.MULTILINE).group(1)
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8") + training.replace('"', "\n")
    return dict(re.findall(r"^([\w-]+)>=([\d.]+)", lines, re.MULTILINE))


def run(*command: object) -> str:
    """Run a command in the repository and show it; what it printed."""
    words = [str(word) for word in command]
    print("$", *words, flush=True)
    start = time.monotonic()
    finished = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    print(f"  ({time.monotonic() - start:.0f} s)", flush=True)
    if finished.returncode:
        raise SystemExit(f"{finished.stdout}{finished.stderr}\nfailed with {finished.returncode}")
    return finished.stdout


def install(folder: Path, interpreter: str, *, oldest: bool) -> Path:
    """Make an environment with our requirements; its interpreter."""
    run(*UV, "venv", "--clear", "--python", interpreter, folder)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    choice = ("--resolution", "lowest-direct" if oldest else "highest")
    run(*UV, "pip", "install", "--python", python, *choice, *WANTED)
    frozen = run(*UV, "pip", "freeze", "--python", python)
    installed = dict(line.split("==") for line in frozen.lower().split() if "==" in line)
    for name, floor in floors().items():
        # The floor may be the beginning of a version: 4.10 is met by 4.10.0.82.
        if oldest and not f"{installed[name]}.".startswith(f"{floor}."):
            raise SystemExit(f"{name} {installed[name]} was installed, not {floor}")
        print(f"  {name} {installed[name]}")
    return python


def use(python: Path, folder: Path) -> None:
    """Do everything once."""
    print(run(python, "-m", "mask2kan", "info", "mask2kan_road")[:500])
    print(run(python, "-m", "mask2kan", "predict", EXAMPLE, "--out", folder / "results"))
    print(run(python, "-c", PREDICT))
    with serving(folder, python=str(python)) as app:
        print(run(python, "-c", ASK, app.url, folder / "downloads"))
    steps = ("--data", "synthetic", "--steps", 1, "--out", folder / "run")
    print(run(python, "-m", "training.train", "camvid_kan", *steps)[-500:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", nargs="*", metavar="oldest|newest", help="default: both")
    parser.add_argument("--folder", type=Path, help="for environments (default: a temporary one)")
    options = parser.parse_args()
    if unknown := set(options.which) - set(WHICH):
        parser.error(f"it is {' or '.join(WHICH)}, not {', '.join(unknown)}")
    here = pythons(upto=NEWEST)
    for which in options.which or WHICH:
        version = promised() if which == "oldest" else NEWEST
        name = ".".join(map(str, version))
        if version not in here:
            print(f"SKIPPED: the {which} versions, since this machine has no Python {name}.")
            continue
        start = time.monotonic()
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            python = install(Path(folder) / "venv", here[version], oldest=which == "oldest")
            use(python, Path(folder))
        seconds = time.monotonic() - start
        print(f"The {which} versions work under Python {name} ({seconds:.0f} s).", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
