"""Run the slow doors, and write what came of them to benchmarks/doors.md: `python tests/doors.py [label fl ...]`.

Doors are the tests marked ``doors``; the other marker of each names its door. Without names all are run. Only what was
run is written: doors that were not keep the row of their own last run, with its date, and a run that was broken off
writes nothing.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from custom_transforms.provenance import hardware, versions

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "benchmarks" / "doors.md"
OTHERS = "others"
_NO_DOORS = ("slow", "gpu", "doors")
_PACKAGES = {"label": ("monailabel",), "app": ("monai-deploy-app-sdk",), "tracking": ("tensorboard", "mlflow")}
_COLUMNS = ("door", "date", "passed", "failed", "skipped", "seconds", "tried with")


@dataclass
class Door:
    """What became of the tests of a door.

    Attributes:
        outcomes: of each test, "passed", "failed" or "skipped".
        seconds: of all of them, with what they prepare.
        versions: what the tests say that they used, by record_property("version", "name 1.2").
    """

    outcomes: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    versions: set[str] = field(default_factory=set)

    def count(self, outcome: str) -> int:
        """Count the tests of an outcome."""
        return list(self.outcomes.values()).count(outcome)


class Recorder:
    """A plugin of pytest that sorts outcomes by door."""

    def __init__(self) -> None:
        self.doors: dict[str, Door] = defaultdict(Door)
        self.texts: dict[str, str] = {}

    def pytest_configure(self, config: pytest.Config) -> None:
        """Learn what the doors are called."""
        listed = (line.partition(":") for line in config.getini("markers") if ":" in line)
        self.texts = {name: text.strip() for name, _, text in listed if re.fullmatch(r"\w+", name)}
        ours = (config.rootpath / "pyproject.toml").read_text(encoding="utf-8")
        self.texts = {n: t for n, t in self.texts.items() if f'"{n}: ' in ours and n not in _NO_DOORS}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what a test, or its preparation, reports."""
        door = self.doors[next((name for name in self.texts if name in report.keywords), OTHERS)]
        door.seconds += report.duration
        door.versions |= {str(value) for name, value in report.user_properties if name == "version"}
        if report.failed or (report.when == "call" and report.passed) or report.skipped:
            worst = door.outcomes.get(report.nodeid) == "failed"
            door.outcomes[report.nodeid] = "failed" if worst else report.outcome


def _tried_with(name: str, door: Door) -> str:
    found = set(door.versions)
    for package in _PACKAGES.get(name, ()):
        try:
            found.add(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    base = versions()
    return ", ".join([*(f"{key} {base[key]}" for key in ("chisep", "monai", "torch", "python")), *sorted(found)])


def rows_of(doors: Mapping[str, Door], date: str, texts: Mapping[str, str]) -> dict[str, str]:
    """Give the row of each door that was run."""
    rows = {}
    for name, door in doors.items():
        title = f"`{name}` {texts[name]}" if name in texts else name
        counts = [str(door.count(outcome)) for outcome in ("passed", "failed", "skipped")]
        cells = [title, date, *counts, f"{door.seconds:.0f}", _tried_with(name, door)]
        rows[name] = f"| {' | '.join(cells)} |"
    return rows


def earlier_rows(record: str) -> dict[str, str]:
    """Give the rows of a record by door."""
    rows = [line for line in record.splitlines() if line.startswith("| ")]
    named = ((re.match(r"\| `?(\w+)`?", row), row) for row in rows)
    return {
        found[1]: row for found, row in named if found and row.count("|") == len(_COLUMNS) + 1 and found[1] != "door"
    }


def write_record(path: Path, rows: Mapping[str, str], machine: str) -> None:
    """Replace the record in one step."""
    text = (
        "# Doors\n\nThe last run of each slow way into the bundle, written by `make doors`. A row tells of the run of "
        "its date and of no other;\na door without a row was never run. What is skipped was not tried, and seconds are "
        f"of a machine that may be shared: {machine}.\n\n"
        f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}\n"
    )
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(text + "\n".join(rows[name] for name in sorted(rows)) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def run(names: Iterable[str], record: Path, tests: Iterable[str] = ()) -> int:
    """Run doors and record them.

    Args:
        names: of the doors; none for all.
        record: file to write.
        tests: what else pytest is told, such as the files of the tests.

    Returns:
        The exit code of pytest.
    """
    recorder, chosen = Recorder(), " or ".join(names)
    expression = f"doors and ({chosen})" if chosen else "doors"
    code = int(pytest.main(["-m", expression, *tests], plugins=[recorder]))
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or not recorder.doors:
        print(f"doors: pytest ended with code {code}; nothing is recorded", file=sys.stderr)
        return code
    old = earlier_rows(record.read_text(encoding="utf-8")) if record.is_file() else {}
    date = datetime.date.today().isoformat()
    write_record(record, {**old, **rows_of(recorder.doors, date, recorder.texts)}, hardware("cpu"))
    print(f"doors: {', '.join(sorted(recorder.doors))} are in {record}")
    return code


def main() -> None:
    """Run the doors that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("doors", nargs="*", help="markers, such as label; all if none is given")
    parser.add_argument("--record", type=Path, default=RECORD, help="file to write")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    sys.exit(run(arguments.doors, arguments.record))


if __name__ == "__main__":
    main()
