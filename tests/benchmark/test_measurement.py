"""A result is made again if anything changes that it depends on, and only then; a worker that fails says why."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from custom_transforms.benchmark import measurement as module
from custom_transforms.benchmark.measurement import Failure, Measurement, Result, measure

FILES = {"mask": {"path": "a/mask.nii.gz", "sha256": "12"}}


@pytest.fixture
def measurement() -> Measurement:
    return Measurement("sub-01", "qsmnet", FILES, {"caudate": 1}, 137.0, 137.0, 3.0, "cpu")


@pytest.mark.parametrize(
    "change",
    [
        {"variant": "qsmnet_plus"},
        {"case": "sub-02"},
        {"files": {"mask": {"path": "a/mask.nii.gz", "sha256": "13"}}},
        {"labels": {"caudate": 2}},
        {"relaxivity_dia_per_s_ppm": 110.0},
        {"b0_tesla": 2.9},
        {"threads": 1},
    ],
)
def test_what_matters_gives_another_result(measurement: Measurement, change: dict, tmp_path: Path) -> None:
    assert replace(measurement, **change).result_path(tmp_path) != measurement.result_path(tmp_path)


def test_code_configuration_and_weights_matter(
    measurement: Measurement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = measurement.settings()
    assert {"sources", "configs", "weights", "versions"} < program.keys()
    assert [weights["path"] for weights in program["weights"]] == ["models/qsmnet.pt"]
    before = measurement.result_path(tmp_path)
    monkeypatch.setattr(module, "_SOURCES", ("metrics/*.py",))
    assert measurement.result_path(tmp_path) != before


def test_where_files_lie_does_not_matter(measurement: Measurement, tmp_path: Path) -> None:
    moved = replace(measurement, files={"mask": {"path": "b/mask.nii.gz", "sha256": "12"}})
    assert moved.result_path(tmp_path) == measurement.result_path(tmp_path)


def test_what_is_kept_is_read_again(make_result: Callable[..., Result]) -> None:
    result = make_result("a", 2.0)
    truth, estimate, aspect = result.slices()
    assert np.allclose(estimate, 2 * truth) and aspect == 1.5
    assert not list(result.path.parent.glob("*.part"))


def test_a_kept_result_starts_no_process(
    measurement: Measurement, make_result: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = make_result("qsmnet", 3.0)
    kept.path.rename(measurement.result_path(tmp_path))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    assert measure(measurement, tmp_path) == replace(kept, path=measurement.result_path(tmp_path))


def test_a_failure_keeps_nothing(measurement: Measurement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORKER", "custom_transforms.no_such_module")
    failure = measure(measurement, tmp_path / "results")
    assert isinstance(failure, Failure)
    assert (failure.case, failure.variant) == ("sub-01", "qsmnet")
    assert "No module named custom_transforms.no_such_module" in failure.reason and "\n" not in failure.reason
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("code", "stderr", "reason"),
    [
        (2, "a warning\nthe mask is empty\n", "the mask is empty"),
        (-9, "a warning\n", "killed by signal 9, for want of memory perhaps"),
        (1, "", "exit code 1 without a word"),
    ],
)
def test_reasons(
    measurement: Measurement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, stderr: str, reason: str
) -> None:
    seen: dict = {}

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess:
        seen.update(options)
        return subprocess.CompletedProcess(command, code, "", stderr)

    monkeypatch.setattr(subprocess, "run", run)
    assert measure(replace(measurement, threads=1), tmp_path) == Failure("sub-01", "qsmnet", reason)
    assert seen["env"]["OMP_NUM_THREADS"] == "1"
    assert json.loads(seen["input"])["measurement"]["labels"] == {"caudate": 1}
