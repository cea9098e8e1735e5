"""One table in its four forms."""

import math
from xml.etree import ElementTree

from mask2kan.outputs.tables import Bold, Table, calibration_table, cell, escape, interval

SMALL = Table(
    title="A & B",
    number="9.1",
    label="tab:x",
    columns=("Model", "a_b ↑", "c"),
    rows=[["x|y", Bold("1 ± 2"), "–"], ["z", "3", "4 %"]],
    groups=[("", 1), ("both", 2)],
    breaks=[1],
    notes=["50 % of *it*"],
)


def test_markdown_is_aligned():
    assert SMALL.markdown().splitlines() == [
        "### Table 9.1: A & B",
        "",
        "| Model | both a_b ↑ | both c |",
        "| ----- | ---------: | -----: |",
        r"| x\|y  |  **1 ± 2** |      – |",
        "| z     |          3 |    4 % |",
        "",
        r"- 50 % of \*it\*",
    ]


def test_text_at_the_end_of_a_row_is_not_filled_up():
    table = Table(("", ""), [["key", "short"], ["other", "a long value"]], text_columns=2)
    assert table.markdown().splitlines() == [
        "|       |     |",
        "| ----- | --- |",
        "| key   | short |",
        "| other | a long value |",
    ]
    assert table.text() == "key    short\nother  a long value"


def test_text_is_aligned():
    assert SMALL.text().splitlines() == [
        "A & B",
        "  Model  both a_b ↑  both c",
        "  x|y         1 ± 2       –",
        "  z               3     4 %",
        "50 % of *it*",
    ]
    assert Table(("a", "b"), []).text() == "a  b"


def test_latex_is_escaped_with_booktabs():
    assert SMALL.latex().splitlines() == [
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        r"\caption{A \& B (Table 9.1 of the thesis)}",
        r"\label{tab:x}",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"\multicolumn{1}{c}{} & \multicolumn{2}{c}{both} \\",
        r"\cmidrule(lr){2-3}",
        r"Model & a\_b $\uparrow$ & c \\",
        r"\midrule",
        r"x|y & \textbf{1 $\pm$ 2} & -- \\",
        r"\midrule",
        r"z & 3 & 4 \% \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\par 50 \% of *it*",
        r"\end{table}",
    ]
    assert escape("\\{}~^#$") == (r"\textbackslash{}\{\}\textasciitilde{}\textasciicircum{}\#\$")


def test_html_is_escaped_and_well_formed():
    root = ElementTree.fromstring(f"<div>{SMALL.html()}</div>")
    assert root.findtext("table/caption") == "A & B (Table 9.1 of the thesis)"
    over, names = root.findall("table/thead/tr")
    assert [(head.text, head.get("colspan")) for head in over] == [(None, "1"), ("both", "2")]
    assert [head.text for head in names] == list(SMALL.columns)
    cells = [["".join(cell.itertext()) for cell in row] for row in root.findall("table/tbody/tr")]
    assert cells == [[str(cell) for cell in row] for row in SMALL.rows]
    assert [bold.text for bold in root.iter("b")] == ["1 ± 2"]
    assert root.findtext("p") == "50 % of *it*"


def test_cells_without_a_value():
    assert cell(0.12341) == "0.1234"
    assert cell(None) == cell(math.nan) == "–"
    assert cell(None, missing="absent") == "absent"
    assert interval(-1.0, 2.0, "+.1f") == "[-1.0, +2.0]"
    assert interval(None, None) == interval(math.nan, math.nan) == "–"


def test_a_calibration_may_lack_a_threshold():
    values = {"range": [0.0, 0.5], "fpr05": 0.1, "tpr95": None}
    [row] = calibration_table({"msp": values}).rows
    assert row == ["msp", "0.0000 … 0.5000", "0.1000", "–", "–"]
    [row] = calibration_table({"msp": {"fpr05": 0.1}}).rows
    assert row == ["msp", "–", "0.1000", "–", "–"]
