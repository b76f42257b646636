"""What a folder holds is recognised, and explained where it is nothing of use."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from custom_transforms.checks import InputError
from custom_transforms.raw import find_scans

Echoes = tuple[np.ndarray, np.ndarray]


def test_a_bids_dataset(tmp_path: Path, echoes: Echoes, save_echoes: Callable[..., list[str]]) -> None:
    for part, values in zip(("mag", "phase"), echoes, strict=True):
        for index in range(3):
            name = f"sub-01_echo-{index + 1}_part-{part}_MEGRE"
            (path,) = save_echoes(tmp_path / "sub-01" / "anat", name, values[index : index + 1])
            Path(path).rename(path.replace("MEGRE1", "MEGRE"))
    assert [scan.name for scan in find_scans(tmp_path, tmp_path / "work")] == ["sub-01"]
    with pytest.raises(InputError, match="no subject 02"):
        find_scans(tmp_path, tmp_path / "work", participant_label="02")


def test_a_dicom_folder(tmp_path: Path, siemens: Callable[..., Any]) -> None:
    siemens(tmp_path / "exam" / "deep" / "deeper")
    (scan,) = find_scans(tmp_path / "exam", tmp_path / "work")
    assert scan.name == "exam"
    assert len(scan.phase) == 3


def test_loose_images_are_not_guessed(tmp_path: Path, echoes: Echoes, save_echoes: Callable[..., list[str]]) -> None:
    save_echoes(tmp_path, "mag", echoes[0])
    with pytest.raises(InputError, match=r"has images \(mag1\.nii\.gz, .* --magnitude and --phase"):
        find_scans(tmp_path, tmp_path / "work")


def test_nothing_of_use(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="neither BIDS subjects nor DICOM files, 1 files"):
        find_scans(tmp_path, tmp_path / "work")
    with pytest.raises(InputError, match="is a file"):
        find_scans(tmp_path / "notes.txt", tmp_path / "work")
    with pytest.raises(InputError, match="there is no folder"):
        find_scans(tmp_path / "nowhere", tmp_path / "work")
