"""The demonstration on a coarse head: everything it promises is there, and its table agrees with its maps."""

from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from custom_transforms import demo as module
from custom_transforms.data import bids_data_list
from custom_transforms.phantom.brain import AnatomicalBrain


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AnatomicalBrain", partial(AnatomicalBrain, voxel_size_mm=(4.0, 4.0, 4.0)))
        module.demo(output=str(folder))
    return folder


def volume(path: str | Path) -> np.ndarray:
    return nib.load(path).get_fdata()


def test_files(folder: Path) -> None:
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"table.md", "comparison.png", "reconstruction/reconstruction.png", "reconstruction/chi_dia.nii.gz"} <= names
    assert not [name for name in names if name.startswith(".")]


def test_table_agrees_with_the_maps(folder: Path) -> None:
    (case,) = bids_data_list(folder / "dataset", labelled=True)
    inside = volume(case["mask"]) > 0
    _, _, network, closed_form, zero_mean = [
        line.split("|")[2:6] for line in (folder / "table.md").read_text().splitlines()
    ]
    for source, cell, demeaned in zip(("chi_para", "chi_dia"), network[:2], network[2:], strict=True):
        truth = volume(case[source])[inside]
        error = volume(folder / "reconstruction" / f"{source}.nii.gz")[inside] - truth
        assert float(cell) == pytest.approx(100 * np.linalg.norm(error) / np.linalg.norm(truth), abs=0.06)
        expected = 100 * np.linalg.norm(error - error.mean()) / np.linalg.norm(truth - truth.mean())
        assert float(demeaned) == pytest.approx(expected, abs=0.06)
    assert 0 < float(closed_form[0]) <= float(zero_mean[0]) < 100  # a coarse head has little fluid to tell the zero


def test_closed_form_gets_the_best_regularisation(monkeypatch: pytest.MonkeyPatch) -> None:
    class Offset(torch.nn.Module):
        """Off by the distance of lambda from 0.01."""

        def __init__(self, *, regularisation: float, feasible_zero: bool) -> None:
            super().__init__()
            self.regularisation = regularisation

        def forward(self, image: torch.Tensor, *geometry: torch.Tensor) -> torch.Tensor:
            return image[:, :2] + abs(self.regularisation - 0.01)

    monkeypatch.setattr(module, "ClosedFormSeparation", Offset)
    image = torch.ones(1, 3, 4, 4, 4)
    chi, regularisation = module.best_closed_form(
        image, image[:, :2], torch.ones(1, 3), torch.ones(1, 3), feasible_zero=True
    )
    assert regularisation == 0.01
    assert torch.equal(chi, image[:, :2])
