"""A folder of a long job's finished pieces, so that a stopped command continues."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mask2kan.errors import ConfigError
from mask2kan.media.files import read_record, write_record


class JobFolder:
    """Finished pieces of a job, one JSON record each, and their common settings.

    Args:
        path: made when absent.
        settings: ready for JSON.
        record: the file of the settings.
        growing: keys of settings whose entries may differ between starts; common ones must agree.

    Raises:
        ConfigError: when the folder has other settings, naming the first that differs.
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
            for key in growing:  # old and new entries stay on record; only common ones must agree
                earlier, now = before.get(key, {}), self.settings[key]
                before[key], self.settings[key] = now | earlier, earlier | now
            old, new = dict(flat(before)), dict(flat(self.settings))
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
        return (self.path / name).is_file()

    def read(self, name: str) -> dict[str, Any]:
        """Read a finished piece.

        Raises:
            ConfigError: when its file is damaged.
        """
        return read_record(self.path / name)

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Write a piece, in one step."""
        write_record(self.path / name, content)


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested settings as ``part.field``."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
