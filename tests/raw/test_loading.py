"""A scan becomes a dictionary: the order of the echoes, complex data, user's maps; what does not fit is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom_transforms import keys
from custom_transforms.checks import InputError
from custom_transforms.raw import MAPS, RawScan, explicit_scan, load_scan

TIMES = (0.004, 0.009, 0.02)
Echoes = tuple[np.ndarray, np.ndarray]
Save = Callable[..., list[str]]


@pytest.fixture
def scan(tmp_path: Path, echoes: Echoes, save_echoes: Save) -> RawScan:
    magnitude, phase = (save_echoes(tmp_path, name, e) for name, e in zip(("mag", "phase"), echoes, strict=True))
    return RawScan(
        name="sub-01",
        magnitude=tuple(magnitude),
        phase=tuple(phase),
        echo_times_s=TIMES,
        b0_tesla=3.0,
        vendor="Siemens",
    )


def one(path: Path, values: np.ndarray, affine: np.ndarray) -> str:
    nib.save(nib.Nifti1Image(values, affine), path)
    return str(path)


def test_a_scan_in_order(scan: RawScan, echoes: Echoes, oblique_affine: np.ndarray) -> None:
    data = load_scan(scan)
    for key, expected in zip((keys.MAGNITUDE, keys.PHASE), echoes, strict=True):
        assert isinstance(data[key], MetaTensor)
        assert data[key].dtype == torch.float32
        assert np.array_equal(data[key].numpy(), expected)
        assert np.allclose(data[key].affine.numpy(), oblique_affine, atol=1e-5)
    assert data[keys.ECHO_TIMES_S] == TIMES
    assert data[keys.B0_TESLA] == 3.0
    assert data["vendor"] == "Siemens"
    assert data[keys.NOTES] == []


def test_echoes_are_sorted_with_their_times(scan: RawScan, echoes: Echoes) -> None:
    data = load_scan(replace(scan, echo_times_s=(0.02, 0.004, 0.009)))
    assert data[keys.ECHO_TIMES_S] == TIMES
    assert np.array_equal(data[keys.MAGNITUDE].numpy(), echoes[0][[1, 2, 0]])
    assert np.array_equal(data[keys.PHASE].numpy(), echoes[1][[1, 2, 0]])


@pytest.mark.parametrize("echo_files", [True, False])
def test_one_file_of_all_echoes(
    tmp_path: Path, scan: RawScan, echoes: Echoes, oblique_affine: np.ndarray, echo_files: bool
) -> None:
    """Magnitude in one file, phase in three, and the other way round."""
    key = "magnitude" if echo_files else "phase"
    values = echoes[0] if echo_files else echoes[1]
    whole = one(tmp_path / "whole.nii", np.moveaxis(values, 0, -1), oblique_affine)
    data, expected = load_scan(replace(scan, **{key: (whole,)})), load_scan(scan)
    assert torch.equal(data[keys.MAGNITUDE], expected[keys.MAGNITUDE])
    assert torch.equal(data[keys.PHASE], expected[keys.PHASE])


@pytest.mark.parametrize("complex_file", [True, False])
def test_complex_data_become_magnitude_and_phase(
    tmp_path: Path, scan: RawScan, echoes: Echoes, save_echoes: Save, complex_file: bool
) -> None:
    smooth = echoes[1] * 0 + np.linspace(-1, 1, echoes[1].shape[-1], dtype=np.float32)
    signal = (echoes[0] * np.exp(1j * smooth)).astype(np.complex64)
    if complex_file:
        files: dict[str, tuple[str, ...]] = {"magnitude": tuple(save_echoes(tmp_path, "c", signal))}
    else:
        real, imaginary = save_echoes(tmp_path, "r", signal.real), save_echoes(tmp_path, "i", signal.imag)
        files = {"magnitude": (), "real": tuple(real), "imaginary": tuple(imaginary)}
    data = load_scan(replace(scan, **{"phase": (), **files}))
    assert np.allclose(data[keys.MAGNITUDE], echoes[0], rtol=1e-5)
    assert np.allclose(data[keys.PHASE], smooth, atol=1e-5)
    assert data[keys.PHASE_UNIT] == "rad"
    assert data[keys.NOTES] == []


def test_spin_echoes_and_maps(tmp_path: Path, scan: RawScan, echoes: Echoes, oblique_affine: np.ndarray) -> None:
    coarse = one(tmp_path / "se.nii", np.moveaxis(echoes[0][:2, ::2, ::2], 0, -1), oblique_affine)
    mask = one(tmp_path / "mask.nii", (echoes[0][0, ..., None] > 500).astype(np.uint8), oblique_affine)
    scan = replace(scan, spin_echo=(coarse,), spin_echo_times_s=(0.05, 0.02), maps={keys.MASK: mask})
    data = load_scan(scan)
    assert data[keys.SPIN_ECHO_TIMES_S] == (0.02, 0.05)
    assert np.array_equal(data[keys.SPIN_ECHO].numpy(), echoes[0][[1, 0], ::2, ::2])
    assert np.array_equal(data[keys.MASK].numpy()[0], echoes[0][0] > 500)
    assert data[keys.NOTES] == ["spin_echo is on another grid than magnitude and was interpolated to it"]


@pytest.mark.parametrize("key", [keys.TOTAL_FIELD, keys.LOCAL_FIELD, keys.UNWRAPPED_PHASE])
def test_a_field_needs_no_phase(
    tmp_path: Path, scan: RawScan, echoes: Echoes, oblique_affine: np.ndarray, key: str
) -> None:
    values = np.moveaxis(echoes[1], 0, -1) if key == keys.UNWRAPPED_PHASE else echoes[1][0]
    field = one(tmp_path / "field.nii", values, oblique_affine)
    data = load_scan(replace(scan, phase=(), maps={key: field}))
    assert keys.PHASE not in data
    assert np.array_equal(np.moveaxis(data[key].numpy(), 0, -1).squeeze(), values)
    alone = load_scan(replace(scan, magnitude=(), phase=(), maps={key: field}))
    assert keys.MAGNITUDE not in alone


def test_one_echo_is_noted(scan: RawScan) -> None:
    data = load_scan(replace(scan, magnitude=scan.magnitude[:1], phase=scan.phase[:1], echo_times_s=TIMES[:1]))
    assert data[keys.ECHO_TIMES_S] == TIMES[:1]
    assert "R2* cannot" in data[keys.NOTES][0]


def test_unknown_vendor_is_noted(scan: RawScan) -> None:
    assert "vendor is not known" in load_scan(replace(scan, vendor=None))[keys.NOTES][0]


def test_deobliqued_image_is_noted(tmp_path: Path, scan: RawScan, echoes: Echoes, save_echoes: Save) -> None:
    magnitude, phase = (
        tuple(save_echoes(tmp_path, name, e, affine=np.eye(4))) for name, e in zip("mp", echoes, strict=True)
    )
    orientation = (1.0, 0.0, 0.0, 0.0, float(np.cos(0.3)), float(np.sin(0.3)))
    deobliqued = replace(scan, magnitude=magnitude, phase=phase, sidecar_orientation=orientation)
    assert "deobliqued" in load_scan(deobliqued)[keys.NOTES][0]
    assert load_scan(replace(scan, sidecar_orientation=orientation))[keys.NOTES] == []


def test_image_without_orientation_is_noted(tmp_path: Path, scan: RawScan, echoes: Echoes, save_echoes: Save) -> None:
    magnitude, phase = (
        tuple(save_echoes(tmp_path, name, e, affine=None)) for name, e in zip("mp", echoes, strict=True)
    )
    assert "--b0_direction" in load_scan(replace(scan, magnitude=magnitude, phase=phase))[keys.NOTES][0]


def spoil(scan: RawScan, tmp_path: Path, change: Callable[[np.ndarray], Any], *, part: str = "phase") -> RawScan:
    """Change the second echo of the magnitude or phase."""
    files = list(getattr(scan, part))
    image = nib.load(files[1])
    changed = change(np.asarray(image.dataobj).copy())
    files[1] = one(tmp_path / "spoilt.nii", changed, image.affine)
    return replace(scan, **{part: tuple(files)})


def with_nan(values: np.ndarray) -> np.ndarray:
    values[0, 0, :3] = [np.nan, np.inf, -np.inf]
    return values


@pytest.mark.parametrize(
    ("part", "change", "finding"),
    [
        ("phase", with_nan, "has 3 NaN or infinite values"),
        ("magnitude", with_nan, "has 3 NaN or infinite values"),
        ("phase", np.zeros_like, "phase .*, echo 2, is 0 everywhere"),
        ("magnitude", lambda values: values * 0 + 7, "magnitude .*, echo 2, is 7 everywhere"),
        ("magnitude", lambda values: -values, "negative values; is it a phase"),
        ("phase", lambda values: values[:, :-1], "not on the grid"),
        ("phase", lambda values: np.stack([values] * 2, -1), "holds 2 volumes and there are 3 files"),
    ],
)
def test_impossible_numbers_are_refused(
    scan: RawScan, tmp_path: Path, part: str, change: Callable[[np.ndarray], Any], finding: str
) -> None:
    with pytest.raises(InputError, match=finding) as caught:
        load_scan(spoil(scan, tmp_path, change, part=part))
    assert "\n" not in str(caught.value)


def test_nan_outside_the_mask_does_no_harm(scan: RawScan, tmp_path: Path, oblique_affine: np.ndarray) -> None:
    spoilt = spoil(scan, tmp_path, with_nan)
    mask = np.ones((8, 7, 6), np.uint8)
    mask[0, 0] = 0
    data = load_scan(replace(spoilt, maps={keys.MASK: one(tmp_path / "mask.nii", mask, oblique_affine)}))
    assert torch.equal(data[keys.PHASE][1, 0, 0, :3].as_tensor(), torch.zeros(3))
    assert "3 NaN or infinite values, which were set to 0" in data[keys.NOTES][0]
    mask[0, 0, 0] = 1
    inside = replace(spoilt, maps={keys.MASK: one(tmp_path / "mask.nii", mask, oblique_affine)})
    with pytest.raises(InputError, match="has 1 NaN or infinite values inside the mask"):
        load_scan(inside)
    assert bool(load_scan(inside, force=True)[keys.PHASE].isfinite().all())


def other_grid(scan: RawScan, save_echoes: Save, tmp_path: Path, phase: np.ndarray, shift_mm: float) -> RawScan:
    affine = nib.load(scan.phase[0]).affine.copy()
    affine[2, 3] += shift_mm
    return replace(scan, phase=tuple(save_echoes(tmp_path, "other", phase, affine=affine)))


def test_phase_of_another_scan_is_refused(scan: RawScan, echoes: Echoes, save_echoes: Save, tmp_path: Path) -> None:
    phase = echoes[1]
    with pytest.raises(InputError, match=r"shape \(8, 7, 5\).*wrapped phase cannot be resampled"):
        load_scan(other_grid(scan, save_echoes, tmp_path, phase[..., :-1], 0))
    with pytest.raises(InputError, match=r"lies up to 2 mm away.*wrapped phase cannot be resampled"):
        load_scan(other_grid(scan, save_echoes, tmp_path, phase, 2.0))
    with pytest.raises(InputError, match=r"has 3 echoes and phase .* has 2"):
        load_scan(replace(scan, phase=scan.phase[:2]))
    load_scan(other_grid(scan, save_echoes, tmp_path, phase, 0.05))  # rounding of a header


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"echo_times_s": ()}, "sub-01 has no echo times"),
        ({"echo_times_s": (4.0, 9.0, 20.0)}, "look like ms"),
        ({"echo_times_s": (0.004, 0.009)}, "3 echoes and 2 echo times"),
        ({"echo_times_s": (0.004, 0.009, 0.004)}, "twice"),
        ({"b0_tesla": None}, "no field strength"),
        ({"b0_tesla": 30000.0}, "gauss"),
        ({"phase": ()}, "no phase; give --phase"),
        ({"magnitude": ()}, "no magnitude"),
        ({"phase_echo_times_s": (0.004, 0.009, 0.021)}, "those of the phase 0.004, 0.009, 0.021"),
        ({"magnitude": (), "phase": (), "real": ("a.nii",)}, "only one of real and imaginary"),
        ({"magnitude": (), "phase": ()}, "no phase"),
    ],
)
def test_incomplete_scans_are_refused(scan: RawScan, changes: dict[str, Any], finding: str) -> None:
    with pytest.raises(InputError, match=finding):
        load_scan(replace(scan, **changes))


@pytest.mark.parametrize("key", [key for key in MAPS if key not in (keys.R2, keys.UNWRAPPED_PHASE)])
def test_maps_must_be_one_volume_on_the_grid(
    tmp_path: Path, scan: RawScan, echoes: Echoes, oblique_affine: np.ndarray, key: str
) -> None:
    several = one(tmp_path / "several.nii", np.moveaxis(echoes[0], 0, -1), oblique_affine)
    with pytest.raises(InputError, match=f"{key} .* holds 3 volumes"):
        load_scan(replace(scan, maps={key: several}))
    elsewhere = one(tmp_path / "elsewhere.nii", echoes[0][0], np.eye(4))
    with pytest.raises(InputError, match=f"{key} .* is not on the grid of magnitude"):
        load_scan(replace(scan, maps={key: elsewhere}))
    empty = one(tmp_path / "empty.nii", np.zeros_like(echoes[0][0]), oblique_affine)
    with pytest.raises(InputError, match=f"{key} .* is 0 everywhere"):
        load_scan(replace(scan, maps={key: empty}))


def test_the_crop_of_a_real_head_loads(romeo_crop: Path) -> None:
    magnitude, phase = str(romeo_crop / "Mag.nii"), str(romeo_crop / "Phase.nii")
    scan = explicit_scan(magnitude=magnitude, phase=phase, echo_times_s=(0.004, 0.008, 0.012), b0_tesla=7)
    data = load_scan(scan)
    assert data[keys.MAGNITUDE].shape == data[keys.PHASE].shape == (3, 51, 51, 41)
    assert float(data[keys.PHASE].max()) == pytest.approx(np.pi / 855, rel=1e-3)
    assert float(data[keys.PHASE].min()) == pytest.approx(-np.pi / 855, rel=1e-3)
    assert np.allclose(data[keys.PHASE].affine.diagonal()[:3].tolist(), (0.46875, 0.46875, 1.0))
    assert [note for note in data[keys.NOTES] if "vendor" not in note] == []


@pytest.mark.parametrize(
    ("factor", "finding"), [(255.0, "other than 0 and 1; store"), (0.4, "is empty; it must be 1"), (0.9, "other than")]
)
def test_a_mask_is_of_0_and_1(
    tmp_path: Path, scan: RawScan, echoes: Echoes, oblique_affine: np.ndarray, factor: float, finding: str
) -> None:
    """Maps are multiplied by it, so 255 would scale them."""
    inside = (echoes[0][0] > 500).astype(np.float32)
    scan = replace(scan, maps={keys.MASK: one(tmp_path / "mask.nii", factor * inside, oblique_affine)})
    with pytest.raises(InputError, match=finding):
        load_scan(scan)
    if factor > 0.5:
        data = load_scan(scan, force=True)
        assert np.array_equal(data[keys.MASK].numpy()[0], inside)
        assert "cut at 0.5" in data[keys.NOTES][0]


@pytest.mark.parametrize("factor", [1e30, 1e-30])
def test_signals_whose_squares_are_no_numbers_are_refused(
    tmp_path: Path, scan: RawScan, echoes: Echoes, oblique_affine: np.ndarray, factor: float
) -> None:
    image = one(tmp_path / "far.nii", np.moveaxis(echoes[0] * np.float32(factor), 0, -1), oblique_affine)
    with pytest.raises(InputError, match="give it in another unit"):
        load_scan(replace(scan, magnitude=(image,)))


def test_r2_on_a_grid_of_its_own_is_interpolated_by_the_affines(
    tmp_path: Path, scan: RawScan, oblique_affine: np.ndarray
) -> None:
    """Stored from right to left it has the same shape; voxel by voxel its values would be those of the other side."""
    ramp = np.broadcast_to(np.linspace(5, 40, 8, dtype=np.float32)[:, None, None], (8, 7, 6)).copy()
    turned = oblique_affine @ np.array([[-1, 0, 0, 7], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    data = load_scan(replace(scan, maps={keys.R2: one(tmp_path / "r2.nii", ramp[::-1], turned)}))
    assert np.allclose(data[keys.R2].numpy()[0], ramp, atol=1e-3)
    assert not np.allclose(ramp[::-1], ramp, atol=1)
    assert np.allclose(data[keys.R2].affine, data[keys.MAGNITUDE].affine)
    beside = oblique_affine + np.pad([[900.0], [0], [0], [0]], ((0, 0), (3, 0)))
    with pytest.raises(InputError, match="lies beside"):
        load_scan(replace(scan, maps={keys.R2: one(tmp_path / "r2.nii", ramp, beside)}))
    with pytest.raises(InputError, match="too thin"):
        load_scan(replace(scan, maps={keys.R2: one(tmp_path / "r2.nii", ramp[..., :2], oblique_affine)}))
