"""Files written whole, or not at all with one clear line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mask2kan.errors import CheckpointError, WriteError
from mask2kan.media.files import json_bytes, write_bytes


@pytest.mark.parametrize("name", ["table.csv", "image.png"])
def test_a_full_disk_is_no_fault_of_a_checkpoint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_bytes(tmp_path / name, b"before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=rf"Can't write .*{name}: No space left.*Free some space"):
        write_bytes(path, b"after")
    assert not issubclass(WriteError, CheckpointError)
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == [name]  # noqa: PTH208


def test_json_is_finite_unless_said_otherwise() -> None:
    assert json_bytes({"a": 1}) == b'{\n  "a": 1\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        json_bytes(float("nan"))
    assert json_bytes(float("nan"), allow_nan=True) == b"NaN\n"
