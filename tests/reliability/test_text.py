"""Text from strangers: names and cells that do nothing but be read."""

from __future__ import annotations

import csv
import gc
import io
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.files.uploads import name_of, safe_stem
from app.services.batch_rows import BatchRow, write_csv
from app.services.cards import hub_card, licence_in, rendered
from mask2kan.checkpoints.manifest import WEIGHTS
from mask2kan.errors import ImageError, shortened
from mask2kan.media.images import read_image
from mask2kan.outputs.names import stem_of
from tests.reliability.mutations import Mutation, turned_off

PIECES = (
    *("=1+1", "+", "-", "@SUM(A1)", "\t", "\r", "\n", "\r\n", "'", '"', ",", ";", "|", " "),
    *("\0", "\x1b[2J", "\x7f", "\x9b", "\u202e", "\u2066", "\u200f", "\u2028", "\ufeff"),
    *("\ud800", "\U000e0041", "../", "..\\", "/", ":", "*", "?", "<img onerror=x>", "%00", "…"),
    *("CON", "nul", "COM1", "LPT9", "AUX .", ". ", "...", ".png", ".svg"),
    *("road", "улица", "道路", "שלום", "🚗", "é"),
)
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d) *(\.|$)", re.IGNORECASE)
INVISIBLE = re.compile(
    "[\0-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)


def _faults(name: str, folder: Path) -> list[str]:
    """What is wrong with what becomes of a name."""
    stems = {"safe_stem": safe_stem(name), "stem_of": stem_of(name)}
    shown = {**stems, "name_of": name_of({"orig_name": name}), "shortened": shortened(name)}
    try:
        read_image(folder / name)
    except ImageError as error:
        shown["message"] = str(error)
    faults = [f"{way} shows {text!r}" for way, text in shown.items() if INVISIBLE.search(text)]
    faults += [f"{way} is {len(text)} long" for way, text in shown.items() if len(text) > 400]
    for way, stem in stems.items():
        if RESERVED.match(stem) or stem[-1:] in ("", ".", " ") or "/" in stem:
            faults.append(f"{way} is {stem!r}")
        elif len(f"{stem}_comparison.png".encode()) > 255:
            faults.append(f"{way} has {len(stem.encode())} bytes")
    written = write_csv([BatchRow(1, shown["name_of"], error=name_of({"path": name}))])
    [cells] = csv.DictReader(io.StringIO(written.decode()))
    run = [cell for cell in cells.values() if cell.lstrip().startswith(("=", "+", "-", "@"))]
    faults += [f"a cell is {cell!r}" for cell in run]
    return faults


@pytest.mark.row("text from strangers", limit="no terminal, file system or spreadsheet minds")
def test_names(
    tmp_path: Path,
    scale: Callable[[int, int], int],
    seed: int,
    figure: Callable[[str], None],
    save_failure: Callable[[str, bytes], Path],
) -> None:
    chance, count = random.Random(seed), scale(500, 20_000)
    names = [*PIECES, *(piece * 3_000 for piece in ("x", "道", "=", "\u202e"))]
    while len(names) < count:
        names.append("".join(chance.choices(PIECES, k=chance.randint(1, 8))))
    faults = {name: told for name in names if (told := _faults(name, tmp_path))}
    for number, name in enumerate(faults):
        save_failure(str(number), name.encode(errors="surrogatepass"))
    figure(f"{len(faults)} of {count:,} names")
    assert not faults


def _card_of(*pieces: str) -> str:
    """A card as long as any that is read: the last piece is repeated."""
    return ("".join(pieces) + pieces[-1] * 50_000)[:50_000]


@pytest.mark.row("a card that takes long to read", limit="< 8 times an ordinary one's time")
def test_cards_cost_little(figure: Callable[[str], None]) -> None:
    def once(card: str) -> float:
        licence_in.cache_clear()
        rendered.cache_clear()
        start = time.thread_time()
        licence_in(card)
        assert "as its authors wrote it" in hub_card("someone/tiny", card)
        return time.thread_time() - start

    def seconds(card: str) -> float:
        gc.collect()  # or it may begin in between, over all that other tests have left
        return min(once(card) for _ in range(3))

    hub_card("someone/tiny", "[what](is) imported *at* first use")
    ordinary = seconds(_card_of((WEIGHTS / "mask2kan_road.md").read_text(encoding="utf-8")))
    row = "|a" * 100 + "|\n" + "|-" * 100 + "|\n"
    hostile = {
        "lines at the beginning": "---" + "\n" * 49_000 + "x",
        "addresses": _card_of("http://a."),
        "a wide table": _card_of(row, "|\n"),
        "a wide table, with other ends of lines": _card_of(row, "|\n").replace("\n", "\r"),
    }
    spent = {name: seconds(card) / ordinary for name, card in hostile.items()}
    figure(", ".join(f"{name} {times:.1f}" for name, times in spent.items()))
    assert max(spent.values()) < 8, spent


MUTATIONS = [
    Mutation(
        "blanks before a card's front matter",
        "test_cards_cost_little",
        "app.services.cards",
        r'r"\A---[ \t\r]*\n(.*?)',
        r'r"\A---\s*\n(.*?)',
    ),
    Mutation(
        "addresses in long words of a card",
        "test_cards_cost_little",
        "app.services.cards",
        '"linkify": not has_long_words',
        '"linkify": True',
    ),
    turned_off(
        "wide tables of a card", "app.services.cards", "has_wide_tables:", "test_cards_cost_little"
    ),
    Mutation(
        "ends of lines of a card",
        "test_cards_cost_little",
        "app.services.cards",
        'markdown = _LINE_ENDS.sub("\\n", markdown)',
        "pass",
    ),
    Mutation(
        "cells that spreadsheets run are text",
        "test_names",
        "app.services.batch_rows",
        """f"'{value}" if runs else value""",
        "value",
    ),
    Mutation(
        "names are printable",
        "test_names",
        "mask2kan.errors",
        'return _UNPRINTABLE.sub("", text)',
        "return text",
    ),
    Mutation(
        "messages are short",
        "test_names",
        "mask2kan.errors",
        "if len(text) <= 120 else",
        "if True else",
    ),
    Mutation(
        "no file is named as a device",
        "test_names",
        "mask2kan.outputs.names",
        "if _RESERVED.match(fit) else fit",
        "if False else fit",
    ),
    Mutation(
        "stems are of bounded length", "test_names", "mask2kan.outputs.names", "[:longest]", ""
    ),
    Mutation("stems end in no dot", "test_names", "mask2kan.outputs.names", '.rstrip(". ")', ""),
]
