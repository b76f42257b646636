"""`chisep run` on a measured head: a crop of three echoes, whose echo times and field strength are nominal."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom_transforms import keys
from custom_transforms.pipeline.command import run
from custom_transforms.pipeline.derivatives import map_path, read_record

NAME = "sub-crop"


@pytest.fixture(scope="module")
def derivative(romeo_crop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crop")
    run(
        output=str(folder),
        magnitude=str(romeo_crop / "Mag.nii"),
        phase=str(romeo_crop / "Phase.nii"),
        echo_times_s=(0.004, 0.008, 0.012),
        b0_tesla=7.0,
        participant_label="crop",
    )
    return folder


def values(folder: Path, key: str) -> np.ndarray:
    return nib.load(map_path(folder, NAME, key)).get_fdata()


def test_it_runs_to_the_end(derivative: Path, romeo_crop: Path) -> None:
    inside = values(derivative, keys.MASK) > 0
    assert inside.shape == nib.load(romeo_crop / "Mag.nii").shape[:3]
    assert inside.mean() > 0.9  # the crop lies inside the head
    for key in (keys.LOCAL_FIELD, keys.R2STAR, keys.CHI_PARA, keys.CHI_DIA, keys.CHI_TOTAL):
        assert np.isfinite(values(derivative, key)).all()
    assert (derivative / NAME / "report.html").stat().st_size > 1e5


def test_the_echoes_agree_on_the_field_and_r2star_is_that_of_tissue(derivative: Path) -> None:
    inside = values(derivative, keys.MASK) > 0
    assert np.median(values(derivative, keys.FIELD_QUALITY)[inside]) > 0.8
    assert np.median(values(derivative, keys.R2STAR)[inside]) == pytest.approx(33, rel=0.15)
    assert 0.001 < values(derivative, keys.LOCAL_FIELD)[inside].std() < 0.1


def test_the_report_says_what_is_doubtful(derivative: Path) -> None:
    warnings = " ".join(read_record(derivative, NAME)["warnings"])
    for words in ("vendor", "one turn", "predicted", "no table of regions", "of 3 T"):
        assert words in warnings
