"""How much memory a model may take, on machines described by files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mask2kan.runtime import memory

CPU = torch.device("cpu")
GIB = 2**30


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """16 GiB available, no control groups."""
    (tmp_path / "meminfo").write_text("MemTotal: 33554432 kB\nMemAvailable:   16777216 kB\n")
    (tmp_path / "own").write_text("0::/\n")
    (tmp_path / "groups").mkdir()
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "groups")
    return tmp_path


def group(folder: Path, limit: str, used: int, spare: int | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    if spare is not None:
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {spare}\nactive_file 7\n")


def test_without_limits_it_is_what_the_system_calls_available(machine: Path) -> None:
    assert memory.available_memory(CPU) == 16 * GIB
    group(machine / "groups", "max", 3 * GIB)
    assert memory.available_memory(CPU) == 16 * GIB


def test_a_limit_counts_without_files_that_can_be_let_go(machine: Path) -> None:
    group(machine / "groups", str(4 * GIB), 3 * GIB, GIB // 2)
    assert memory.available_memory(CPU) == 4 * GIB - 3 * GIB + GIB // 2
    group(machine / "groups", str(64 * GIB), 3 * GIB)
    assert memory.available_memory(CPU) == 16 * GIB
    group(machine / "groups", str(GIB), 2 * GIB, 0)
    assert memory.available_memory(CPU) == 0


def test_the_tightest_of_the_groups_around_the_process_counts(machine: Path) -> None:
    (machine / "own").write_text("4:memory:/old\n0::/service/app\n")
    group(machine / "groups" / "service" / "app", "max", GIB)
    assert memory.available_memory(CPU) == 16 * GIB
    group(machine / "groups" / "service", str(5 * GIB), GIB)
    assert memory.available_memory(CPU) == 4 * GIB


def test_elsewhere_it_is_unknown(machine: Path) -> None:
    (machine / "meminfo").unlink()
    (machine / "own").unlink()
    assert memory.available_memory(CPU) is None
    assert memory.available_memory(torch.device("meta")) is None


def test_a_gpu_counts_what_torch_holds_in_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 5 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 3 * GIB)
    assert memory.available_memory(torch.device("cuda")) == 12 * GIB
