"""Variants run in processes of their own, on files; the numbers are those of the maps; nothing is made twice."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from custom_transforms import cli, keys
from custom_transforms.benchmark.command import benchmark, list_cases, measure_all, plan, region_labels
from custom_transforms.benchmark.worker import learnt_single_relaxivity
from custom_transforms.checks import InputError
from custom_transforms.metrics import nrmse_percent
from custom_transforms.phantom.structures import REGIONS
from custom_transforms.reconstruct import reconstruct
from custom_transforms.simulate import map_path

VARIANTS = "unrolled,unrolled_r2star"


@pytest.fixture(scope="module")
def output(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The benchmark of two variants on one head."""
    folder = tmp_path_factory.mktemp("output") / "new"
    benchmark(str(dataset), output=str(folder), variants=VARIANTS, device="cpu", jobs=2)
    return folder


def read_scores(folder: Path) -> dict[tuple[str, str], float]:
    with (folder / "scores.csv").open() as file:
        return {(row["variant"], row["metric"]): float(row["value"]) for row in csv.DictReader(file)}


def read(path: Path) -> torch.Tensor:
    return torch.from_numpy(nib.load(path).get_fdata(dtype=np.float32))[None, None]


def test_files(output: Path) -> None:
    names = {"scoreboard.md", "scores.csv", "scores.png", "errors.png", "regression.png", "results"}
    assert {path.name for path in output.iterdir()} == names
    assert sorted(path.suffix for path in (output / "results").iterdir()) == [".json", ".json", ".npz", ".npz"]
    page = (output / "scoreboard.md").read_text()
    assert "\n| unrolled | " in page and "\n| unrolled_r2star † | " in page and "shared machine" in page


def test_numbers_are_those_of_the_maps(output: Path, dataset: Path, tmp_path: Path) -> None:
    files = {key: map_path(dataset, "sub-01", key) for key in (keys.LOCAL_FIELD, keys.R2PRIME, keys.MASK)}
    settings = {"relaxivity_para": 130.0, "relaxivity_dia": 110.0, "b0_tesla": 2.9}
    paths = {key: str(path) for key, path in files.items()}
    reconstruct(**paths, **settings, field_unit="ppm", output=str(tmp_path), device="cpu")
    scores, mask = read_scores(output), read(files[keys.MASK])
    for name, key in (("para", keys.CHI_PARA), ("dia", keys.CHI_DIA)):
        estimate, truth = read(tmp_path / f"{key}.nii.gz"), read(map_path(dataset, "sub-01", key))
        expected = float(nrmse_percent(estimate, truth, mask))
        assert scores["unrolled", f"nrmse_{name}"] == pytest.approx(expected, rel=1e-3)
        assert scores["unrolled_r2star", f"nrmse_{name}"] != pytest.approx(expected, rel=1e-4)  # it does not see R2'
    assert scores["unrolled", "wall_time_s"] > 0
    assert 0.1 < scores["unrolled", "peak_memory_gib"] < 3  # of Python, torch and a head of 5 mm


def test_the_second_time_nothing_is_made(output: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    before = {path: path.read_bytes() for path in output.iterdir() if path.is_file()}
    benchmark(str(dataset), output=str(output), variants=VARIANTS, device="cpu", jobs=2)
    assert before == {path: path.read_bytes() for path in output.iterdir() if path.is_file()}


def test_a_failure_is_named_and_the_others_go_on(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(dataset, tmp_path / "data")
    path = map_path(tmp_path / "data", "sub-01", keys.R2PRIME)
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.full(image.shape, np.nan, np.float32), image.affine), path)
    arguments = ["benchmark", str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--variants", VARIANTS]
    monkeypatch.setattr(sys, "argv", ["chisep", *arguments, "--device", "cpu", "--jobs", "2"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert "1 of 2 failed (unrolled); see" in capsys.readouterr().err
    page = (tmp_path / "out/scoreboard.md").read_text()
    assert "not in the tables: unrolled, sub-01: r2prime" in page and "NaN or infinite values inside the mask" in page
    assert "\n| unrolled_r2star † | " in page and "\n| unrolled |" not in page


def test_settings_are_those_of_the_simulation(dataset: Path) -> None:
    (found,) = plan(str(dataset), ["unrolled"])
    assert (found.relaxivity_para_per_s_ppm, found.relaxivity_dia_per_s_ppm, found.b0_tesla) == (130.0, 110.0, 2.9)
    assert found.case == "sub-01" and found.labels == REGIONS and found.threads is None
    (given,) = plan(str(dataset), ["unrolled"], relaxivities=(120.0, None, None), b0_tesla=3.1, jobs=10**6)
    assert (given.relaxivity_para_per_s_ppm, given.relaxivity_dia_per_s_ppm, given.b0_tesla) == (120.0, 120.0, 3.1)
    assert given.threads == 1


def test_settings_of_data_that_were_not_simulated(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset / "sub-01" / "anat", tmp_path / "sub-01" / "anat")
    (found,) = plan(str(tmp_path), ["unrolled"])
    assert (found.relaxivity_para_per_s_ppm, found.relaxivity_dia_per_s_ppm, found.b0_tesla) == (137.0, 137.0, 3.0)
    assert found.labels == {}


@pytest.mark.parametrize(("variant", "single"), [("chi_sepnet_r2prime", True), ("unrolled", False), ("qsmnet", False)])
def test_who_learnt_a_single_relaxivity(dataset: Path, variant: str, single: bool) -> None:
    (found,) = plan(str(dataset), [variant])
    assert learnt_single_relaxivity(found) is single
    assert not learnt_single_relaxivity(replace(found, relaxivity_dia_per_s_ppm=130.0))


def test_interruption_stops_what_has_not_begun(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []

    def interrupt(*arguments: object, **options: object) -> None:
        started.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", interrupt)
    planned = plan(str(dataset), ["unrolled"]) * 50
    with pytest.raises(KeyboardInterrupt):
        measure_all(planned, tmp_path)
    assert len(started) < len(planned)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dataset": "nowhere"}, "there is no data set nowhere"),
        ({"variants": "unrolled,nonsense"}, "there is no variant 'nonsense'"),
        ({"jobs": 0}, "--jobs must be positive, got 0"),
        ({"device": "abacus"}, "--device: there is no device 'abacus'"),
        ({"relaxivity_para": 137.0}, "belong together"),
    ],
)
def test_mistakes_write_nothing(dataset: Path, tmp_path: Path, options: dict, words: str) -> None:
    with pytest.raises((InputError, FileNotFoundError), match=words):
        benchmark(**{"dataset": str(dataset), "output": str(tmp_path / "out"), "variants": "unrolled", **options})
    assert not list(tmp_path.iterdir())


def test_maps_that_a_variant_needs_are_missed_early(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "data")
    map_path(tmp_path / "data", "sub-01", keys.R2STAR).unlink()
    assert len(list_cases(str(tmp_path / "data"), ["unrolled"])) == 1
    with pytest.raises(FileNotFoundError, match="lacks r2star"):
        list_cases(str(tmp_path / "data"), ["unrolled", "unrolled_r2star"])


def test_table_of_regions_must_be_one(tmp_path: Path) -> None:
    (tmp_path / "dseg.tsv").write_text("label\tregion\n1\tcaudate\n")
    with pytest.raises(InputError, match="must have the columns index and name"):
        region_labels(tmp_path)


def test_results_hold_what_they_were_made_from(output: Path, dataset: Path) -> None:
    (path,) = (output / "results").glob("sub-01-unrolled-*.json")
    settings = json.loads(path.read_text())["settings"]
    assert settings["files"].keys() >= {keys.LOCAL_FIELD, keys.R2PRIME, keys.MASK, keys.CHI_PARA, keys.REGIONS}
    assert str(dataset) not in path.read_text()
