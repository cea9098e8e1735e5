"""A table as aligned text for terminals, as Markdown, as HTML and as LaTeX with booktabs.

Cells are plain text; LaTeX gets signs such as ± and ↑ as commands.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

MISSING = "–"
_THRESHOLDS = {
    "fpr05": "fpr05: 5 % false alarms on its calibration data",
    "middle of the range": "uncalibrated: middle of the nominal range",
}
_LATEX = str.maketrans(
    {
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
)
_MARKDOWN = str.maketrans({"|": r"\|", "*": r"\*"})


class Bold(str):
    """A cell in bold, where the format has it."""

    __slots__ = ()


def cell(value: float | None, form: str = ".4f", missing: str = MISSING) -> str:
    """Format a number; ``missing`` for None and NaN."""
    return missing if value is None or math.isnan(value) else format(value, form)


def interval(low: float | None, high: float | None, form: str = ".4f") -> str:
    """Format two bounds; ``MISSING`` without them."""
    if low is None or high is None or math.isnan(low):
        return MISSING
    return f"[{low:{form}}, {high:{form}}]"


@dataclasses.dataclass(frozen=True)
class Table:
    r"""A table of figures.

    Attributes:
        columns: headings; all empty for none.
        title: over the table, one line.
        text_columns: at the left; the rest are numbers, aligned to the right.
        number: of the thesis's table.
        label: of LaTeX's ``\label``.
        groups: headings (or "") over columns, and the columns each spans; all columns or none.
        breaks: rows before which LaTeX draws a line.
        notes: under the table.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    text_columns: int = 1
    number: str = ""
    label: str = ""
    groups: Sequence[tuple[str, int]] = ()
    breaks: Sequence[int] = ()
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows)
        assert not self.groups or sum(span for _, span in self.groups) == len(self.columns)

    def text(self) -> str:
        """Format for a terminal, indented under the title, without a final newline."""
        lines = [self._headings(), *self.rows] if any(self.columns) else self.rows
        indent = "  " if self.title else ""
        body = [(indent + "  ".join(line)).rstrip() for line in self._aligned(lines, 0)]
        return "\n".join([*filter(None, [self.title]), *body, *self.notes])

    def markdown(self) -> str:
        """Format as Markdown, a group's name in each of its columns."""
        cells = [[_markdown(cell) for cell in line] for line in (self._headings(), *self.rows)]
        heading, *rows = self._aligned(cells, 3)
        rule = [
            "-" * len(cell) if column < self.text_columns else "-" * (len(cell) - 1) + ":"
            for column, cell in enumerate(heading)
        ]
        out = [f"| {' | '.join(line)} |" for line in (heading, rule, *rows)]
        if self.title:
            number = f"Table {self.number}: " if self.number else ""
            out = [f"### {number}{self.title}", "", *out]
        if self.notes:
            out += ["", *(f"- {_markdown(note)}" for note in self.notes)]
        return "\n".join(out) + "\n"

    def html(self) -> str:
        """Format as a ``<table>`` with title and notes."""
        heads = [[(name, 1) for name in self.columns]]
        if self.groups:
            heads.insert(0, list(self.groups))
        out = ["<table>", f"<caption>{html.escape(self._numbered())}</caption>", "<thead>"]
        for head in heads:
            cells = (f'<th colspan="{span}">{html.escape(name)}</th>' for name, span in head)
            out.append(f"<tr>{''.join(cells)}</tr>")
        out += ["</thead>", "<tbody>"]
        for row in self.rows:
            cells = (
                f'<td style="text-align: {"left" if column < self.text_columns else "right"}">'
                + (f"<b>{html.escape(cell)}</b>" if isinstance(cell, Bold) else html.escape(cell))
                + "</td>"
                for column, cell in enumerate(row)
            )
            out.append(f"<tr>{''.join(cells)}</tr>")
        out += ["</tbody>", "</table>", *(f"<p>{html.escape(note)}</p>" for note in self.notes)]
        return "\n".join(out) + "\n"

    def latex(self) -> str:
        """Format as a ``table`` environment; the document has to load ``booktabs``."""
        form = "l" * self.text_columns + "r" * (len(self.columns) - self.text_columns)
        out = [
            r"\begin{table}",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{escape(self._numbered())}}}",
            rf"\label{{{self.label}}}",
            rf"\begin{{tabular}}{{{form}}}",
            r"\toprule",
            *self._latex_groups(),
            " & ".join(map(escape, self.columns)) + r" \\",
            r"\midrule",
        ]
        for index, row in enumerate(self.rows):
            if index in self.breaks:
                out.append(r"\midrule")
            cells = (
                rf"\textbf{{{escape(cell)}}}" if isinstance(cell, Bold) else escape(cell)
                for cell in row
            )
            out.append(" & ".join(cells) + r" \\")
        out += [r"\bottomrule", r"\end{tabular}"]
        out += [rf"\par {escape(note)}" for note in self.notes]
        return "\n".join([*out, r"\end{table}"]) + "\n"

    def _headings(self) -> list[str]:
        over = [name for name, span in self.groups for _ in range(span)] or [""] * len(self.columns)
        return [f"{group} {name}".strip() for group, name in zip(over, self.columns, strict=True)]

    def _numbered(self) -> str:
        return self.title + (f" (Table {self.number} of the thesis)" if self.number else "")

    def _aligned(self, lines: Sequence[Sequence[str]], least: int) -> list[list[str]]:
        """Pad cells to their column's width, except text in the last column."""
        widths = [max([least, *map(len, column)]) for column in zip(*lines, strict=True)]
        if self.text_columns == len(self.columns):
            widths[-1:] = [least]
        return [
            [
                cell.ljust(width) if column < self.text_columns else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            for line in lines
        ]

    def _latex_groups(self) -> list[str]:
        if not self.groups:
            return []
        names = [rf"\multicolumn{{{span}}}{{c}}{{{escape(name)}}}" for name, span in self.groups]
        starts = accumulate((span for _, span in self.groups), initial=1)
        rules = [
            rf"\cmidrule(lr){{{first}-{after - 1}}}"
            for (first, after), (name, _) in zip(pairwise(starts), self.groups, strict=True)
            if name
        ]
        return [" & ".join(names) + r" \\", " ".join(rules)]


def threshold_in_words(threshold_from: str) -> str:
    """Explain ``Analysis.threshold_from`` to a reader."""
    return _THRESHOLDS.get(threshold_from, threshold_from)


def calibration_table(
    calibration: Mapping[str, Mapping[str, Any]],
    names: Sequence[str] = ("fpr05", "tpr95", "best F1"),
) -> Table:
    """List a checkpoint's calibration, a row per anomaly score; ``names`` head the thresholds."""
    rows = [
        [
            score,
            "{:.4f} … {:.4f}".format(*values["range"]) if values.get("range") else MISSING,
            *(cell(values.get(key)) for key in ("fpr05", "tpr95", "best_f1")),
        ]
        for score, values in calibration.items()
    ]
    return Table(("score", "range", *names), rows)


def escape(text: str) -> str:
    """Escape plain text for LaTeX."""
    return text.translate(_LATEX)


def _markdown(cell: str) -> str:
    text = cell.translate(_MARKDOWN)
    return f"**{text}**" if isinstance(cell, Bold) else text
