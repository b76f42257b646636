"""The record of the slow doors tells what was run, and nothing else."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
INI = """[tool.pytest.ini_options]
addopts = ["--import-mode=importlib", "--strict-markers", "-m", "not doors"]
markers = ["doors: slow", "label: a server", "fl: federated", "wheel: a wheel", "slow: slow"]
"""
TESTS = """
import pytest

@pytest.mark.doors
@pytest.mark.label
def test_open(record_property):
    record_property("version", "server 1.2")

@pytest.mark.doors
@pytest.mark.label
def test_shut():
    assert {open}

@pytest.mark.doors
@pytest.mark.fl
def test_not_here():
    pytest.skip("not here")

@pytest.mark.doors
def test_another():
    pass

@pytest.fixture
def broken():
    raise ValueError

@pytest.mark.doors
@pytest.mark.fl
def test_that_cannot_begin({fixture}):
    pass

def test_quick():
    raise KeyboardInterrupt  # no door
"""


@pytest.fixture(scope="module")
def doors() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chisep_doors", ROOT / "tests" / "doors.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def module_of(folder: Path) -> Path:
    """Name the file after its folder: pytest, in this process, takes a module by its name."""
    return folder / f"test_{'_'.join(folder.parts[-2:]).replace('-', '_')}.py"


def project(folder: Path, *, is_open: bool = False, fixture: str = "broken") -> list[str]:
    """Write a small project; give what pytest is told to run it."""
    (folder / "pyproject.toml").write_text(INI)
    module_of(folder).write_text(TESTS.format(open=is_open, fixture=fixture))
    return ["--rootdir", str(folder), "-c", str(folder / "pyproject.toml"), "-p", "no:cacheprovider", str(folder)]


def cells(record: Path) -> dict[str, list[str]]:
    """Give the counts of passed, failed and skipped by door."""
    rows = [row.strip("| ").split(" | ") for row in record.read_text().splitlines() if row.startswith("| ")]
    return {row[0]: row[2:5] for row in rows[1:]}


def test_outcomes_are_counted_by_door(doors: ModuleType, tmp_path: Path) -> None:
    record = tmp_path / "doors.md"
    assert doors.run([], record, project(tmp_path)) == 1
    assert cells(record) == {
        "`label` a server": ["1", "1", "0"],
        "`fl` federated": ["0", "1", "1"],
        "others": ["1", "0", "0"],
    }
    text = record.read_text()
    assert "wheel" not in text  # not run, not recorded
    assert "server 1.2" in text
    assert f"torch {doors.versions()['torch']}" in text
    assert doors.hardware("cpu") in text


def test_a_door_alone_leaves_the_rows_of_others(doors: ModuleType, tmp_path: Path) -> None:
    record = tmp_path / "doors.md"
    doors.run([], record, project(tmp_path))
    before = record.read_text().replace(doors.datetime.date.today().isoformat(), "2020-01-01")
    record.write_text(before)
    (tmp_path / "again").mkdir()
    assert doors.run(["label"], record, project(tmp_path / "again", is_open=True)) == 0
    rows = {row.split(" | ")[0]: row for row in record.read_text().splitlines() if row.startswith("| ")}
    assert cells(record)["`label` a server"] == ["2", "0", "0"]
    assert "2020-01-01" not in rows["| `label` a server"]
    assert rows["| `fl` federated"] in before
    assert rows["| others"] in before


@pytest.mark.parametrize("what", ["no test", "no such marker", "an error", "an interruption"])
def test_a_run_that_is_broken_off_writes_nothing(doors: ModuleType, tmp_path: Path, what: str) -> None:
    record, told = tmp_path / "doors.md", project(tmp_path)
    record.write_text("as it was")
    names = {"no test": ["wheel"], "no such marker": ["window"]}.get(what, [])
    if what == "an error":
        module_of(tmp_path).write_text("import nothing_of_this_name")
    if what == "an interruption":
        content = module_of(tmp_path).read_text()
        module_of(tmp_path).write_text(content.replace("raise ValueError", "raise KeyboardInterrupt"))
    assert doors.run(names, record, told) not in (0, 1)
    assert record.read_text() == "as it was"
