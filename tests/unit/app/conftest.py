"""What tests of the app share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from app.services import models as service_module
from app.services.service import ModelService


@pytest.fixture(autouse=True, scope="session")
def _uploads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests write counts as uploaded; nothing else on the machine does."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.getbasetemp()))
        yield


@pytest.fixture
def service() -> ModelService:
    return ModelService(device="cpu")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The checkpoints loaded from now on."""
    loaded: list[str] = []
    original = service_module.open_checkpoint

    def counted(source: str, **options: Any) -> Any:
        loaded.append(source)
        return original(source, **options)

    monkeypatch.setattr(service_module, "open_checkpoint", counted)
    return loaded
