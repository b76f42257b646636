"""The command line refuses mistakes before anything runs, and leaves what was typed as it is."""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from custom_transforms import cli
from custom_transforms.bundle_path import bundle_path
from custom_transforms.checks import InputError

RECONSTRUCT = ["reconstruct", "--local_field", "f.nii", "--field_unit", "hz", "--r2prime", "r.nii", "--mask", "m.nii"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Calls of a command `probe` that stands in for the real ones."""
    seen: list[dict] = []

    def probe(
        *,
        output: str,
        unit: Literal["ppm", "hz"] = "ppm",
        count: int = 1,
        scale: float | None = None,
        direction: tuple[float, float, float] | None = None,
        force: bool = False,
    ) -> None:
        """Stand in for a command.

        Args:
            output: folder.
            unit: unit.
            count: number.
            scale: factor.
            direction: x,y,z.
            force: go on.
        """
        seen.append(locals() | {"seen": None})

    def compare(first: str, second: str = "nothing", *, output: str, force: bool = False) -> None:
        """Stand in for a command with positional arguments.

        Args:
            first: one thing.
            second: another.
            output: folder.
            force: go on.
        """
        seen.append(locals() | {"seen": None})

    monkeypatch.setitem(cli.COMMANDS, "probe", probe)
    monkeypatch.setitem(cli.COMMANDS, "compare", compare)
    return seen


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line in this process; give the exit code."""
    monkeypatch.setattr(sys, "argv", ["chisep", *arguments])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize(
    "text", ["20261120", "1e5", "[1]", "None", "a b", "it's", '"x"', "C:\\new", "{}", "True", "x=y"]
)
@pytest.mark.parametrize("style", ["two words", "one word", "letter"])
def test_paths_stay_text(monkeypatch: pytest.MonkeyPatch, calls: list[dict], text: str, style: str) -> None:
    arguments = {"two words": ["--output", text], "one word": [f"--output={text}"], "letter": ["-o", text]}[style]
    assert run(monkeypatch, "probe", *arguments) == 0
    assert calls[0]["output"] == text


def test_values_have_the_types_of_the_parameters(monkeypatch: pytest.MonkeyPatch, calls: list[dict]) -> None:
    arguments = ["--output", "o", "--unit=hz", "--count", "3", "--scale", "-2", "--direction", "-1,0.5,2e-1", "--force"]
    assert run(monkeypatch, "probe", *arguments) == 0
    (call,) = calls
    assert (call["unit"], call["count"], call["scale"], call["force"]) == ("hz", 3, -2.0, True)
    assert call["direction"] == (-1.0, 0.5, 0.2)
    assert isinstance(call["scale"], float)


@pytest.mark.parametrize(
    "arguments",
    [
        ["20261120", "1e5", "--output", "o"],
        ["20261120", "--output", "o", "1e5", "--force", "False"],
        ["-o", "o", "20261120", "--second", "1e5"],
        ["--first=20261120", "--second=1e5", "--output=o"],
    ],
)
def test_parameters_that_are_not_keyword_only_need_no_name(
    monkeypatch: pytest.MonkeyPatch, calls: list[dict], arguments: list[str]
) -> None:
    assert run(monkeypatch, "compare", *arguments) == 0
    (call,) = calls
    assert (call["first"], call["second"], call["output"], call["force"]) == ("20261120", "1e5", "o", False)


def test_positional_parameters_have_defaults_too(monkeypatch: pytest.MonkeyPatch, calls: list[dict]) -> None:
    assert run(monkeypatch, "compare", "a", "--output", "o") == 0
    assert calls[0]["second"] == "nothing"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "a", "b", "c", "--output", "o"], ["unexpected argument 'c'; options are written --name value"]),
        (["compare", "a", "--first", "b", "--output", "o"], ["--first is given twice"]),
        (["compare", "--output", "o"], ["compare: FIRST missing"]),
        (["compare", "", "--output", "o"], ["--first: expected a value, got an empty text"]),
        (["benchmark", "--output", "o"], ["benchmark: DATASET missing"]),
        (["benchmark", "nowhere", "--output", "o"], ["there is no data set nowhere"]),
        (["reconstuct"], ["unknown command 'reconstuct'", "did you mean reconstruct?"]),
        (["probe", "--outputt", "o"], ["unknown option --outputt", "did you mean --output?"]),
        (["probe", "--output", "o", "--noforce"], ["unknown option --noforce", "--force"]),
        (["probe", "o"], ["unexpected argument 'o'"]),
        (["probe", "--output", "o", "--", "--trace"], ["--"]),
        (["probe"], ["--output missing"]),
        (["probe", "--output"], ["--output needs a value"]),
        (["probe", "--output", "--force"], ["--output needs a value"]),
        (["probe", "--output", ""], ["--output: expected a value, got an empty text"]),
        (["probe", "--output", "o", "--output", "p"], ["--output is given twice"]),
        (["probe", "--output", "o", "--unit", "tesla"], ["--unit: expected ppm or hz, got 'tesla'"]),
        (["probe", "--output", "o", "--count", "2.5"], ["--count: expected a whole number, got '2.5'"]),
        (["probe", "--output", "o", "--scale", "nan"], ["--scale: expected a number, got 'nan'"]),
        (["probe", "--output", "o", "--direction", "0,1"], ["--direction: expected 3 numbers"]),
        (["probe", "--output", "o", "--force", "maybe"], ["--force: expected True or False, got 'maybe'"]),
        ([*RECONSTRUCT], ["--output missing"]),
        ([*RECONSTRUCT, "--output", "o", "--refrence", "csf"], ["did you mean --reference?"]),
        ([*RECONSTRUCT, "--output", "o"], ["local_field: there is no file f.nii"]),
    ],
)
def test_mistakes_are_one_line_and_run_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    calls: list[dict],
    tmp_path: Path,
    arguments: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert said.err.startswith("chisep: ")
    assert not [word for word in words if word not in said.err]
    assert not said.out
    assert not calls
    assert not list(tmp_path.iterdir())


def test_errors_of_the_program_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*, output: str) -> None:
        raise ValueError(output)

    monkeypatch.setitem(cli.COMMANDS, "broken", broken)
    with pytest.raises(ValueError, match="a bug") as error:
        run(monkeypatch, "broken", "--output", "a bug")
    assert not isinstance(error.value, InputError)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["reconstruct", "--help"], ["simulate", "--seed", "1", "-h"]])
def test_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path, arguments: list[str]
) -> None:
    monkeypatch.setenv("PAGER", "cat")
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 0
    said = capsys.readouterr()
    assert ("--local_field" if "reconstruct" in arguments else "chisep") in said.out + said.err
    assert not list(tmp_path.iterdir())


def test_bundle_path(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert run(monkeypatch, "bundle-path") == 0
    assert capsys.readouterr().out == f"{bundle_path()}\n"


def test_every_option_is_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, command in cli.COMMANDS.items():
        undocumented = [p for p in cli._parameter_types(command) if f"\n        {p}: " not in (command.__doc__ or "")]
        assert not undocumented, name


def test_as_a_program(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "from custom_transforms.cli import main; main()"]
    done = subprocess.run([*program, "simulate", "--subjcts", "1"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "chisep: simulate: unknown option --subjcts; did you mean --subjects?\n"
    assert not done.stdout
