"""Try the oldest versions we promise: ``python tests/floors.py [--python 3.10] [--folder …]``.

Installs exactly the floors of requirements.txt and of the extra ``[training]`` into an environment
of their own (a few minutes, 6 GB), under the oldest Python here that pyproject.toml allows, then
does everything once: lists models, predicts, starts the app and asks it, trains two steps.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # of a script, Python sees only the folder

from tests.pythons import pythons  # noqa: E402
from tests.serving import serving  # noqa: E402

EXAMPLE = "examples/road_sofa.webp"
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
    finished = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise SystemExit(f"{finished.stdout}{finished.stderr}\nfailed with {finished.returncode}")
    return finished.stdout


def install(folder: Path, version: str) -> Path:
    """An environment with the floors; its interpreter."""
    uv = (sys.executable, "-m", "uv")
    run(*uv, "venv", "--clear", "--python", version, folder)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = ("-r", "requirements.txt", "-e", ".[training]")
    run(*uv, "pip", "install", "--python", python, "--resolution", "lowest-direct", *wanted)
    frozen = run(*uv, "pip", "freeze", "--python", python)
    installed = dict(line.split("==") for line in frozen.lower().split() if "==" in line)
    for name, floor in floors().items():
        # The floor may be the beginning of a version: 4.10 is met by 4.10.0.82.
        if not f"{installed[name]}.".startswith(f"{floor}."):
            raise SystemExit(f"{name} {installed[name]} was installed, not {floor}")
        print(f"  {name} {installed[name]}")
    return python


def main() -> int:
    here = pythons()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=here[min(here)])
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "floors")
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    python = install(folder / "venv", options.python)
    print(run(python, "-m", "mask2kan", "models"))
    print(run(python, "-m", "mask2kan", "predict", EXAMPLE, "--out", folder / "results"))
    with serving(folder, python=str(python)) as app:
        print(run(python, "-c", ASK, app.url, folder / "downloads"))
    steps = ("--data", "synthetic", "--steps", 2, "--out", folder / "run")
    print(run(python, "-m", "training.train", "camvid_kan", *steps)[-500:])
    print("The oldest versions work.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
