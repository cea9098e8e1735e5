"""The folder a stopped command goes on from: what it keeps, and what it refuses."""

from __future__ import annotations

import json

import pytest

from mask2kan.errors import ConfigError
from training.evaluation.job_folder import JobFolder

SETTINGS = {"data": {"name": "camvid", "sizes": (3, 4)}, "steps": 10}


def test_pieces_are_kept_and_found_again(tmp_path):
    folder = JobFolder(tmp_path / "new", SETTINGS)
    assert "runs/a.json" not in folder
    folder.write("runs/a.json", {"miou": 0.5})
    again = JobFolder(tmp_path / "new", SETTINGS)
    assert "runs/a.json" in again
    assert again.read("runs/a.json") == {"miou": 0.5}
    assert again.settings == json.loads(json.dumps(SETTINGS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 11}, "holds results with steps = 10, now it is 11; repeat .*plan.json"),
        ({"data": {"name": "camvid", "sizes": [3, 5]}}, r"data\.sizes = \[3, 4\]"),
        ({"data": {"name": "camvid"}}, "now it is nothing"),
        ({"more": 1}, "more = nothing, now it is 1"),
    ],
)
def test_other_settings_are_refused_and_change_nothing(tmp_path, change, message):
    JobFolder(tmp_path, SETTINGS)
    before = (tmp_path / "plan.json").read_text()
    with pytest.raises(ConfigError, match=message):
        JobFolder(tmp_path, {**SETTINGS, **change})
    assert (tmp_path / "plan.json").read_text() == before


def test_a_growing_key_takes_entries_but_no_other_value(tmp_path):
    JobFolder(tmp_path, {"sets": {"a": 1}}, growing=["sets"])
    JobFolder(tmp_path, {"sets": {"b": 2}}, growing=["sets"])
    assert json.loads((tmp_path / "plan.json").read_text()) == {"sets": {"a": 1, "b": 2}}
    with pytest.raises(ConfigError, match=r"sets\.a = 1, now it is 3"):
        JobFolder(tmp_path, {"sets": {"a": 3}}, growing=["sets"])


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ConfigError, match="settings.json is damaged"):
        JobFolder(tmp_path, SETTINGS, record="settings.json")
