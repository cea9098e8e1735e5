"""Render a model's card as HTML that is safe to show.

Cards are Markdown, on the Hub anybody's. They are rendered first and sanitised then: the other way
round, comparisons, quotes and the tags in code would be taken for HTML.
"""

from __future__ import annotations

import functools
import html
import re
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import nh3
from markdown_it import MarkdownIt

from mask2kan.checkpoints.hub import page_of
from mask2kan.checkpoints.manifest import WEIGHTS

from ..strings import MODELS

# None of them looks at a piece of text twice: blanks are those within a line.
_FRONT_MATTER = re.compile(r"\A---[ \t\r]*\n(.*?)\n---[ \t\r]*(?:\n|\Z)", re.DOTALL)
_LICENCE = re.compile(r"^license:[ \t]*['\"]?([\w.+-]+)", re.MULTILINE)
_LINE_ENDS = re.compile(r"\r\n?")
_LONG_WORD = re.compile(r"\S{1000}")
_TABLE_LINE = re.compile(r"^[ \t>]*[|:-][ \t|:-]*$", re.MULTILINE)
# What takes the parser long grows faster than the text.
_MOST_SHOWN = 12_000  # characters of a stranger's card
_MOST_CELLS = 20_000  # of tables, as if all lines were rows of the widest
_TAGS = nh3.ALLOWED_TAGS - {"img", "map", "area"}  # pictures would be loaded from elsewhere
_SCHEMES = {"http", "https", "mailto"}


@functools.lru_cache(maxsize=64)
def licence_in(readme: str) -> str | None:
    """Read the licence in a README's front matter; None where it leaves that to the text."""
    front = _FRONT_MATTER.match(readme)
    stated = _LICENCE.search(front[1]) if front else None
    return stated[1] if stated is not None and stated[1] != "other" else None


def bundled_card(file: str) -> str:
    """Render a bundled model's card, by the name of its file in ``weights/``."""
    path = WEIGHTS / Path(file).name
    if path.suffix != ".md" or not path.is_file():
        return rendered(MODELS["card_none"])
    return rendered(path.read_text(encoding="utf-8"))


def hub_card(repo: str, readme: str | None) -> str:
    """Render the card of a repository, or where it is to be read."""
    page = page_of(repo)
    if readme is None:
        return rendered(MODELS["card_hub"].format(repo=repo, page=page))
    source = rendered(MODELS["card_source"].format(repo=repo, page=page))
    text, more = _FRONT_MATTER.sub("", readme), ""
    if len(text) > _MOST_SHOWN:
        text = text[:_MOST_SHOWN].rpartition("\n")[0] or text[:_MOST_SHOWN]
        more = rendered(MODELS["card_longer"].format(page=page))
    return source + rendered(text, f"{page}/blob/main/") + more


@functools.lru_cache(maxsize=64)
def rendered(markdown: str, base: str = "") -> str:
    """Render Markdown without scripts, forms and external content; links lead from ``base``."""

    def placed(_: str, attribute: str, value: str) -> str | None:
        if attribute != "href":
            return value
        if value.startswith("#"):  # headings have no anchors here
            return None
        try:
            return urljoin(base, value)
        except ValueError:
            return None

    markdown = _LINE_ENDS.sub("\n", markdown)
    return nh3.clean(
        _markdown(_has_long_words(markdown), _has_wide_tables(markdown)).render(markdown),
        tags=_TAGS,
        attribute_filter=placed,
        url_schemes=_SCHEMES,
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )


@functools.cache
def _markdown(has_long_words: bool, has_wide_tables: bool) -> MarkdownIt:
    """Make a parser like the Hub's; pictures become their description.

    Bare addresses in long words, and wide tables of many lines, stay text: finding the former and
    filling up the latter takes seconds.
    """
    parser = MarkdownIt("commonmark", {"html": True, "linkify": not has_long_words})
    parser.enable(["table", "strikethrough", "linkify"])
    if has_wide_tables:
        parser.disable("table")

    def describe(_: Any, tokens: Any, index: int, *__: Any) -> str:
        return html.escape(tokens[index].content)

    parser.add_render_rule("image", describe)
    return parser


def _has_long_words(markdown: str) -> bool:
    return _LONG_WORD.search(markdown) is not None


def _has_wide_tables(markdown: str) -> bool:
    columns = max((line.count("|") for line in _TABLE_LINE.findall(markdown)), default=0)
    return columns * markdown.count("\n") > _MOST_CELLS
