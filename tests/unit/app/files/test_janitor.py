"""What is swept out of the folder of uploads, and what stays."""

from __future__ import annotations

import os
import time
from pathlib import Path

from app.files.janitor import UNFINISHED_KEPT, YOUNGEST_TAKEN, Janitor

LONGEST_KEPT = 5000.0


def _file(path: Path, age: float, size: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    moment = time.time() - age
    os.utime(path, (moment, moment))
    os.utime(path.parent, (moment, moment))
    return path


def test_the_old_goes_and_the_young_stays(tmp_path: Path) -> None:
    old = _file(tmp_path / "a" / "old.png", LONGEST_KEPT + 60)
    young = _file(tmp_path / "b" / "young.png", 60)
    half = _file(tmp_path / "c" / "half.png", LONGEST_KEPT / 2)
    told: set[str] = set()
    assert Janitor(tmp_path, 10**9, LONGEST_KEPT, told.update).sweep() == told == {str(old)}
    assert young.exists()
    assert half.exists()
    assert not list(tmp_path.glob("a/*"))


def test_uploads_that_broke_off_go_sooner(tmp_path: Path) -> None:
    left = _file(tmp_path / "tmpabc123", UNFINISHED_KEPT + 60)
    under_way = _file(tmp_path / "tmpdef456", UNFINISHED_KEPT / 2)
    named = _file(tmp_path / "x" / "tmp.png", UNFINISHED_KEPT + 60)
    assert Janitor(tmp_path, 10**9, LONGEST_KEPT).sweep() == {str(left)}
    assert under_way.exists()
    assert named.exists()


def test_beyond_the_limit_the_oldest_go_but_nothing_just_written(tmp_path: Path) -> None:
    ages = [YOUNGEST_TAKEN / 2, YOUNGEST_TAKEN + 10, YOUNGEST_TAKEN + 20, YOUNGEST_TAKEN + 30]
    files = [_file(tmp_path / str(n) / "x", age, 100_000) for n, age in enumerate(ages)]
    assert Janitor(tmp_path, 250_000, LONGEST_KEPT).sweep() == {str(files[3]), str(files[2])}
    assert Janitor(tmp_path, 0, LONGEST_KEPT).sweep() == {str(files[1])}
    assert files[0].exists()


def test_many_small_files_count_for_more_than_their_bytes(tmp_path: Path) -> None:
    ages = [YOUNGEST_TAKEN + 10 + n for n in range(100)]
    files = [_file(tmp_path / str(n) / "x", age, 1) for n, age in enumerate(ages)]
    removed = Janitor(tmp_path, 4_000_000, LONGEST_KEPT).sweep()
    assert removed == {str(path) for path in files[61:]}  # a disk takes only so many files, too


def test_empty_folders_go_and_links_are_not_followed(tmp_path: Path) -> None:
    outside = _file(tmp_path / "outside" / "x", LONGEST_KEPT + 60)
    folder = tmp_path / "uploads"
    folder.mkdir()
    (folder / "link").symlink_to(outside.parent)
    _file(folder / "old" / "x", LONGEST_KEPT + 60)
    janitor = Janitor(folder, 10**9, LONGEST_KEPT)
    janitor.sweep()
    os.utime(folder / "old", (0, 0))
    janitor.sweep()
    assert outside.exists()
    assert folder.exists()
    assert not (folder / "old").exists()
