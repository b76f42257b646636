"""The dataset on disk: what it holds, that it repeats, and that its maps belong together."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from custom_transforms import keys
from custom_transforms.checks import InputError
from custom_transforms.data import BIDS_SUFFIXES, bids_data_list
from custom_transforms.phantom.structures import REGIONS
from custom_transforms.physics import DipoleConvolution
from custom_transforms.simulate import map_path, simulate
from custom_transforms.transforms import b0_direction_from_affine

COARSE = {"voxel_size": (4.0, 4.0, 5.0), "tilt_deg": 25.0, "seed": 7}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulate") / "new" / "dataset"
    simulate(output=str(folder), subjects=2, lesions=2, echoes=True, **COARSE)
    return folder


def load(dataset: Path, key: str, subject: str = "sub-01") -> np.ndarray:
    return nib.load(map_path(dataset, subject, key)).get_fdata()


def test_data_list_finds_the_subjects(dataset: Path) -> None:
    assert len(bids_data_list(dataset, labelled=True)) == 2


def test_files(dataset: Path) -> None:
    description = json.loads((dataset / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    rows = [line.split("\t") for line in (dataset / "dseg.tsv").read_text().splitlines()]
    assert {name: int(index) for index, name in rows[1:]} == REGIONS
    assert set(np.unique(load(dataset, keys.REGIONS))) <= set(REGIONS.values())
    for key in BIDS_SUFFIXES:
        image = nib.load(map_path(dataset, "sub-02", key))
        assert image.get_data_dtype() == (np.uint8 if key in (keys.MASK, keys.REGIONS) else np.float32)
        assert image.header["sform_code"] == image.header["qform_code"] == 1
        assert image.header.get_xyzt_units()[0] == "mm"
        assert np.allclose(image.header.get_zooms(), COARSE["voxel_size"])


def test_sidecar_describes_the_subject(dataset: Path) -> None:
    sidecar = json.loads((dataset / "sub-01" / "sub-01_simulation.json").read_text())
    relaxivities = {"relaxivity_para_per_s_ppm": 137.0, "relaxivity_dia_per_s_ppm": 137.0}
    assert sidecar["scan"] == {"snr": 100.0, "b0_tesla": 3.0, **relaxivities, "echoes": True}
    assert sidecar["lesions"] == 2
    affine = nib.load(map_path(dataset, "sub-01", keys.MASK)).affine
    assert np.allclose(sidecar["b0_direction"], b0_direction_from_affine(affine), atol=1e-5)
    assert sidecar["b0_direction"][2] == pytest.approx(np.cos(np.deg2rad(25.0)), abs=1e-5)


def test_subjects_differ_and_repeat(dataset: Path, tmp_path: Path) -> None:
    simulate(output=str(tmp_path), subjects=1, lesions=2, **COARSE)
    for key in (keys.LOCAL_FIELD, keys.R2PRIME, keys.CHI_PARA):
        first = load(dataset, key)
        assert np.array_equal(first, load(tmp_path, key))
        second = load(dataset, key, "sub-02")
        assert first.shape != second.shape or not np.allclose(first, second)


def test_maps_belong_together(dataset: Path) -> None:
    """The files alone, affine included, predict the field and R2' up to the noise, where there is signal."""
    para, dia, r2prime = (load(dataset, key) for key in (keys.CHI_PARA, keys.CHI_DIA, keys.R2PRIME))
    image = nib.load(map_path(dataset, "sub-01", keys.LOCAL_FIELD))
    inside = (load(dataset, keys.MASK) > 0) & (load(dataset, keys.R2STAR) < 60)
    voxel_size_mm, b0 = torch.tensor([COARSE["voxel_size"]]), b0_direction_from_affine(image.affine)[None]
    dipole = DipoleConvolution(padding=1.0)
    q = torch.from_numpy(para - dia).float()[None, None]

    def error(measured: np.ndarray, expected: np.ndarray) -> float:
        return float(np.linalg.norm((measured - expected)[inside]) / np.linalg.norm(expected[inside]))

    field = dipole(q, voxel_size_mm, b0)[0, 0].numpy()
    assert error(image.get_fdata(), field) < 0.2
    assert error(image.get_fdata(), dipole(q, voxel_size_mm)[0, 0].numpy()) > 0.3  # the head is tilted
    assert error(image.get_fdata(), -field) > 1.5  # the sign matters
    assert error(r2prime, 137 * (para + dia)) < 0.2


def test_two_relaxivities(tmp_path: Path) -> None:
    """Where the signal is strong R2' is that of both sources with their own relaxivity, and of no single one."""
    simulate(output=str(tmp_path), snr=1e4, relaxivity_para=137.0, relaxivity_dia=70.0, **COARSE)
    scan = json.loads((tmp_path / "sub-01" / "sub-01_simulation.json").read_text())["scan"]
    assert (scan["relaxivity_para_per_s_ppm"], scan["relaxivity_dia_per_s_ppm"]) == (137.0, 70.0)
    para, dia, r2prime, r2star = (
        load(tmp_path, key) for key in (keys.CHI_PARA, keys.CHI_DIA, keys.R2PRIME, keys.R2STAR)
    )
    inside = (load(tmp_path, keys.MASK) > 0) & (r2star < 60)
    found = np.linalg.lstsq(np.stack([para[inside], dia[inside]], axis=1), r2prime[inside], rcond=None)[0]
    assert found == pytest.approx([137.0, 70.0], rel=0.02)


def test_echoes(dataset: Path) -> None:
    folder = dataset / "sub-01" / "anat"
    sidecar = json.loads((folder / "sub-01_echo-2_part-phase_MEGRE.json").read_text())
    assert sidecar == {"EchoTime": 0.011, "MagneticFieldStrength": 3.0, "Units": "rad"}
    mask = load(dataset, keys.MASK) > 0
    first, second = (nib.load(folder / f"sub-01_echo-{i}_part-mag_MEGRE.nii.gz").get_fdata()[mask] for i in (1, 2))
    rate = np.log(first.sum() / second.sum()) / 0.006
    assert 0.7 < rate / load(dataset, keys.R2STAR)[mask].mean() < 1.1
    magnitudes = [nib.load(path).get_fdata() for path in sorted(folder.glob("sub-01_*_part-mag_MEGRE.nii.gz"))]
    assert len(magnitudes) == 5
    assert np.allclose(load(dataset, keys.MAGNITUDE), np.sqrt(sum(echo**2 for echo in magnitudes)), rtol=1e-5)
    phase = nib.load(folder / "sub-01_echo-1_part-phase_MEGRE.nii.gz").get_fdata()[mask]
    expected = 2 * np.pi * 0.005 * 42.577 * 3 * load(dataset, keys.LOCAL_FIELD)[mask]
    assert np.median(np.abs(phase - expected)) < 0.02


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"subjects": 0}, "--subjects must be positive"),
        ({"snr": -1.0}, "--snr must be positive"),
        ({"b0_tesla": 0.0}, "--b0_tesla must be positive"),
        ({"orientations": 0}, "orientations must be 1, or 3 and more for COSMOS, got 0"),
        ({"orientations": 2}, "orientations must be 1, or 3 and more for COSMOS, got 2"),
        ({"lesions": -1}, "--lesions must not be negative"),
        ({"seed": -1}, "--seed must not be negative"),
        ({"relaxivity": -137.0}, "relaxivities must be positive"),
        ({"relaxivity_para": 137.0}, "--relaxivity_para and --relaxivity_dia belong together"),
        ({"relaxivity_para": 137.0, "relaxivity_dia": 110.0, "orientations": 3}, "with a single relaxivity"),
        ({"voxel_size": (1.0, 1.0, 0.0)}, "voxel_size_mm must be three positive numbers"),
    ],
)
def test_wrong_settings(tmp_path: Path, options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        simulate(output=str(tmp_path / "out"), **options)
    assert not list(tmp_path.iterdir())


def test_other_files_are_not_mixed_with(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        simulate(output=str(tmp_path))
    with pytest.raises(InputError, match="cannot write"):
        simulate(output=str(tmp_path / "mine.txt" / "dataset"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
