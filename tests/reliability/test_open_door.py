"""No request makes the server open a path of its machine.

The app's own configuration tells which endpoints and events there are and what each takes. Every
one of them is sent paths of files that exist, as picture, as ground truth, as one of a batch's
files, as event, and as model. The app runs in a process that writes down what it opens and may take
a limited address space only: unguarded code reads /dev/zero until the machine has no memory left.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from mask2kan.checkpoints import save_model
from tests.reliability.mutations import Mutation
from tests.serving import EXAMPLE, serving, tiny_models
from tests.tiny_models import tiny
from tests.visitors import Visitor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="FIFOs, links and limits of Linux")

CANARY = "mask2kan_canary"  # in the name of everything that must stay closed
ADDRESS_SPACE = 12 * 2**30
VISITORS = 6
WATCHED = f"""
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_AS, ({ADDRESS_SPACE}, {ADDRESS_SPACE}))
sys.argv = ["app.py"]
sys.path.insert(0, "")
runpy.run_path("app.py", run_name="__main__")
"""
INSIDE = Path(__file__).with_name("inside")
# With Gradio's mark its own check comes first; ours has to hold where that lets something pass.
MARKED = ("a file", "a pipe among the uploads", "a link among the uploads")
# What takes a model's name without looking at any: lists, and choices handed on to where it counts.
HANDED_ON = {"listing", "listing_1", "end_1", "fail"}

MUTATIONS = [
    Mutation(
        "a picture comes from the uploads or the examples",
        "test_every_event",
        "app.files.uploads",
        "_absolute(path), _absolute(str(upload_folder()))",
        'Path(path), Path("/")',
    ),
    Mutation(
        "a link among the uploads leads nowhere else",
        "test_every_event",
        "app.files.uploads",
        "allowed = absolute in examples or _inside(real, folder.resolve())",
        "allowed = True",
    ),
    Mutation(
        "only regular files are opened",
        "test_every_event",
        "app.files.uploads",
        "if allowed and stat.S_ISREG(real.stat().st_mode):",
        "if allowed:",
    ),
    Mutation(
        "a visitor's text is no path of a model",
        "test_every_event",
        "app.services.catalog",
        "if name in self.offered or (self.typed_paths and _exists(name)):",
        "if name in self.offered or _exists(name):",
    ),
    Mutation(
        "a refusal does not tell which files there are",
        "test_whether_a_file_exists",
        "app.files.uploads",
        "    raise ImageError(_NOT_HERE)\n\n\ndef name_of",
        "    raise ImageError(_NOT_HERE if Path(path).exists() else path)\n\n\ndef name_of",
    ),
    Mutation(
        "nothing passes by the queue",
        "test_nothing_passes",
        "app.page",
        "api_open=False",
        "api_open=True",
    ),
    Mutation(
        "what Gradio refuses is refused in a sentence",
        "test_any_value",
        "app.page",
        'raise gr.Error(PAGE["not_taken"], duration=20, print_exception=False) from error',
        "raise",
    ),
]


class Door(NamedTuple):
    """The app, its visitor, and what must stay closed."""

    visitor: Visitor
    opened: Path
    closed: dict[str, dict[str, str]]  # by role, by form

    def was_opened(self) -> str:
        return self.opened.read_text(encoding="utf-8")


def _forms(path: Path, upload_folder: Path) -> dict[str, str]:
    """Ways to name a file, and things that are no files."""
    pipe, link = (upload_folder / f"{CANARY}_{kind}{path.suffix}" for kind in ("pipe", "link"))
    for special in (pipe, link):
        special.unlink(missing_ok=True)
    os.mkfifo(pipe)
    link.symlink_to(path)
    return {
        "a file": str(path),
        "absent": str(path.with_stem(f"{CANARY}_absent")),
        "a folder": str(path.parent),
        "a pipe among the uploads": str(pipe),
        "a link among the uploads": str(link),
        "a device": "/dev/zero",
        "out of the uploads": f"{upload_folder}/x/../../{path.parent.name}/{path.name}",
        "file:": path.as_uri(),
        "UNC": f"//localhost{path}",
        "UNC of Windows": rf"\\localhost\share\{path.name}",
        "with NUL": f"{path}\0.png",
    }


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("app")
    outside = folder / f"{CANARY}_folder"
    outside.mkdir()
    image, truth, model = (
        outside / f"{CANARY}{suffix}" for suffix in ("_picture.png", "_truth.png", ".safetensors")
    )
    Image.open(EXAMPLE).save(image)
    Image.fromarray(np.zeros((512, 1024), np.uint8)).save(truth)
    save_model(tiny("mask2kan", num_classes=11, num_decoder_layers=1), model)
    opened = folder / "opened.txt"
    opened.touch()
    with serving(
        folder,
        tiny_models(folder),
        command=("-c", WATCHED),
        MASK2KAN_PUBLIC="1",
        MASK2KAN_DECODE_SECONDS="6",
        PYTHONPATH=os.pathsep.join((str(INSIDE), os.environ.get("PYTHONPATH", ""))),
        RELIABILITY_WATCH=str(opened),
        RELIABILITY_CANARY=CANARY,
    ) as app:
        visitor = Visitor(app.url)
        files = {"picture": image, "truth": truth, "file": image, "model": model}
        closed = {role: _forms(path, visitor.upload_folder) for role, path in files.items()}
        yield Door(visitor, opened, closed)


def _payloads(role: str, form: str, path: str) -> Iterator[tuple[str, Any]]:
    """A path as this kind of input takes one: as text, as a file with and without its mark."""
    if role == "model":
        yield "as text", path
        return
    plain = {"path": path, "orig_name": "x.png"}
    marked = {**plain, "meta": {"_type": "gradio.FileData"}}
    yield "plain", [plain] if role == "file" else plain
    if form in MARKED:
        yield "marked", [marked] if role == "file" else marked
        yield "as text", path


def _attacks(door: Door, event: dict[str, Any]) -> Iterator[tuple[str, str, list[Any]]]:
    """All ways to put a closed path into what an event takes: role, words, the event's data."""
    usual = door.visitor.usual(event)
    for place, number in enumerate(event["inputs"]):
        role = door.visitor.role(number)
        for form, path in door.closed.get(role or "", {}).items():
            for how, payload in _payloads(str(role), form, path):
                data = [*usual[:place], payload, *usual[place + 1 :]]
                yield str(role), f"{event['api_name']}, input {place}: {form}, {how}", data


def _is_a_sentence(error: str | None) -> bool:
    return bool(error) and "\n" not in str(error) and str(error).rstrip().endswith((".", "?"))


def _faults(door: Door, event: dict[str, Any]) -> list[str]:
    """What an event does with closed paths other than to refuse them in a sentence."""
    visitor, faults = door.visitor.another(), []
    begin = visitor.event("begin")
    for role, words, data in _attacks(door, event):
        if event["api_name"] == "run":  # goes on with the batch that was begun
            visitor.ask(begin, visitor.usual(begin))
        answer = visitor.ask(event, data, visitor.said(event))
        silent = role == "model" and event["api_name"] in HANDED_ON
        if not (silent or _is_a_sentence(answer.refusal)):
            faults.append(f"{words}: {answer.refusal!r}, {str(answer.data)[:80]}")
    return faults


@pytest.mark.row("paths of the server", limit="0 opened, one sentence, the next visitor served")
def test_every_event_refuses_every_path(door: Door, figure: Callable[[str], None]) -> None:
    with ThreadPoolExecutor(VISITORS) as several:
        faults = several.map(functools.partial(_faults, door), door.visitor.events)
        assert not list(itertools.chain(*faults))
    opened = door.was_opened()
    attacks = [role for event in door.visitor.events for role, *_ in _attacks(door, event)]
    figure(
        f"{len(attacks)} tried on {len(door.visitor.events)} events, {opened.count('open')} opened"
    )
    assert not opened
    assert set(attacks) == set(door.closed)


def test_what_a_component_says_of_a_file_is_not_believed(door: Door) -> None:
    """Events with data of their own: whatever is named there, nothing is opened for it."""
    visitor = door.visitor
    paths = door.closed["picture"]
    for event in visitor.events:
        usual = visitor.said(event)
        ours = usual or "picture_chosen" in {target[1] for target in event["targets"]}
        for path in paths.values() if ours else [paths["a file"]]:
            foreign = {"path": path, "name": path, "source": path, "number": path, "run": path}
            keys = ("example", "truth") if usual else ()
            for said in (foreign, *({**(usual or {}), key: path} for key in keys)):
                answer = visitor.ask(event, visitor.usual(event), said)
                assert not ours or _is_a_sentence(answer.refusal), (event["api_name"], said)
    functions = [
        (number, name)
        for number, component in visitor.components.items()
        for name in component["props"].get("server_fns") or ()
    ]
    assert len(functions) == 5
    for (number, name), path in itertools.product(functions, paths.values()):
        said = {"run": path, "path": path, "picture": {"path": path}, "x": 1, "y": 1}
        assert _is_a_sentence(visitor.call_server(number, name, said).error), name
    assert not door.was_opened()


def test_a_link_names_no_path(door: Door) -> None:
    visitor = door.visitor
    event = visitor.event("linked")
    for path in door.closed["model"].values():
        *pickers, told = visitor.ask(event, [], left=path, right=path).data
        assert len(told["linked"]) == 2, path
        assert all(map(_is_a_sentence, told["linked"])), path
        assert path not in map(str, pickers)
    assert not door.was_opened()


@pytest.mark.parametrize(
    "value",
    [
        *(pytest.param(value, id=repr(value)[:12]) for value in (5, "\ud800", {"path": 3})),
        *(
            pytest.param(value, id=repr(value)[:12], marks=pytest.mark.slow)
            for value in (1.5, True, [], ["x"], {"a": []}, 10**400)
        ),
    ],
)
def test_any_value_anywhere_is_refused_in_a_sentence(door: Door, value: Any) -> None:
    """Nothing in a request makes the app answer without words, or that the fault is its own."""
    visitor, faults = door.visitor.another(), []
    for event in visitor.events:
        usual = visitor.usual(event)
        for place in range(len(usual)):
            answer = visitor.ask(event, [*usual[:place], value, *usual[place + 1 :]])
            mute = answer.error is not None and not answer.error
            if mute or "Something went wrong" in str(answer.error):
                faults.append((event["api_name"], place, str(answer.error)[:200]))
    assert not faults


def test_whether_a_file_exists_is_not_told(door: Door) -> None:
    """The same words for a file and for none; only what was said comes back."""
    visitor = door.visitor
    for name, role in (("segment", "picture"), ("export", "truth"), ("segment", "model")):
        event = visitor.event(name)
        [*_, place] = (i for i, n in enumerate(event["inputs"]) if visitor.role(n) == role)
        told = set()
        for form in ("a file", "absent", "a folder"):
            path = door.closed[role][form]
            data = visitor.usual(event)
            data[place] = path if role == "model" else {"path": path}
            error = visitor.ask(event, data).error
            told.add(re.sub(r" Nearest: .*", "", str(error).replace(path, "…")))  # goes by the text
        assert len(told) == 1, told
    # Two parts that read like a repository, and are a folder here or nothing.
    event = visitor.event("segment")
    told = set()
    for source in ("mask2kan/ops", "mask2kan/xyz"):
        data = visitor.usual(event)
        data[1] = source
        told.add(str(visitor.ask(event, data).error).replace(source, "…"))
    assert len(told) == 1, told
    assert re.search("Hub|not on this server", told.pop())


def test_nothing_passes_by_the_queue(door: Door) -> None:
    visitor = door.visitor
    for event in visitor.events:
        for address in ("run", "api") if event["queue"] else ():
            place = f"/gradio_api/{address}/{event['api_name']}"
            assert visitor.post(place, visitor.usual(event)) == 404, place
    for path in door.closed["picture"].values():
        if "\0" not in path and Path(path).is_file():
            assert visitor.get(f"/gradio_api/file={path}") in (403, 404), path
    assert not door.was_opened()


def test_the_next_visitor_is_served(door: Door) -> None:
    visitor = door.visitor
    event = visitor.event("segment")
    answer = visitor.ask(event, visitor.usual(event))
    assert answer.error is None
    summary, files = answer.data
    assert summary["model"]["score"] == "msp"
    assert len(files) == 5
