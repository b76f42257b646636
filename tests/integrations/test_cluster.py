"""Cohorts on an engine: the job script of SLURM with a stand-in for chisep, and the scans as tasks of Dask."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from custom_transforms.checks import InputError
from custom_transforms.pipeline import command
from custom_transforms.pipeline.workers import Outcome
from custom_transforms.raw import RawScan

FOLDER = Path(__file__).resolve().parents[2] / "integrations" / "cluster"
SCRIPT = FOLDER / "slurm_array.sh"
RECORDER = '#!/bin/sh\nprintf "%s\\n" "threads $OMP_NUM_THREADS" "$@" >"$RECORDED"\nexit 3\n'

spec = importlib.util.spec_from_file_location("dask_run", FOLDER / "dask_run.py")
dask_run = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = dask_run
spec.loader.exec_module(dask_run)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three participants, with a blank in the path, and a folder that is none."""
    folder = tmp_path / "a study"
    for name in ("sub-10", "sub-02", "sub-A7", "derivatives"):
        (folder / name).mkdir(parents=True)
    (folder / "sub-99.txt").touch()
    return folder


def submit(dataset: Path, *options: str, **variables: str) -> tuple[subprocess.CompletedProcess, list[str]]:
    """Run the script with a chisep that writes down its arguments and ends with 3; give both."""
    programs = dataset.parent / "programs"
    programs.mkdir(exist_ok=True)
    for name in ("chisep", "engine"):
        (programs / name).write_text(RECORDER)
        (programs / name).chmod(0o755)
    recorded = dataset.parent / "recorded"
    recorded.unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "CHISEP"))}
    environment |= {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "RECORDED": str(recorded)}
    environment |= {"OMP_NUM_THREADS": "7", "CHISEP_BIDS": str(dataset), "CHISEP_OUTPUT": "maps", **variables}
    done = subprocess.run(["bash", SCRIPT, *options], env=environment, capture_output=True, text=True)
    return done, recorded.read_text().splitlines() if recorded.exists() else []


def test_script_parses_and_its_directives_come_first() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    lines = SCRIPT.read_text().splitlines()
    directives = [i for i, line in enumerate(lines) if line.startswith("#SBATCH ")]
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert directives
    assert max(directives) < first_command  # sbatch reads no further


@pytest.mark.parametrize(("task", "label"), [("1", "02"), ("2", "10"), ("3", "A7")])
def test_a_task_is_a_participant(dataset: Path, task: str, label: str) -> None:
    done, arguments = submit(dataset, "--background", "vsharp", SLURM_ARRAY_TASK_ID=task)
    assert done.returncode == 3  # chisep's own
    assert arguments == [
        "threads 7",
        *["run", str(dataset), "--output", "maps", "--participant_label", label, "--verbose"],
        *["--background", "vsharp"],
    ]


def test_participants_threads_and_program_can_be_named(dataset: Path) -> None:
    named = {"CHISEP_PARTICIPANTS": "sub-A7 10", "CHISEP": "engine run --nv image.sif"}
    _, arguments = submit(dataset, SLURM_ARRAY_TASK_ID="1", SLURM_CPUS_PER_TASK="4", **named)
    assert arguments[:6] == ["threads 4", "run", "--nv", "image.sif", "run", str(dataset)]
    assert arguments[arguments.index("--participant_label") + 1] == "A7"


def test_without_a_task_it_lists_the_participants(dataset: Path) -> None:
    done, arguments = submit(dataset)
    assert done.returncode == 0
    assert not arguments
    assert done.stdout.splitlines()[:3] == ["sub-02", "sub-10", "sub-A7"]
    assert "sbatch --array=1-3 slurm_array.sh" in done.stdout


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SLURM_ARRAY_TASK_ID": "4"}, "task 4 has no participant; use --array=1-3"),
        ({"SLURM_ARRAY_TASK_ID": "0"}, "task 0 has no participant"),
        ({"CHISEP_OUTPUT": ""}, "set CHISEP_OUTPUT"),
        ({"CHISEP_BIDS": ""}, "set CHISEP_BIDS"),
        ({"CHISEP_BIDS": "nowhere"}, "there is no folder nowhere"),
        ({"SLURM_ARRAY_TASK_ID": "1", "CHISEP": "no-such-program run"}, "there is no no-such-program here"),
    ],
)
def test_what_cannot_run_is_told_in_a_line(dataset: Path, variables: dict[str, str], message: str) -> None:
    done, arguments = submit(dataset, **variables)
    assert done.returncode == 2
    assert not arguments
    assert done.stderr.startswith("chisep: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_options_are_those_of_chisep_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = dask_run.run_arguments("study", "maps", ["--regions", "False", "--b0_direction=0,0,1", "--vendor", "GE"])
    folders = {"input": str(tmp_path / "study"), "output": str(tmp_path / "maps")}
    assert given == {**folders, "regions": False, "b0_direction": (0.0, 0.0, 1.0), "vendor": "GE"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--region", "False"], "did you mean --regions"),
        (["--workers", "2"], "before the --"),
        (["--device", "cuda:0,cuda:1"], "one --device"),
        (["--help"], "chisep run --help"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dask_run.run_arguments("study", "maps", options)


def test_without_dask_the_remedy_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    monkeypatch.setattr(sys, "argv", ["dask_run.py", str(tmp_path), str(tmp_path / "maps")])
    with pytest.raises(SystemExit) as stop:
        dask_run.main()
    assert stop.value.code == 2
    assert "pip install 'dask[distributed]'" in capsys.readouterr().err


def found(source: str, *_: object, **__: object) -> list[RawScan]:
    return [RawScan(name=f"sub-{number}") for number in ("01", "02", "03")]


def outcome(scan: RawScan, options: object, output: Path, *, bar: bool) -> Outcome:
    """Stand in for run_scan: one done, one refused, one that Dask loses."""
    if scan.name == "sub-03":
        raise MemoryError("none left")
    return Outcome(scan.name, "failed", "no mask") if scan.name == "sub-02" else Outcome(scan.name, "done")


def test_outcomes_of_a_cohort_and_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    distributed = pytest.importorskip("dask.distributed")
    monkeypatch.setattr(command, "find_scans", found)
    monkeypatch.setattr(dask_run, "run_scan", outcome)
    here = distributed.Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None)
    monkeypatch.setattr(dask_run, "start_client", lambda scheduler, workers: here)
    monkeypatch.setattr(sys, "argv", ["dask_run.py", str(tmp_path), str(tmp_path / "maps"), "--", "--regions=False"])
    with pytest.raises(SystemExit) as stop:
        dask_run.main()
    assert stop.value.code == 1
    told = capsys.readouterr()
    assert "1 done, 0 were done before, 2 failed" in told.out
    assert "chisep: sub-02: no mask" in told.err
    assert "chisep: sub-03: MemoryError: none left" in told.err
