"""Tables as text: aligned Markdown, and LaTeX with booktabs.

Cells are plain text with the few signs that tables of figures need (–, ±, ↑, ↓, …); LaTeX gets them
as commands.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

MISSING = "–"
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "λ": r"$\lambda$",
    "…": r"\dots{}",
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One entry of a table."""

    text: str
    bold: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    r"""A table of figures.

    Attributes:
        title: over the table, one line.
        number: of the thesis's table; empty for none.
        label: of LaTeX's ``\label``.
        columns: headings.
        rows: as many cells as columns each.
        text_columns: how many columns at the left are text; the rest are figures, to the right.
        groups: heading over columns and how many columns it spans, from the left; empty text for
            none. No groups, or spans that add up to the columns.
        breaks: rows before which a line is drawn, in LaTeX.
        notes: under the table.
    """

    title: str
    number: str
    label: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    text_columns: int = 1
    groups: Sequence[tuple[str, int]] = ()
    breaks: Sequence[int] = ()
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows)
        assert not self.groups or sum(span for _, span in self.groups) == len(self.columns)


def markdown(table: Table) -> str:
    """The table under a heading, columns aligned, a group's name in each of its columns."""
    over = [name for name, span in table.groups for _ in range(span)] or [""] * len(table.columns)
    heading = [f"{group} {name}".strip() for group, name in zip(over, table.columns, strict=True)]
    lines = [[_for_markdown(text) for text in heading]]
    for row in table.rows:
        texts = [_for_markdown(cell.text) for cell in row]
        lines.append(
            [f"**{text}**" if cell.bold else text for text, cell in zip(texts, row, strict=True)]
        )
    widths = [max(3, *(len(line[k]) for line in lines)) for k in range(len(table.columns))]
    left = table.text_columns
    rule = ["-" * w if k < left else "-" * (w - 1) + ":" for k, w in enumerate(widths)]
    aligned = [
        [text.ljust(w) if k < left else text.rjust(w) for k, (text, w) in enumerate(pairs)]
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    ]
    body = [f"| {' | '.join(line)} |" for line in (aligned[0], rule, *aligned[1:])]
    title = f"Table {table.number}: {table.title}" if table.number else table.title
    out = [f"### {title}", "", *body]
    if table.notes:
        out += ["", *(f"- {_for_markdown(note)}" for note in table.notes)]
    return "\n".join(out) + "\n"


def latex(table: Table) -> str:
    """A ``table`` environment; the document has to load ``booktabs``."""
    columns = len(table.columns)
    title = table.title + (f" (Table {table.number} of the thesis)" if table.number else "")
    form = "l" * table.text_columns + "r" * (columns - table.text_columns)
    out = [
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{escape(title)}}}",
        rf"\label{{{table.label}}}",
        rf"\begin{{tabular}}{{{form}}}",
        r"\toprule",
        *_latex_groups(table.groups),
        " & ".join(escape(name) for name in table.columns) + r" \\",
        r"\midrule",
    ]
    for number, row in enumerate(table.rows):
        if number in table.breaks:
            out.append(r"\midrule")
        texts = (rf"\textbf{{{escape(c.text)}}}" if c.bold else escape(c.text) for c in row)
        out.append(" & ".join(texts) + r" \\")
    out += [r"\bottomrule", r"\end{tabular}"]
    out += [rf"\par {escape(note)}" for note in table.notes]
    return "\n".join([*out, r"\end{table}"]) + "\n"


def _latex_groups(groups: Sequence[tuple[str, int]]) -> list[str]:
    if not groups:
        return []
    names = [rf"\multicolumn{{{span}}}{{c}}{{{escape(name)}}}" for name, span in groups]
    starts = [1]
    for _, span in groups:
        starts.append(starts[-1] + span)
    rules = [
        rf"\cmidrule(lr){{{first}-{after - 1}}}"
        for (first, after), (name, _) in zip(pairwise(starts), groups, strict=True)
        if name
    ]
    return [" & ".join(names) + r" \\", " ".join(rules)]


def escape(text: str) -> str:
    """Plain text for LaTeX."""
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _for_markdown(text: str) -> str:
    return text.replace("|", r"\|").replace("*", r"\*")
