"""Misspelt options are found as Fire and MONAI would read them; what is legal stays legal."""

import json
from pathlib import Path

import pytest

from custom_transforms.overrides import refuse_unknown_overrides, unknown_overrides

PROGRAM = "/site-packages/monai/bundle/__main__.py"


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"max_epochs": 1, "amp": True, "train": {"trainer": {}}, "lr": 0.1}))
    return str(path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["training"],
        ["--max_epochs", "3"],
        ["--max-epochs=3"],
        ["-lr", "1"],
        ["--lr", "-1"],
        ["--noamp"],
        ["--train#trainer#x", "1", "--train::trainer::y", "2"],
        ["--run_id", "training", "--init_id=x", "--logging_file", "False"],
        ["--tracking", "mlflow", "--tracking_uri", "x", "--run_name", "y"],
    ],
)
def test_legal(config: str, arguments: list[str]) -> None:
    assert unknown_overrides(["--config_file", config, *arguments]) == {}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--max_epohcs", "1"], {"max_epohcs": "max_epochs"}),
        (["--max-epohcs=1"], {"max_epohcs": "max_epochs"}),
        (["--trian#trainer#x", "1"], {"trian#trainer#x": "train"}),
        (["--norm"], {"rm": None}),
        (["--tracking_uri", "x"], {"tracking_uri": "tracking"}),
        (["--zzzz", "1", "--lr", "2"], {"zzzz": None}),
    ],
)
def test_unknown(config: str, arguments: list[str], expected: dict[str, str | None]) -> None:
    assert unknown_overrides([*arguments, "--config_file", config]) == expected


def test_stacked_files_bring_their_names(config: str, tmp_path: Path) -> None:
    patch = tmp_path / "patch.json"
    patch.write_text(json.dumps({"patience": 1, "+train": {"x": 1}}))
    assert unknown_overrides(["--config_file", config, "--patience", "1"]) == {"patience": None}
    assert unknown_overrides(["--config_file", f"['{config}', '{patch}']", "--patience", "1"]) == {}


def test_arguments_from_a_file(config: str, tmp_path: Path) -> None:
    path = tmp_path / "arguments.json"
    path.write_text(json.dumps({"config_file": config, "max_epohcs": 1}))
    assert unknown_overrides(["--args_file", str(path)]) == {"max_epohcs": "max_epochs"}


def test_one_line_and_exit_code_2(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        refuse_unknown_overrides([PROGRAM, "run", "training", "--config_file", config, "--max_epohcs", "1"])
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--max_epohcs (did you mean --max_epochs?)" in line


@pytest.mark.parametrize(
    "argv",
    [
        ["pytest", "run", "--config_file", "x", "--foo"],
        [PROGRAM, "ckpt_export", "--foo"],
        [],
        [PROGRAM, "run", "--", "-v"],
    ],
)
def test_foreign_command_lines_are_left_alone(argv: list[str]) -> None:
    refuse_unknown_overrides(argv)
