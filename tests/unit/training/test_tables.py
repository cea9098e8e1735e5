"""The thesis's tables from generated results, and its published figures against its text."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from training import tables
from training.config.recipes import RECIPES
from training.experiments.kan_ablation.experiments import EXPERIMENTS
from training.experiments.kan_ablation.report import summarize
from training.experiments.published import (
    ABLATION,
    ANOMALY,
    ANOMALY_IMAGES,
    ANOMALY_METRICS,
    ANOMALY_SETS,
    ANOMALY_TABLES,
    BACKBONES,
    CITYSCAPES,
    LOWER_IS_BETTER,
)
from training.experiments.thesis_tables.build import build
from training.experiments.thesis_tables.results import find


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def evaluation(recipe: str, iou: float, **changes: Any) -> dict[str, Any]:
    known = {"recipe": recipe, "data": "cityscapes", "split": "val", "pictures": 500}
    figures = {"iou": iou, "iiou": 0.6, "category_iou": 0.9, "category_iiou": None}
    return {**known, **figures, **changes}


def benchmark(recipe: str, **sets: tuple[float, float, float]) -> dict[str, Any]:
    return {
        "recipe": recipe,
        "protocol": "exact",
        "sets": {
            name: {
                "pictures": ANOMALY_IMAGES[name],
                "scores": {"msp": dict(zip(ANOMALY_METRICS, figures, strict=True)), "rba": {}},
            }
            for name, figures in sets.items()
        },
    }


def ablation(**accuracies: list[float]) -> dict[str, Any]:
    runs = [
        {"experiment": name, "seed": seed, "test_accuracy": value}
        for name, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    settings = {
        "data": {"name": "digits", "pictures": 1797},
        "protocol": {"epochs": 3, "regularization": 0.1},
    }
    return {"settings": settings, "runs": runs, "summary": summarize(runs)}


def row(text: str, *starts: str) -> list[str]:
    """The cells after the given first ones, of the one line that begins with them."""
    found = [
        cells
        for line in text.splitlines()
        if (cells := [cell.strip() for cell in line.strip("|").split("|")])[: len(starts)]
        == list(starts)
    ]
    assert len(found) == 1, (starts, found)
    return found[0][len(starts) :]


def section(text: str, number: str) -> str:
    return text.split(f"### Table {number}: ")[1].split("###", maxsplit=1)[0]


def test_without_results_only_the_thesis_stands(capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main([]) == 0
    text = capsys.readouterr().out
    assert re.findall("### Table (.{3})", text) == ["3.1", "3.2", "3.3", "3.4", "3.5", "3.6"]
    first = section(text, "3.1")
    assert row(first, "Swin-B (KAN)", "thesis") == ["81.4470", "66.2032", "91.4183", "80.9711"]
    assert row(first, "Swin-B (KAN)", "ours") == ["–"] * 4
    assert "Swin-L" not in first
    assert "Swin-B" not in section(text, "3.4")
    assert "**" not in text
    assert "scrambled" in section(text, "3.2")
    assert row(section(text, "3.6"), "Grid size 7", "7", "3") == ["–"] * 5 + ["0.9444", "−0.0027"]


def test_segmentation_in_percent_over_seeds_with_the_better_head_bold(tmp_path: Path) -> None:
    write(tmp_path / "a" / "evaluation.json", evaluation("thesis_swin_t_kan", 0.80))
    write(tmp_path / "b" / "deep" / "evaluation.json", evaluation("thesis_swin_t_kan", 0.82))
    write(tmp_path / "c" / "evaluation.json", evaluation("thesis_swin_t_mlp", 0.805, pictures=20))
    write(tmp_path / "d" / "evaluation.json", evaluation("thesis_swin_l_kan", 0.9))
    # the same folder twice and one inside it: a file counts once
    text = build(find([tmp_path, tmp_path, tmp_path / "a"]))[0].markdown()
    ours = row(text, "Swin-T (KAN)", "ours")
    # the standard deviation of 80 and 82 is sqrt(2); equal means are not bold
    assert ours == ["**81.00 ± 1.41 (2)**", "60.00 ± 0.00 (2)", "90.00 ± 0.00 (2)", "–"]
    assert row(text, "Swin-T (MLP)", "ours") == ["80.50", "60.00", "90.00", "–"]
    # measured but not printed by the thesis: a row nevertheless, and nothing to be better than
    assert row(text, "Swin-L (KAN)", "thesis") == ["–"] * 4
    assert row(text, "Swin-L (KAN)", "ours")[0] == "90.00"
    assert "Swin-L (MLP)" not in text
    assert "Swin-T (MLP) was measured on 20 of the 500 images of Cityscapes" in text
    assert text.count("was measured on") == 1


def test_anomalies_go_to_their_tables_and_low_fpr_is_bold(tmp_path: Path) -> None:
    one = benchmark(
        "thesis_swin_s_kan",
        road_anomaly_21=(0.8, 0.5, 0.4),
        fishyscapes_static=(0.9, 0.6, 0.3),
    )
    other = benchmark("thesis_swin_s_mlp", road_anomaly_21=(0.7, 0.6, 0.5))
    resnet = benchmark("thesis_r50_kan", road_anomaly_21=(0.1, 0.2, 0.3)) | {"protocol": "smiyc"}
    for number, content in enumerate((one, other, resnet)):
        write(tmp_path / str(number) / "benchmark.json", content)
    by_number = {table.number: table.markdown() for table in build(find([tmp_path]))}
    ours = ("Swin-S (KAN)", "ours")
    assert row(by_number["3.4"], *ours) == ["**0.8000**", "0.5000", "**0.4000**"] + ["–"] * 3
    assert row(by_number["3.5"], *ours) == ["–"] * 3 + ["0.9000", "0.6000", "0.3000"] + ["–"] * 3
    other_row = row(by_number["3.4"], "Swin-S (MLP)", "ours")
    assert other_row[:3] == ["0.7000", "**0.6000**", "0.5000"]
    assert row(by_number["3.2"], "ResNet-50 (KAN)", "ours")[:3] == ["0.1000", "0.2000", "0.3000"]
    assert "ResNet-50 (KAN) on RoadAnomaly21 by the protocol smiyc" in by_number["3.2"]
    assert "Ours" not in by_number["3.3"]


def test_every_ablation_has_its_table(tmp_path: Path) -> None:
    accuracies = {"default": [0.96, 0.97, 0.98], "relu": [0.97, 0.975, 0.985]}
    write(tmp_path / "one" / "ablation.json", ablation(**accuracies))
    strong = ablation(default=[0.9])
    strong["settings"]["protocol"]["regularization"] = 2.0
    write(tmp_path / "two" / "ablation.json", strong)
    found = [table for table in build(find([tmp_path])) if table.number == "3.6"]
    assert [table.label for table in found] == ["tab:3.6", "tab:3.6-1"]
    first = found[0].markdown()
    assert first.startswith(
        "### Table 3.6: KAN ablation on digits (1,797 images), 3 seeds, 3 epochs, λ = 0.1 "
    )
    assert row(first, "Default")[2:] == ["0.9700 ± 0.0100"] + ["–"] * 4 + ["0.9471", "–"]
    # differences 0.01, 0.005, 0.005: mean 1/150, standard error 1/600, t(2) = 4, t quantile 4.3027
    assert row(first, "ReLU instead of SiLU")[2:] == [
        *("0.9767 ± 0.0076", "+0.0067", "[−0.0005, +0.0138]", "0.057", "0.057"),
        *("0.9578", "+0.0107"),
    ]
    assert row(found[1].markdown(), "Default")[2] == "0.9000"


def test_files_of_other_work_are_reported_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a" / "evaluation.json", {"recipe": "camvid_kan", "data": "camvid"})
    write(tmp_path / "b" / "evaluation.json", evaluation("thesis_r50_kan_2", 0.1))
    write(tmp_path / "c" / "evaluation.json", evaluation("thesis_r50_kan", 0.1, split="test"))
    write(tmp_path / "d" / "benchmark.json", benchmark("camvid_kan"))
    assert tables.main([str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "0.1" not in section(printed.out, "3.1").replace("80.1791", "")
    assert "ours" in printed.out
    assert printed.err.count("not used: ") == 4
    for reason in ("'camvid'", "'thesis_r50_kan_2'", "'test'", "'camvid_kan'"):
        assert reason in printed.err


GOOD = benchmark("thesis_r50_kan", road_anomaly=(0.1, 0.2, 0.3))
TEXT = json.dumps(GOOD)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("benchmark.json", "{", "is damaged"),
        ("benchmark.json", "\x00\xff", "is damaged"),
        ("benchmark.json", [], "is not a JSON object"),
        ("benchmark.json", {**GOOD, "protocol": 3}, "protocol is 3; expected str"),
        ("benchmark.json", {**GOOD, "sets": [1]}, "sets is not a JSON object"),
        (
            "benchmark.json",
            TEXT.replace("road_anomaly", "road_anomali"),
            "Unknown data set 'road_anomali'. Nearest: road_anomaly",
        ),
        ("benchmark.json", TEXT.replace('"msp"', '"eam"'), "road_anomaly.scores.msp is not a JSON"),
        (
            "benchmark.json",
            TEXT.replace("0.2", "NaN"),
            "msp.ap is nan; it must be a finite number from 0 to 1",
        ),
        ("benchmark.json", TEXT.replace("0.2", "20"), "msp.ap is 20; it must"),
        ("benchmark.json", TEXT.replace("0.2", "true"), "msp.ap is True; it must"),
        ("benchmark.json", TEXT.replace('"fpr95"', '"fpr"'), "msp.fpr95 is missing"),
        ("benchmark.json", TEXT.replace("60", "true"), "pictures is True; expected int"),
        ("evaluation.json", {"data": "cityscapes"}, "recipe is None; expected str"),
        ("evaluation.json", evaluation("thesis_r50_kan", 79.1), "iou is 79.1; it must"),
        ("ablation.json", ablation(default=[0.9]) | {"summary": []}, "empty summary"),
        ("ablation.json", ablation(default=[0.9]) | {"summary": [{}]}, "summary.0.experiment is"),
        (
            "ablation.json",
            json.dumps(ablation(default=[0.9])).replace('"default", "n"', '"defaults", "n"'),
            "Unknown experiment 'defaults'",
        ),
        ("ablation.json", {"summary": [1]}, "settings is not a JSON object"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(
    tmp_path: Path, name: str, content: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "run" / name, content)
    assert tables.main([str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert str(path) in printed.err
    assert message in printed.err


def test_a_missing_folder_and_an_odd_name_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tables.main([str(tmp_path / "none")]) == 2
    assert f"error: {tmp_path / 'none'} is no folder" in capsys.readouterr().err
    assert tables.main(["--format", "both", "--out", str(tmp_path / "tables.txt")]) == 2
    assert "ends in .txt" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_files_are_written_in_both_forms(tmp_path: Path) -> None:
    assert tables.main(["--format", "both", "--out", str(tmp_path / "out" / "tables.md")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"tables.md", "tables.tex"}
    assert (tmp_path / "out" / "tables.md").read_text().startswith("### Table 3.1: ")
    text = (tmp_path / "out" / "tables.tex").read_text()
    assert text.startswith("% needs \\usepackage{booktabs}\n\\begin{table}")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 6
    assert r"fs\_static" in text
    assert not set(text) & set("–±↑↓−λ…")
    assert tables.main(["--format", "latex", "--out", str(tmp_path / "one.txt")]) == 0
    assert (tmp_path / "one.txt").read_text() == text
    assert tables.main(["--format", "html", "--out", str(tmp_path / "tables.html")]) == 0
    page = (tmp_path / "tables.html").read_text()
    assert page.startswith('<meta charset="utf-8">\n<table>')
    assert page.count("<table>") == page.count("</table>") == 6


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
def test_latex_compiles(tmp_path: Path) -> None:
    tables.main(["--format", "latex", "--out", str(tmp_path / "tables.tex")])
    write(
        tmp_path / "all.tex",
        "\\documentclass[landscape]{article}\\usepackage{booktabs}\\begin{document}"
        "\\input{tables}\\end{document}",
    )
    subprocess.run(
        ["pdflatex", "-halt-on-error", "all.tex"], cwd=tmp_path, check=True, capture_output=True
    )


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        tables.main(["--help"])
    assert stopped.value.code == 0
    assert "python -m training.tables runs" in capsys.readouterr().out


def test_the_tables_speak_of_recipes_that_exist() -> None:
    models = {*CITYSCAPES, *(model for models in ANOMALY.values() for model in models)}
    assert {f"thesis_{backbone}_{head}" for backbone, head in models} <= set(RECIPES)
    assert set(EXPERIMENTS) == set(ABLATION)


def test_published_figures_are_the_thesiss(shared: Path) -> None:
    text = (shared / "thesis.txt").read_text()
    lines = re.sub("</?u>", "", text).splitlines()

    def printed(caption: str, name: str) -> list[float]:
        """The figures of the last row of that name above a caption."""
        end = next(
            k
            for k, line in enumerate(lines)
            if line.startswith(f"Table {caption}. ")
            and len(line) > 40
            and not line.endswith(tuple("0123456789"))
        )
        found = next(line for line in lines[end::-1] if line.split("\t")[0] == name)
        return [float(value) for value in found.split("\t")[1:]]

    for (backbone, head), figures in CITYSCAPES.items():
        name = f"{BACKBONES[backbone]} {head.upper()}"
        assert printed("3.1", name) == list(figures)
    for number, (sets, backbones) in ANOMALY_TABLES.items():
        for backbone, head in {model for data in sets for model in ANOMALY[data]}:
            if backbone in backbones:
                name = BACKBONES[backbone].replace("Swin", "SWIN") + f" ({head.upper()})"
                ours = [value for data in sets for value in ANOMALY[data][backbone, head]]
                assert printed(number, name) == ours
    start = next(k for k, line in enumerate(lines) if line.startswith("Default (256, 256, 256)"))
    accuracies = [float(line.split("\t")[-1]) for line in lines[start : start + 9]]
    assert accuracies == list(ABLATION.values())


def test_what_the_notes_count_is_so() -> None:
    cells = [(data, b) for data in ANOMALY_SETS for b in ("swin_t", "swin_s", "swin_l")]
    better, worse_on_average = [], []
    for column, metric in enumerate(ANOMALY_METRICS):
        sign = -1 if metric in LOWER_IS_BETTER else 1
        gains = [
            sign * (ANOMALY[data][b, "kan"][column] - ANOMALY[data][b, "mlp"][column])
            for data, b in cells
        ]
        better.append(sum(gain > 0 for gain in gains))
        worse_on_average.append(mean(gains) < 0)
    assert better == [6, 9, 7]
    assert worse_on_average == [True] * 3
    ranked = sorted(ABLATION, key=lambda name: -ABLATION[name])
    assert ranked[:3] == ["order_2", "relu", "no_spline_scaler"]
    assert max(abs(v - ABLATION["default"]) for v in ABLATION.values()) == pytest.approx(0.0127)
    assert max(CITYSCAPES, key=lambda model: CITYSCAPES[model][3]) == ("swin_t", "mlp")
