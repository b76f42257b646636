"""The raw dataset on disk: what a scanner would leave, and a truth that belongs to it."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from custom_transforms import keys
from custom_transforms import simulate_raw as module
from custom_transforms.checks import InputError
from custom_transforms.data import BIDS_SUFFIXES, bids_data_list, bids_path
from custom_transforms.phantom.brain import AFFINE
from custom_transforms.phantom.warp import rotation_matrix
from custom_transforms.physics import DipoleConvolution
from custom_transforms.relaxometry import fit_r2star
from custom_transforms.simulate_raw import flip_first_axis, orientation_patient_dicom, simulate_raw
from custom_transforms.transforms import b0_direction_from_affine

COARSE = {"voxel_size": (4.0, 4.0, 5.0), "tilt_deg": 25.0, "seed": 7}
GRADIENT_ECHO_TIMES_S = (0.005, 0.011, 0.017, 0.023, 0.029)
SPIN_ECHO_TIMES_S = (0.015, 0.030, 0.045, 0.060, 0.075, 0.090)


class Ball:
    """Takes the place of the anatomical brain where anatomy does not matter: a ball, upper half paramagnetic."""

    def __init__(self, *, voxel_size_mm: Sequence[float], tilt_deg: float) -> None:
        self.voxel_size_mm = tuple(voxel_size_mm)
        self.tilt_range_deg = (tilt_deg, tilt_deg)

    def __call__(self, seed: int) -> dict[str, torch.Tensor]:
        size = torch.tensor(self.voxel_size_mm)
        index = torch.stack(torch.meshgrid(*[torch.arange(-7.0, 8.0)] * 3, indexing="ij"), dim=-1)
        mask = ((index * size).norm(dim=-1) < 25 + seed % 3)[None].float()
        top = mask * (index[..., 2] > 0)
        affine = torch.eye(4, dtype=torch.float64)
        rotation = rotation_matrix(torch.tensor([0.6, 0.8, 0.0]).double(), self.tilt_range_deg[0])
        affine[:3, :3] = rotation * size
        return {
            **{keys.CHI_PARA: 0.1 * top, keys.CHI_DIA: 0.05 * (mask - top), keys.R2: 14 * mask, keys.MASK: mask},
            **{keys.PROTON_DENSITY: mask, keys.REGIONS: mask.byte(), keys.VOXEL_SIZE_MM: size, AFFINE: affine},
            keys.B0_DIRECTION: rotation[2].float(),
        }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw") / "new" / "dataset"
    simulate_raw(output=str(folder), **COARSE)
    return folder


@pytest.fixture
def balls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AnatomicalBrain", Ball)


def raw(dataset: Path, suffix: str, subject: str = "sub-01") -> np.ndarray:
    """All echoes of a kind, (E, X, Y, Z)."""
    files = sorted((dataset / subject / "anat").glob(f"{subject}_echo-*_{suffix}.nii.gz"))
    return np.stack([nib.load(file).get_fdata() for file in files])


def truth(dataset: Path, suffix: str, subject: str = "sub-01") -> np.ndarray:
    return nib.load(bids_path(dataset / "derivatives" / "truth", subject, suffix)).get_fdata()


def complex_echoes(dataset: Path) -> torch.Tensor:
    magnitude, phase = (torch.from_numpy(raw(dataset, f"part-{part}_MEGRE")) for part in ("mag", "phase"))
    return torch.polar(magnitude, phase / 4096 * math.pi)


def test_raw_images_are_stored_as_by_a_scanner(dataset: Path) -> None:
    assert json.loads((dataset / "dataset_description.json").read_text())["DatasetType"] == "raw"
    folder = dataset / "sub-01" / "anat"
    assert len(list(folder.iterdir())) == 2 * (2 * 5 + 6)
    affine = nib.load(folder / "sub-01_echo-1_MESE.nii.gz").affine
    assert np.linalg.det(affine) < 0 and nib.aff2axcodes(affine) == ("L", "A", "S")
    for file in folder.glob("*.nii.gz"):
        image = nib.load(file)
        assert image.get_data_dtype() == np.int16
        assert image.header["sform_code"] == image.header["qform_code"] == 1
        np.testing.assert_allclose(image.affine, affine)
        np.testing.assert_allclose(image.header.get_zooms(), COARSE["voxel_size"])
    phase, magnitude = raw(dataset, "part-phase_MEGRE"), raw(dataset, "part-mag_MEGRE")
    assert phase.min() == -4096 and phase.max() == 4094 and not (phase % 2).any()
    assert magnitude.min() >= 0 and 1000 < magnitude.max() < 32767


@pytest.mark.parametrize(
    ("suffix", "echo_times_s"),
    [
        ("part-mag_MEGRE", GRADIENT_ECHO_TIMES_S),
        ("part-phase_MEGRE", GRADIENT_ECHO_TIMES_S),
        ("MESE", SPIN_ECHO_TIMES_S),
    ],
)
def test_sidecars(dataset: Path, suffix: str, echo_times_s: tuple[float, ...]) -> None:
    files = sorted((dataset / "sub-01" / "anat").glob(f"*_{suffix}.json"))
    sidecars = [json.loads(file.read_text()) for file in files]
    assert tuple(sidecar["EchoTime"] for sidecar in sidecars) == echo_times_s
    for number, sidecar in enumerate(sidecars, start=1):
        assert sidecar["EchoNumber"] == number
        assert (sidecar["Manufacturer"], sidecar["MagneticFieldStrength"]) == ("Siemens", 3.0)
        row, column = np.array(sidecar["ImageOrientationPatientDICOM"]).reshape(2, 3)
        assert row @ column == pytest.approx(0, abs=1e-6)
        affine = nib.load(files[number - 1].with_suffix(".nii.gz")).affine
        slices = affine[:3, 2] / np.linalg.norm(affine[:3, 2]) * (-1, -1, 1)  # R, A, S to L, P, S
        np.testing.assert_allclose(np.cross(row, column), slices, atol=1e-6)
        assert slices[2] == pytest.approx(math.cos(math.radians(25)), abs=1e-6)


def test_axial_slices_have_the_usual_orientation_of_dicom() -> None:
    affine = torch.diag(torch.tensor([-2.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    assert orientation_patient_dicom(affine) == [1, 0, 0, 0, 1, 0]


def test_turning_an_axis_round_moves_nothing() -> None:
    maps = Ball(voxel_size_mm=(4.0, 4.0, 5.0), tilt_deg=30.0)(0)
    maps[keys.CHI_PARA] = torch.rand(1, 15, 15, 15)
    turned = flip_first_axis(maps)
    here, there = (
        maps[AFFINE] @ torch.tensor([2.0, 3, 4, 1]).double(),
        turned[AFFINE] @ torch.tensor([12.0, 3, 4, 1]).double(),
    )
    torch.testing.assert_close(here, there)
    assert maps[keys.CHI_PARA][0, 2, 3, 4] == turned[keys.CHI_PARA][0, 12, 3, 4]
    torch.testing.assert_close(turned[keys.B0_DIRECTION], b0_direction_from_affine(turned[AFFINE]).float())
    assert not torch.allclose(maps[keys.B0_DIRECTION], turned[keys.B0_DIRECTION])


def test_truth_is_a_dataset_of_its_own(dataset: Path) -> None:
    folder = dataset / "derivatives" / "truth"
    assert len(bids_data_list(folder, labelled=True, magnitude=True)) == 1
    assert json.loads((folder / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    shape = raw(dataset, "MESE").shape[1:]
    mask = truth(dataset, BIDS_SUFFIXES[keys.MASK]) > 0
    for key, suffix in BIDS_SUFFIXES.items():
        assert truth(dataset, suffix).shape == shape
        if key != keys.MAGNITUDE:
            assert not truth(dataset, suffix)[~mask].any()
    image = nib.load(bids_path(folder, "sub-01", "totalfield"))
    np.testing.assert_allclose(image.affine, nib.load(dataset / "sub-01" / "anat" / "sub-01_echo-1_MESE.nii.gz").affine)
    sidecar = json.loads((folder / "sub-01" / "sub-01_simulation.json").read_text())
    np.testing.assert_allclose(sidecar["b0_direction"], b0_direction_from_affine(image.affine), atol=1e-5)
    assert sidecar["phase_sign"] == 1 and sidecar["scan"]["vendor"] == "Siemens"


def test_echoes_show_the_truth_up_to_the_noise(dataset: Path) -> None:
    """The field, R2* and R2 that are fitted to the files, where there is signal."""
    echoes = complex_echoes(dataset)
    total = torch.from_numpy(truth(dataset, "totalfield"))[None]
    r2star, r2 = truth(dataset, "R2starmap"), truth(dataset, "R2map")
    inside = (truth(dataset, BIDS_SUFFIXES[keys.MASK]) > 0) & (r2star < 40)
    gained = echoes[1:] / echoes[:-1]
    turn = torch.polar(torch.ones_like(total), 2 * math.pi * 42.577 * 3 * 0.006 * total)
    error = (gained / turn).angle().numpy()[:, inside]
    assert np.abs(np.median(error)) < 0.002 and error.std() < 0.06  # rad, from noise of 0.01 a channel
    wrong = (gained * turn).angle().numpy()[:, inside]
    assert wrong.std() > 5 * error.std()  # the sign matters
    rates = (
        (echoes.abs(), GRADIENT_ECHO_TIMES_S, r2star),
        (torch.from_numpy(raw(dataset, "MESE")), SPIN_ECHO_TIMES_S, r2),
    )
    for magnitude, echo_times_s, expected in rates:
        difference = (fit_r2star(magnitude, echo_times_s)[0][0].numpy() - expected)[inside]
        assert abs(np.median(difference)) < 0.05 and np.abs(difference).mean() < 1.0  # 1/s
    assert (r2star - r2)[inside].mean() > 3  # so that the two cannot be exchanged


def test_local_field_is_that_of_the_sources(dataset: Path) -> None:
    para, dia = (truth(dataset, BIDS_SUFFIXES[key]) for key in (keys.CHI_PARA, keys.CHI_DIA))
    affine = nib.load(bids_path(dataset / "derivatives" / "truth", "sub-01", "localfield")).affine
    dipole, geometry = DipoleConvolution(padding=1.0), (torch.tensor([COARSE["voxel_size"]]),)
    q = torch.from_numpy(para - dia).float()[None, None]
    mask = truth(dataset, BIDS_SUFFIXES[keys.MASK]) > 0
    local = truth(dataset, "localfield")[mask]
    expected = dipole(q, *geometry, b0_direction_from_affine(affine)[None].float())[0, 0].numpy()[mask]
    assert np.linalg.norm(local - expected) < 0.02 * np.linalg.norm(local)
    mirrored = b0_direction_from_affine(affine)[None].float() * torch.tensor([-1.0, 1.0, 1.0])
    wrong = dipole(q, *geometry, mirrored)[0, 0].numpy()[mask]
    assert np.linalg.norm(local - wrong) > 0.1 * np.linalg.norm(local)
    total = truth(dataset, "totalfield")[mask]
    assert 3 < total.std() / local.std() < 100  # the background is far stronger


@pytest.mark.usefixtures("balls")
def test_general_electric_stores_the_opposite_phase(tmp_path: Path) -> None:
    options = {"voxel_size": (5.0, 5.0, 5.0), "tilt_deg": 10.0, "snr": 1e4, "spin_echo": False}
    for vendor in ("GE", "Philips"):
        simulate_raw(output=str(tmp_path / vendor), vendor=vendor, **options)
    assert not list((tmp_path / "GE").rglob("*MESE*"))
    mask = truth(tmp_path / "GE", BIDS_SUFFIXES[keys.MASK]) > 0
    assert np.array_equal(truth(tmp_path / "GE", "totalfield"), truth(tmp_path / "Philips", "totalfield"))
    gained = [
        (complex_echoes(tmp_path / vendor)[1:] / complex_echoes(tmp_path / vendor)[:-1]).angle()[:, mask]
        for vendor in ("GE", "Philips")
    ]
    assert (gained[0] + gained[1]).abs().median() < 0.01
    assert (gained[0] - gained[1]).abs().median() > 0.05


@pytest.mark.usefixtures("balls")
def test_subjects_differ_and_repeat(tmp_path: Path) -> None:
    options = {"voxel_size": (5.0, 5.0, 5.0), "seed": 3}
    simulate_raw(output=str(tmp_path / "two"), subjects=2, **options)
    simulate_raw(output=str(tmp_path / "one"), subjects=1, **options)
    for suffix in ("part-mag_MEGRE", "part-phase_MEGRE", "MESE"):
        first = raw(tmp_path / "two", suffix)
        assert np.array_equal(first, raw(tmp_path / "one", suffix))
        second = raw(tmp_path / "two", suffix, "sub-02")
        assert first.shape != second.shape or not np.allclose(first, second)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"subjects": 0}, "--subjects must be positive"),
        ({"snr": -1.0}, "--snr must be positive"),
        ({"b0_tesla": 0.0}, "--b0_tesla must be positive"),
        ({"seed": -1}, "--seed must not be negative"),
        ({"vendor": "ge"}, "--vendor must be one of GE, Siemens, Philips, Canon, UIH, got 'ge'"),
        ({"voxel_size": (1.0, 1.0, 0.0)}, "voxel_size_mm must be three positive numbers"),
        ({"tilt_deg": 500.0}, "tilt_deg must be from -180 to 180"),
    ],
)
def test_wrong_settings(tmp_path: Path, options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        simulate_raw(output=str(tmp_path / "out"), **options)
    assert not list(tmp_path.iterdir())


def test_other_files_are_not_mixed_with(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        simulate_raw(output=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
