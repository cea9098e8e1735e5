"""A folder that keeps what is finished of a long job, so that a stopped command goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mask2kan.errors import ConfigError
from mask2kan.media.files import read_record, write_record


class JobFolder:
    """Finished pieces of a job, one JSON record each, and the settings they have in common.

    Args:
        path: made when absent.
        settings: ready for JSON; a folder takes no pieces of other ones.
        record: the file that keeps the settings.
        growing: keys of settings that hold entries of which a later start may have others; those
            that both have must be the same.

    Attributes:
        settings: as the folder keeps them.

    Raises:
        ConfigError: when the folder holds pieces of other settings, naming the first that differs.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        *,
        record: str = "plan.json",
        growing: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        if record in self:
            before = self.read(record)
            for key in growing:
                earlier, now = before.get(key, {}), self.settings[key]
                before[key], self.settings[key] = now | earlier, earlier | now
            old, new = dict(_flat(before)), dict(_flat(self.settings))
            for key in new | old:
                was, now = old.get(key, "nothing"), new.get(key, "nothing")
                if was != now:
                    raise ConfigError(
                        f"{path} holds results with {key} = {was}, now it is {now}; repeat the "
                        f"settings of {record}, choose another folder with --out, or delete that "
                        "one."
                    )
        self.write(record, self.settings)

    def __contains__(self, name: str) -> bool:
        """Whether a piece is finished."""
        return (self.path / name).is_file()

    def read(self, name: str) -> dict[str, Any]:
        """A finished piece.

        Raises:
            ConfigError: when its file is damaged.
        """
        return read_record(self.path / name)

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Keep a piece, in one step."""
        write_record(self.path / name, content)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as ``part.field``."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
