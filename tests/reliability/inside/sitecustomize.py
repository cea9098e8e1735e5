"""Watch, or change, what a process does from its start: also those that the app starts itself.

Python imports this by itself in every process that inherits PYTHONPATH. RELIABILITY_MUTATION
replaces a piece of a module's source as it is imported (see ``tests/reliability/mutations.py``);
RELIABILITY_WATCH names a file to which every opening of a path with RELIABILITY_CANARY in it, or of
/dev/zero, is written.
"""

import importlib.abc
import importlib.machinery
import json
import os
import sys
from pathlib import Path


class _Mutated(importlib.machinery.SourceFileLoader):
    """Loads a module with one piece of its source replaced, past any compiled file."""

    def get_code(self, fullname):
        source = Path(self.path).read_text(encoding="utf-8")
        old, new = _MUTATION["old"], _MUTATION["new"]
        if source.count(old) != 1:
            print(f"{fullname} has {source.count(old)} times {old!r}", file=sys.stderr, flush=True)
            os._exit(70)
        return compile(source.replace(old, new), self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname != _MUTATION["module"]:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None:
            spec.loader = _Mutated(spec.loader.name, spec.loader.path)
        return spec


_MUTATION = json.loads(os.environ.get("RELIABILITY_MUTATION", "null"))
if _MUTATION:
    sys.meta_path.insert(0, _Finder())


def _watch(event, arguments):
    if event in ("open", "os.listdir", "os.scandir"):
        path = str(arguments[0])
        if _CANARY in path or path == "/dev/zero":
            print(event, path, file=_LOG)


if os.environ.get("RELIABILITY_WATCH"):
    _CANARY = os.environ["RELIABILITY_CANARY"]
    _LOG = Path(os.environ["RELIABILITY_WATCH"]).open("a", buffering=1)  # noqa: SIM115 - for life
    sys.addaudithook(_watch)
