"""Files written whole, or not at all with one clear line, and the JSON in them."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import pytest

from mask2kan.errors import CheckpointError, ConfigError, WriteError
from mask2kan.media.files import (
    NotRegularError,
    append_line,
    atomic_writer,
    cache_folder,
    json_bytes,
    open_regular,
    parse_object,
    read_record,
    remove_abandoned,
    write_bytes,
    write_record,
)


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


def test_a_record_may_hold_what_is_no_json(tmp_path):
    path = write_record(tmp_path / "new" / "record.json", {"loss": math.inf, "words": "±"})
    assert read_record(path) == {"loss": math.inf, "words": "±"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is damaged"),
        (b"\xff\xfe", "is damaged"),
        (b"[1]", "it is not a JSON object"),
        (b'{"a": 1, "a": 2}', "a key occurs twice"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_another_record_is_refused(tmp_path, content, message):
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_record(path)
    with pytest.raises(ConfigError, match=r"Cannot read .*none.json"):
        read_record(tmp_path / "none.json")


def test_foreign_json_is_finite():
    assert parse_object('{"a": 1.5}') == {"a": 1.5}
    with pytest.raises(ValueError, match="NaN is not valid JSON"):
        parse_object('{"a": NaN}')


def test_the_cache_lies_in_the_users_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASK2KAN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == Path("/somewhere/mask2kan")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "mask2kan"
    monkeypatch.setenv("MASK2KAN_CACHE", "~/elsewhere")
    assert cache_folder() == Path.home() / "elsewhere"


def test_a_place_that_takes_no_files_is_not_said_to_be_full(tmp_path):
    (tmp_path / "taken").write_bytes(b"a file where a folder should be")
    with pytest.raises(WriteError, match=r"Can't write .*Choose another folder") as caught:
        write_bytes(tmp_path / "taken" / "a.png", b"x")
    assert "space" not in str(caught.value)


@pytest.mark.skipif(sys.platform == "win32", reason="FIFOs and devices")
@pytest.mark.parametrize("swapped", [False, True])
def test_only_regular_files_are_opened_and_no_writer_is_waited_for(
    swapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    if swapped:  # between a look and the opening
        monkeypatch.setattr(os, "stat", lambda _: os.lstat(tmp_path / "file"))
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"content"
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError) as caught:  # noqa: PT011 - a folder cannot even be opened
            open_regular(path)
        assert isinstance(caught.value, NotRegularError | IsADirectoryError)


@pytest.mark.skipif(sys.platform == "win32", reason="there an open file cannot be removed")
def test_only_what_nobody_writes_any_more_is_removed(tmp_path: Path) -> None:
    with atomic_writer(tmp_path / "a.bin") as file:
        file.write(b"half")
        [living] = tmp_path.iterdir()
        token = living.name.split(".")[-2]
        ours = tmp_path / f".b.bin.{token[:8]}{'0' * 8}.tmp"
        others = tmp_path / f".b.bin.{'f' * 8}{'0' * 8}.tmp"
        older = tmp_path / f".c.bin.{'f' * 8}{'0' * 8}.tmp"
        foreign = tmp_path / ".b.bin.tmp"
        for path in (ours, others, older, foreign):
            path.write_bytes(b"half")
        for path in (older, foreign):
            os.utime(path, (0, 0))
        pipe = tmp_path / f".d.bin.{token[:8]}{'0' * 8}.tmp"
        os.mkfifo(pipe)
        remove_abandoned(tmp_path)
        assert {*tmp_path.iterdir()} == {living, others, foreign, pipe}
    assert (tmp_path / "a.bin").read_bytes() == b"half"


def test_lines_are_added_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.jsonl"
    for line in ("one", "zwei ±"):
        append_line(path, line)
    assert path.read_bytes() == "one\nzwei ±\n".encode()
    with pytest.raises(WriteError, match=r"Can't write .*new: "):
        append_line(tmp_path / "new", "a folder")
