"""torch.compile is refused beforehand where it could not build code."""

import shutil
import sysconfig

import pytest
import torch

from mask2kan.errors import BackendError
from mask2kan.inference.predictor import Predictor
from mask2kan.runtime import compilers
from mask2kan.runtime.compilers import require_compiler
from tests.tiny_models import tiny


@pytest.fixture
def nothing(tmp_path, monkeypatch):
    """An empty folder, the only one programs are looked for in."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CXX", "CC"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_without_a_compiler_nothing_is_begun(nothing):
    model = tiny("mask2kan", "mobilenetv2")
    with pytest.raises(BackendError, match=r"needs a C\+\+ compiler.* CXX") as refused:
        Predictor(model, device="cpu", compile=True)
    assert len(str(refused.value).splitlines()) == 1
    assert Predictor(model, device="cpu").run.kind == "plain"


@pytest.mark.parametrize(("device", "variable"), [("cpu", "CXX"), ("cuda", "CC")])
def test_the_compiler_that_is_named_is_the_one(nothing, monkeypatch, device, variable):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(compilers.Path, "is_file", lambda _: True)  # the headers
    with pytest.raises(BackendError, match=f"'g.*was not found.*{variable}"):
        require_compiler(torch.device(device))
    monkeypatch.setenv(variable, "fast -O2")
    with pytest.raises(BackendError, match="'fast -O2' was not found"):
        require_compiler(torch.device(device))
    compiler = nothing / "fast"
    compiler.write_text("", encoding="utf-8")
    compiler.chmod(0o755)
    require_compiler(torch.device(device))


def test_windows_asks_for_its_own(nothing, monkeypatch):
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(BackendError, match="'cl' was not found; install the C.. build tools"):
        require_compiler(torch.device("cpu"))
    require_compiler(torch.device("cuda"))


@pytest.mark.skipif(shutil.which("g++") is None, reason="this machine has no g++")
def test_python_without_its_headers(tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    require_compiler(torch.device("cpu"))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(tmp_path))
    with pytest.raises(BackendError, match=r"no Python\.h; .*python3-dev"):
        require_compiler(torch.device("cpu"))
