"""The list of examples and what it stands for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.files.samples import (
    FOLDER,
    LIST,
    example_files,
    sample,
    sample_pictures,
    samples,
    truth_of,
)
from mask2kan.errors import ConfigError


def written(folder: Path, *entries: dict[str, Any]) -> Path:
    """A folder with a list, a picture per entry, and ground truth for the first."""
    (folder / LIST).write_text(json.dumps({"examples": entries}), encoding="utf-8")
    for entry in entries:
        (folder / f"{entry.get('name')}.webp").touch()
    (folder / f"{entries[0].get('name')}_anomaly.png").touch()
    return folder


def entry(name: str, **changed: Any) -> dict[str, Any]:
    return {"name": name, "title": name.upper(), "scene": "road", "verdict": "found", **changed}


def test_the_bundled_examples_are_the_files_of_their_folder() -> None:
    examples = samples()
    assert len({example.name for example in examples}) == len(examples)
    pictures = {*FOLDER.glob("*.webp")}
    assert {*sample_pictures()} == pictures
    assert example_files() == pictures | {*FOLDER.glob("*.png")}
    for example in examples:
        assert sample(example.name) == example
        assert truth_of(example.path) == example.truth
    assert sample("street") is None


def test_every_bundled_example_has_its_source() -> None:
    sources = (FOLDER / "SOURCES.md").read_text(encoding="utf-8")
    assert all(f"`{example.name}`" in sources for example in samples())


def test_the_first_is_found_and_the_verdicts_are_all_there() -> None:
    verdicts = [example.verdict for example in samples()]
    assert verdicts[0] == "found"
    assert {*verdicts} == {"found", "hard case", "normal", "indoors"}


def test_the_order_is_the_lists(tmp_path: Path) -> None:
    folder = written(tmp_path, entry("zebra"), entry("ant", scene="indoor", verdict="indoors"))
    first, second = samples(folder)
    assert (first.name, second.name) == ("zebra", "ant")
    assert first.truth == folder / "zebra_anomaly.png"
    assert second.truth is None
    assert (second.title, second.scene, second.verdict) == ("ANT", "indoor", "indoors")
    assert sample_pictures(folder) == [folder / "zebra.webp", folder / "ant.webp"]


def test_without_a_list_there_are_none(tmp_path: Path) -> None:
    assert samples(tmp_path) == sample_pictures(tmp_path / "absent") == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"scene": "rode"}, "Unknown scene 'rode'. Nearest: road"),
        ({"verdict": "lost"}, "Unknown verdict 'lost'"),
    ],
)
def test_a_wrong_word_is_refused(tmp_path: Path, changed: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        samples(written(tmp_path, entry("zebra", **changed)))


def test_a_missing_word_or_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no title"):
        samples(written(tmp_path, {"name": "ox", "scene": "road", "verdict": "found"}))
    written(tmp_path, entry("ox"))
    (tmp_path / "ox.webp").unlink()
    with pytest.raises(ConfigError, match=r"no ox\.webp beside it"):
        samples(tmp_path)
