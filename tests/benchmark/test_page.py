"""The page holds means over the same cases for all, marks what was not equal, and is silent about nothing."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from custom_transforms.benchmark.measurement import Failure, Result
from custom_transforms.benchmark.page import (
    complete,
    mean_scores,
    tables,
    write_csv,
    write_scoreboard,
)
from custom_transforms.benchmark.scoring import METRICS

Make = Callable[..., Result]
LESION_SLOPES = ("lesion_slope_para", "lesion_slope_dia")


def test_means_over_cases_in_the_order_of_nrmse(make_result: Make) -> None:
    first = [make_result("worse", 4.0), make_result("worse", 8.0, case="sub-02", without=("ssim_para",))]
    scores = mean_scores([*first, make_result("better", 2.0)])
    assert list(scores) == ["better", "worse"]
    assert scores["worse"]["nrmse_para"] == 6.0 and scores["worse"]["ssim_para"] == 4.0
    assert scores["better"].keys() == set(METRICS)


def test_tables_show_what_is_known(make_result: Make) -> None:
    results = [
        make_result("a", 1.0, without=LESION_SLOPES),
        make_result("b", 2.0, without=(*LESION_SLOPES, "psnr_dia")),
    ]
    main, detail = tables(results).split("\n\n")
    assert "lesion" not in main + detail and "wall time, s" in main and "slope of region means" in detail
    assert "| a | **1.0** |" in main
    assert " – |" in detail and "nan" not in main + detail


def test_lesions_are_shown_where_there_are_any(make_result: Make) -> None:
    assert "chi_para slope of lesion means" in tables(
        [make_result("a", 1.0), make_result("b", 1.0, without=LESION_SLOPES)]
    )


def test_csv(make_result: Make, tmp_path: Path) -> None:
    results = [make_result("a", 1.0), make_result("a", 1 / 3, case="sub-02", without=METRICS[1:])]
    write_csv(tmp_path / "one.csv", {"": results})
    write_csv(tmp_path / "many.csv", {"x": results[1:], "y": results[1:]}, group="condition")
    rows = list(csv.DictReader((tmp_path / "one.csv").read_text().splitlines()))
    assert len(rows) == len(METRICS) + 1
    assert rows[-1] == {"case": "sub-02", "variant": "a", "metric": METRICS[0], "value": str(1 / 3)}
    assert [row["condition"] for row in csv.DictReader((tmp_path / "many.csv").read_text().splitlines())] == ["x", "y"]


def test_scoreboard(make_result: Make, tmp_path: Path) -> None:
    results = [make_result("good", 0.5), make_result("gre", 1.0, rate="r2star"), make_result("bad", 0.1)]
    results.append(make_result("single", 2.0, mean_relaxivity=True))
    failures = [Failure("sub-02", "bad", "out of luck")]
    folder = tmp_path / "out"
    folder.mkdir()
    text = write_scoreboard(folder, results, failures, left_out=["untrained"], jobs=2)
    page = (folder / "scoreboard.md").read_text()
    assert text in page
    assert "\n| gre † |" in page and "\n| single ‡ |" in page and "\n| bad" not in page
    for words in (
        "Means over 1 case,",
        "an abacus",
        "2 variants ran at a time",
        "have no weights: untrained",
        "† from",
    ):
        assert words in page
    assert "Failed, and not in the tables: bad, sub-02: out of luck" in page and "‡ learnt" in page
    for name in ("scores.png", "errors.png", "regression.png"):
        assert f"({name})" in page and (folder / name).read_bytes().startswith(b"\x89PNG")
    assert {row["variant"] for row in csv.DictReader((folder / "scores.csv").read_text().splitlines())} == {
        "good",
        "gre",
        "bad",
        "single",
    }


def test_nothing_is_said_of_what_is_not_there(make_result: Make, tmp_path: Path) -> None:
    text = write_scoreboard(tmp_path, [make_result("good", 0.5)], [], left_out=[], jobs=1)
    assert not [words for words in ("†", "‡", "Failed", "Left out", "at a time") if words in text]


def test_all_fail(tmp_path: Path) -> None:
    write_scoreboard(tmp_path, [], [Failure("sub-01", "bad", "out of luck")], left_out=[], jobs=1)
    assert "bad, sub-01: out of luck" in (tmp_path / "scoreboard.md").read_text()
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(("failed", "kept"), [("a", ["b"]), ("c", ["a", "b"])])
def test_a_variant_that_failed_once_is_not_compared(make_result: Make, failed: str, kept: list[str]) -> None:
    results = [make_result("a", 1.0), make_result("b", 1.0)]
    assert [r.variant for r in complete(results, [Failure("sub-02", failed, "")])] == kept
