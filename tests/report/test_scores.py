"""The table holds the numbers, in bold where they are best; the figure draws what it says."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from custom_transforms.report.scores import (
    COLUMNS,
    DETAIL_COLUMNS,
    MAIN_COLUMNS,
    save_scores_figure,
    scores_table,
)


def scores(**of_first: float) -> dict[str, dict[str, float]]:
    """Three methods: all metrics are 1, 2 and 3, but for those named."""
    rows = {name: dict.fromkeys(COLUMNS, value) for name, value in (("a", 1.0), ("b", 2.0), ("c", 3.0))}
    rows["a"] |= of_first
    return rows


def cells(table: str) -> dict[str, dict[str, str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {name: dict(zip(COLUMNS, values, strict=True)) for name, *values in rows[2:]}


def test_table_rounds_and_marks_the_best() -> None:
    found = cells(scores_table(scores(nrmse_para=1.26, xsim_dia=0.98765, leakage_dia=-2.5)))
    assert found["a"]["nrmse_para"] == "**1.3**"
    assert found["c"]["psnr_para"] == "**3.0**" and found["a"]["psnr_para"] == "1.0"
    assert found["a"]["xsim_dia"] == "0.988" and found["c"]["xsim_dia"] == "**3.000**"
    assert found["b"]["leakage_dia"] == "**2.000**" and found["a"]["leakage_dia"] == "-2.500"  # nearest to zero
    for key in COLUMNS:
        assert sum(row[key].startswith("**") for row in found.values()) == 1


def test_equal_ones_are_all_the_best() -> None:
    found = cells(scores_table(scores(psnr_dia=3.0)))
    assert [row["psnr_dia"] for row in found.values()] == ["**3.0**", "2.0", "**3.0**"]


def test_titles_name_source_and_unit() -> None:
    header = scores_table(scores()).splitlines()[0]
    assert header.startswith("| | chi_para NRMSE, % | chi_dia NRMSE, % |")
    assert header.count("|") == len(COLUMNS) + 2


def test_methods_without_r2prime_are_marked() -> None:
    assert list(cells(scores_table(scores(), without_r2prime=["b"]))) == ["a", "b †", "c"]


def test_methods_with_the_mean_relaxivity_are_marked() -> None:
    table = scores_table(scores(), without_r2prime=["b"], mean_relaxivity=["a", "b"])
    assert list(cells(table)) == ["a ‡", "b † ‡", "c"]


def test_what_is_not_known_is_a_dash_and_never_the_best() -> None:
    found = cells(scores_table(scores(nrmse_para=math.nan)))
    assert [row["nrmse_para"] for row in found.values()] == ["–", "**2.0**", "3.0"]
    nobody = scores_table({"a": dict.fromkeys(COLUMNS, math.nan)})
    assert set(cells(nobody)["a"].values()) == {"–"}


def test_columns_can_be_chosen() -> None:
    columns = {**MAIN_COLUMNS, **DETAIL_COLUMNS}
    rows = {name: dict.fromkeys(columns, value) for name, value in (("a", 0.9), ("b", 1.3))}
    found = [line.strip("|").split("|") for line in scores_table(rows, columns=columns).splitlines()[2:]]
    best = {key: "a" if "**" in a else "b" for key, a, b in zip(columns, found[0][1:], found[1][1:], strict=True)}
    assert best["peak_memory_gib"] == best["wall_time_s"] == best["nrmse_total_demeaned"] == "a"
    assert best["psnr_para"] == "b"
    assert best["region_slope_dia"] == best["lesion_slope_para"] == "a"  # nearest to one
    assert COLUMNS.keys() <= columns.keys()


def test_missing_metric_is_refused() -> None:
    rows = scores()
    del rows["b"]["hfen_dia"]
    with pytest.raises(ValueError, match="b lacks hfen_dia"):
        scores_table(rows)


def test_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *args, **kw: (drawn.append(figure), save(figure, *args, **kw))
    )
    save_scores_figure(tmp_path / "scores.png", scores(nrmse_dia=7.0), without_r2prime=["c"])
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")
    nrmse, xsim = drawn[0].axes
    assert [bar.get_width() for bar in nrmse.patches] == [1, 2, 3, 7, 2, 3]  # chi_para, then chi_dia
    assert [bar.get_width() for bar in xsim.patches] == [1, 2, 3, 1, 2, 3]
    assert [label.get_text() for label in nrmse.get_yticklabels()] == ["a", "b", "c\nfrom R2*, R2′ not measured"]
    assert nrmse.yaxis_inverted() and nrmse.get_ylim() == xsim.get_ylim()
    assert {text.get_text() for text in drawn[0].legends[0].get_texts()} == {"chi_para", "chi_dia"}
    bars = sorted((bar.get_y(), bar.get_y() + bar.get_height()) for bar in nrmse.patches)
    assert all(upper <= lower + 1e-9 for (_, upper), (lower, _) in pairwise(bars))
