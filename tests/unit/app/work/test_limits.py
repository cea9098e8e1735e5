"""What jobs may take, as the environment says."""

from __future__ import annotations

import pytest

from app.startup import is_public
from app.work.limits import Limits, limits_of_environment
from mask2kan.errors import ConfigError


def test_the_world_gets_less_than_a_laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASK2KAN_PUBLIC", "0")
    assert not is_public()
    assert limits_of_environment() == Limits()
    monkeypatch.setenv("MASK2KAN_PUBLIC", "1")
    assert is_public()
    public = limits_of_environment()
    assert public.job_seconds < Limits().job_seconds
    assert public.decode_bytes < Limits().decode_bytes
    assert public.upload_bytes < Limits().upload_bytes
    monkeypatch.delenv("MASK2KAN_PUBLIC")
    monkeypatch.setenv("SPACE_ID", "someone/mask2kan")
    assert limits_of_environment() == public


def test_variables_set_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASK2KAN_JOB_SECONDS", " 7.5 ")
    monkeypatch.setenv("MASK2KAN_KEEP_SECONDS", "90")
    limits = limits_of_environment()
    assert (limits.job_seconds, limits.keep_seconds) == (7.5, 90)
    assert limits.decode_seconds == Limits().decode_seconds


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf", "1e9"])
def test_anything_else_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASK2KAN_JOB_SECONDS", text)
    with pytest.raises(ConfigError, match="MASK2KAN_JOB_SECONDS is "):
        limits_of_environment()
