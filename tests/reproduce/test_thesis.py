"""Stages are not repeated, settings are kept, and a miniature of everything runs."""

from pathlib import Path

import pytest

from custom_transforms.checks import InputError
from custom_transforms.cli import check_arguments
from custom_transforms.reproduce.thesis import Reproduction, thesis
from custom_transforms.reproduce.thesis_results import Result
from custom_transforms.reproduce.thesis_runs import OURS, Settings


def test_what_is_measured_is_not_measured_again(tmp_path: Path) -> None:
    settings = Settings(3.0, epochs=2, width=2, patch_size=None, amp=False, checkpointing=False, device="cpu")
    reproduction = Reproduction(tmp_path, settings)
    for name in ("unrolled", "closed_form"):
        assert not reproduction.is_done(name)
        Result(OURS, 0, 0, heads=[], lesions=[]).save(tmp_path / "results" / f"{name}.json")
        assert reproduction.is_done(name)
    reproduction.run_untrained()  # there is no cohort to measure on


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "--epochs must be positive, got 0"),
        ({"voxel_size": -1.0}, "--voxel_size must be positive, got -1"),
        ({"width": 0}, "--width must be positive"),
        ({"patch_size": 24}, "--patch_size must be a multiple of 16, got 24"),
        ({"device": "abacus"}, "there is no device 'abacus'"),
    ],
)
def test_wrong_options_write_nothing(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        thesis(output=str(tmp_path / "out"), **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("custom_transforms.reproduce.thesis.SUBJECTS", 3)
    options = {"voxel_size": 5.0, "epochs": 1, "orientations": 3, "width": 2, "checkpointing": False, "device": "cpu"}
    thesis(output=str(tmp_path / "out"), **options)
    page = (tmp_path / "out/thesis.md").read_text(encoding="utf-8")
    assert all(f"({claim}" in page for claim in "abcdefgh")
    assert "was not trained" not in page
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.pt")}
    thesis(output=str(tmp_path / "out"), **options)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.pt")} == written
    with pytest.raises(InputError, match="has other settings; give the same options, or another --output"):
        thesis(output=str(tmp_path / "out"), **options | {"epochs": 2})


def test_command_has_two_words() -> None:
    arguments = ["reproduce", "thesis", "--output", "out", "--epochs", "3"]
    assert check_arguments(arguments) == ["reproduce", "thesis", "--output='out'", "--epochs=3"]
    assert check_arguments(["reproduce", "thesis", "--help"]) == ["reproduce", "thesis", "--help"]
    for wrong in (["reproduce"], ["reproduce", "thesys"], ["thesis", "--output", "out"]):
        with pytest.raises(InputError, match=f"unknown command '{wrong[0]}'; did you mean reproduce thesis"):
            check_arguments(wrong)
