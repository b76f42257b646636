"""benchmarks/scoreboard.py: its conditions change what they say, and its page holds what was measured."""

import csv
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest

from custom_transforms.benchmark.measurement import Failure, Result

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "scoreboard.py"
Make = Callable[..., Result]


@pytest.fixture
def scoreboard(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("scoreboard", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "scoreboard", module)
    spec.loader.exec_module(module)
    return module


def test_conditions_change_one_factor_each_and_the_last_one_all(scoreboard: ModuleType) -> None:
    base, *single, hard = (asdict(condition) for condition in scoreboard.CONDITIONS.values())
    changes = [{name for name in base if condition[name] != base[name]} for condition in single]
    assert [len(change) for change in changes] == [1] * len(single)
    assert set().union(*changes) == base.keys()
    assert all(hard[name] != base[name] for name in base)


def test_datasets_are_kept(scoreboard: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    condition = scoreboard.Condition(snr=50.0, relaxivity_dia_per_s_ppm=110.0)
    options = {"subjects": 1, "seed": 1, "coarse": 6.0}
    dataset = scoreboard.simulated_dataset(tmp_path, condition, **options)
    sidecar = json.loads((dataset / "sub-01" / "sub-01_simulation.json").read_text())
    assert sidecar["voxel_size_mm"] == [6.0, 6.0, 6.0] and sidecar["scan"]["snr"] == 50.0
    assert sidecar["scan"]["relaxivity_para_per_s_ppm"] == 137.0
    assert sidecar["scan"]["relaxivity_dia_per_s_ppm"] == 110.0
    monkeypatch.setattr(scoreboard, "simulate", lambda **_: pytest.fail("simulated again"))
    assert scoreboard.simulated_dataset(tmp_path, condition, **options) == dataset
    with pytest.raises(pytest.fail.Exception, match="simulated again"):
        scoreboard.simulated_dataset(tmp_path, scoreboard.Condition(), **options)


def test_an_interrupted_simulation_is_begun_again(scoreboard: ModuleType, tmp_path: Path) -> None:
    options = {"subjects": 1, "seed": 1, "coarse": 6.0}
    dataset = scoreboard.simulated_dataset(tmp_path, scoreboard.Condition(), **options)
    dataset.rename(f"{dataset}.part")
    (tmp_path / f"{dataset.name}.part" / "dseg.tsv").unlink()
    assert (scoreboard.simulated_dataset(tmp_path, scoreboard.Condition(), **options) / "dseg.tsv").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [dataset.name]


def test_summary(scoreboard: ModuleType, make_result: Make) -> None:
    a, b, gre = (
        make_result("a", 1.0),
        make_result("b", 2.0, mean_relaxivity=True),
        make_result("gre", 3.0, rate="r2star"),
    )
    outcomes = {"easy": ([a, b, gre], []), "hard": ([b, gre], [Failure("sub-01", "a", "out of luck")])}
    rows = scoreboard.summary(outcomes).splitlines()
    assert rows[0] == "| NRMSE %, chi_para / chi_dia | easy | hard |"
    assert rows[2:5] == [
        "| a | **1.0 / 1.0** | – |",
        "| b ‡ | 2.0 / 2.0 | **2.0 / 2.0** |",
        "| gre † | 3.0 / 3.0 | 3.0 / 3.0 |",
    ]


def test_page(scoreboard: ModuleType, make_result: Make, tmp_path: Path) -> None:
    results = [make_result("a", 1.0), make_result("b", 2.0)]
    outcomes = {"easy": (results, []), "hard": (results[1:], [Failure("sub-01", "a", "out of luck")])}
    folder = tmp_path / "page"
    scoreboard.write_page(folder, outcomes, made="by hand", left_out=["untrained"], jobs=1)
    page = (folder / "scoreboard.md").read_text()
    for words in ("by hand", "## easy", "| b | 2.0 / 2.0 | **2.0 / 2.0** |", "wall time, s", "an abacus"):
        assert words in page
    assert "not in the tables: a, hard, sub-01: out of luck" in page and "no weights: untrained" in page
    assert page.count("](scoreboard/") == 3
    assert all((folder / line.split("(")[1].rstrip(")")).is_file() for line in page.splitlines() if "](" in line)
    with (folder / "scoreboard" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["condition"], row["variant"]) for row in rows} == {("easy", "a"), ("easy", "b"), ("hard", "b")}


def test_mistakes_are_one_line(
    scoreboard: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["scoreboard.py", "--variants", "nonsense", "--work", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        scoreboard.main()
    assert stop.value.code == 2
    assert "there is no variant 'nonsense'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
