"""Input that cannot be right is refused, by file and with the remedy; what is right passes."""

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom_transforms.checks import InputError, check_maps, doubtful_sign, implausible, notes, read_map
from custom_transforms.keys import LOCAL_FIELD, MASK, R2PRIME, R2STAR

SHAPE = (9, 8, 7)
HZ_PER_PPM_3T = 3 * 42.577
UNITS = {
    "field_unit": "ppm",
    "rate_unit": "per_s",
    "b0_tesla": 3.0,
    "echo_time_s": None,
    "relaxivities_per_s_ppm": (137.0, 137.0),
}

NOTES = {"rate_unit": "per_s", "b0_tesla": 3.0, "b0_direction": None}

Maps = dict[str, MetaTensor]


def as_map(key: str, values: torch.Tensor, affine: torch.Tensor | None = None) -> MetaTensor:
    meta = {"filename_or_obj": f"{key}.nii.gz", "has_orientation": True}
    return MetaTensor(values, affine=torch.eye(4).double() if affine is None else affine, meta=meta)


@pytest.fixture
def maps() -> Maps:
    """A field of SD 0.012 ppm, R2' of median 6 1/s, a block of a mask."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(1, *SHAPE)
    mask[:, 2:7, 2:6, 1:6] = 1
    field = 0.012 * torch.randn(1, *SHAPE, generator=generator)
    r2prime = 6 + torch.randn(1, *SHAPE, generator=generator)
    values = {LOCAL_FIELD: field, R2PRIME: r2prime, MASK: mask}
    return {key: as_map(key, value) for key, value in values.items()}


@pytest.fixture
def r2star_maps(maps: Maps) -> Maps:
    """The same with R2* of median 18 1/s instead of R2'."""
    r2prime = maps.pop(R2PRIME)
    return maps | {R2STAR: as_map(R2STAR, r2prime.as_tensor() + 12)}


@pytest.mark.parametrize("name", ["maps", "r2star_maps"])
def test_good_maps_pass(name: str, request: pytest.FixtureRequest) -> None:
    maps = request.getfixturevalue(name)
    check_maps(maps)
    assert implausible(maps, **UNITS) == []
    assert notes(maps, **NOTES) == []


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> str:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return str(path)


def test_read_map_keeps_values_affine_and_path(tmp_path: Path) -> None:
    affine = np.diag([-1.0, 2.0, 3.0, 1.0])
    array = np.random.default_rng(0).integers(-5, 5, SHAPE).astype(np.int16)
    path = save(tmp_path / "map.nii", array, affine)
    image = read_map(LOCAL_FIELD, path)
    assert image.shape == (1, *SHAPE)
    assert image.dtype == torch.float32
    assert np.array_equal(image[0].numpy(), array)
    assert np.array_equal(image.affine.numpy(), affine)
    assert image.meta["filename_or_obj"] == path


def truncated(path: Path) -> str:
    """Give a gzip file that ends too early."""
    save(path, np.random.default_rng(0).normal(size=(20, 20, 20)))
    path.write_bytes(path.read_bytes()[:-3000])
    return str(path)


def short(path: Path) -> str:
    """Give a file whose header promises more than there is."""
    save(path, np.zeros((20, 20, 20)))
    path.write_bytes(path.read_bytes()[:-3000])
    return str(path)


def text(path: Path) -> str:
    path.write_text("no image")
    return str(path)


def zipped_text(path: Path) -> str:
    path.write_bytes(gzip.compress(b"no image"))
    return str(path)


def mgh(path: Path) -> str:
    nib.save(nib.MGHImage(np.zeros(SHAPE, np.float32), np.eye(4)), path)
    return str(path)


@pytest.mark.parametrize(
    ("make", "name", "words"),
    [
        (truncated, "a.nii.gz", "cannot be read as NIfTI"),
        (short, "a.nii", "cannot be read as NIfTI"),
        (text, "a.nii.gz", "cannot be read as NIfTI"),
        (text, "a.nii", "cannot be read as NIfTI"),
        (text, "a.txt", "cannot be read as NIfTI"),
        (zipped_text, "a.nii.gz", "cannot be read as NIfTI"),
        (mgh, "a.mgz", "cannot be read as NIfTI"),
        (lambda path: save(path, np.zeros((4, 4, 4, 2))), "a.nii", "three dimensions, got shape (4, 4, 4, 2)"),
        (lambda path: save(path, np.zeros((4, 4))), "a.nii", "three dimensions"),
        (lambda path: save(path, np.zeros(SHAPE, np.complex64)), "a.nii", "complex64"),
    ],
)
def test_unreadable_files(tmp_path: Path, make: Callable[[Path], str], name: str, words: str) -> None:
    path = make(tmp_path / name)
    with pytest.raises(InputError) as error:
        read_map(R2PRIME, path)
    assert words in str(error.value)
    assert f"r2prime ({path})" in str(error.value)


def test_missing_file() -> None:
    with pytest.raises(FileNotFoundError, match=r"mask: there is no file nowhere\.nii"):
        read_map(MASK, "nowhere.nii")


def fill(key: str, value: float, *, inside: bool) -> Callable[[Maps], None]:
    def change(maps: Maps) -> None:
        mask = maps[MASK].as_tensor() > 0.5
        maps[key][mask if inside else ~mask] = value

    return change


def set_one(key: str, value: float) -> Callable[[Maps], None]:
    def change(maps: Maps) -> None:
        maps[key][0, 3, 3, 3] = value

    return change


def crop(maps: Maps) -> None:
    maps[MASK] = as_map(MASK, maps[MASK].as_tensor()[..., :-1])


def shift_mm(offset_mm: float) -> Callable[[Maps], None]:
    def change(maps: Maps) -> None:
        affine = torch.eye(4).double()
        affine[0, 3] = offset_mm
        maps[R2PRIME] = as_map(R2PRIME, maps[R2PRIME].as_tensor(), affine)

    return change


def take_slice(maps: Maps) -> None:
    for key, image in maps.items():
        maps[key] = as_map(key, image.as_tensor()[..., 3:4])


def shear(maps: Maps) -> None:
    affine = torch.eye(4).double()
    affine[0, 1] = 0.2
    for key, image in maps.items():
        maps[key] = as_map(key, image.as_tensor(), affine)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (crop, ["mask (mask.nii.gz)", "local_field (local_field.nii.gz)", "resample"]),
        (shift_mm(0.5), ["r2prime (r2prime.nii.gz)", "0.5 mm", "resample"]),
        (shear, ["sheared", "resample"]),
        (take_slice, ["local_field (local_field.nii.gz) is a single slice", "whole volume"]),
        (fill(MASK, 0.0, inside=True), ["mask (mask.nii.gz) is empty"]),
        (set_one(MASK, float("nan")), ["mask (mask.nii.gz) has 1 NaN"]),
        (set_one(LOCAL_FIELD, float("nan")), ["local_field (local_field.nii.gz) has 1 NaN", "inside the mask"]),
        (set_one(R2PRIME, float("inf")), ["r2prime (r2prime.nii.gz) has 1 NaN or infinite"]),
        (fill(LOCAL_FIELD, 0.0, inside=True), ["local_field (local_field.nii.gz) is 0 everywhere"]),
        (fill(R2PRIME, 7.0, inside=True), ["r2prime (r2prime.nii.gz) is 7 everywhere"]),
    ],
)
def test_unusable_maps(maps: Maps, change: Callable[[Maps], None], words: list[str]) -> None:
    change(maps)
    with pytest.raises(InputError) as error:
        check_maps(maps)
    assert not [word for word in words if word not in str(error.value)]


@pytest.mark.parametrize("change", [fill(R2PRIME, float("nan"), inside=False), shift_mm(0.05)])
def test_harmless_maps_pass(maps: Maps, change: Callable[[Maps], None]) -> None:
    change(maps)
    check_maps(maps)
    assert implausible(maps, **UNITS) == []


def scale(key: str, factor: float) -> Callable[[Maps], None]:
    def change(maps: Maps) -> None:
        maps[key] *= factor

    return change


@pytest.mark.parametrize(
    ("change", "units", "words"),
    [
        (scale(LOCAL_FIELD, HZ_PER_PPM_3T), {}, ["local_field.nii.gz", "--field_unit hz"]),
        (scale(LOCAL_FIELD, 1), {"field_unit": "hz"}, ["local_field.nii.gz", "--field_unit ppm"]),
        (scale(LOCAL_FIELD, 1e-6), {}, ["local_field.nii.gz", "check its unit"]),
        (scale(LOCAL_FIELD, 1), {"field_unit": "rad", "echo_time_s": 20.0}, ["20 s looks like ms"]),
        (scale(R2PRIME, 1e-3), {}, ["r2prime.nii.gz", "--rate_unit per_ms"]),
        (scale(R2PRIME, 1), {"rate_unit": "per_ms"}, ["r2prime.nii.gz", "--rate_unit per_s"]),
        (scale(R2PRIME, 1e9), {}, ["r2prime.nii.gz", "check its unit"]),
        (scale(R2PRIME, 1 / 137), {}, ["r2prime.nii.gz", "not yet divided by the relaxivity"]),
        (scale(R2PRIME, 1), {"relaxivities_per_s_ppm": (137.0, 0.137)}, ["relaxivity of 0.137", "15 and 1500"]),
        (scale(R2PRIME, 1), {"b0_tesla": 3000.0}, ["3000 T", "--b0_tesla in tesla"]),
        (scale(MASK, 255), {}, ["mask.nii.gz", "other than 0 and 1"]),
    ],
)
def test_implausible_maps(maps: Maps, change: Callable[[Maps], None], units: dict, words: list[str]) -> None:
    change(maps)
    check_maps(maps)
    findings = implausible(maps, **UNITS | units)
    assert findings
    assert not [word for word in words if word not in findings[0]]


@pytest.mark.parametrize(
    ("change", "units", "words"),
    [
        (scale(R2STAR, 1e-3), {}, ["--rate_unit per_ms"]),
        (scale(R2STAR, 1), {"rate_unit": "per_ms"}, ["--rate_unit per_s"]),
        (scale(R2STAR, 1 / 137), {}, ["that it is R2* and not yet divided by the relaxivity"]),
        (scale(R2STAR, 1e6), {}, ["check its unit"]),
        (scale(R2STAR, 6 / 18), {}, ["it looks like R2': give it as --r2prime"]),
    ],
)
def test_implausible_r2star(r2star_maps: Maps, change: Callable[[Maps], None], units: dict, words: list[str]) -> None:
    change(r2star_maps)
    (finding,) = implausible(r2star_maps, **UNITS | units)
    assert "r2star.nii.gz" in finding
    assert not [word for word in words if word not in finding]


@pytest.mark.parametrize(
    ("change", "units"),
    [
        (scale(LOCAL_FIELD, HZ_PER_PPM_3T), {"field_unit": "hz"}),
        (scale(LOCAL_FIELD, 2 * np.pi * 0.02 * HZ_PER_PPM_3T), {"field_unit": "rad", "echo_time_s": 0.02}),
        (scale(R2PRIME, 1e-3), {"rate_unit": "per_ms"}),
    ],
)
def test_the_right_unit_passes(maps: Maps, change: Callable[[Maps], None], units: dict) -> None:
    change(maps)
    assert implausible(maps, **UNITS | units) == []


@pytest.mark.parametrize("b0_tesla", [0.5, 3.0, 7.0, 21.0])
def test_usual_relaxivities_pass(maps: Maps, b0_tesla: float) -> None:
    settings = {"b0_tesla": b0_tesla, "relaxivities_per_s_ppm": (38 * b0_tesla, 108 * b0_tesla)}
    assert implausible(maps, **UNITS | settings) == []


def test_a_phase_needs_its_echo_time(maps: Maps) -> None:
    with pytest.raises(InputError, match="echo_time_s"):
        implausible(maps, **UNITS | {"field_unit": "rad"})


def test_notes(maps: Maps) -> None:
    maps[R2PRIME][0, 3, 3, 3] = -1
    maps[LOCAL_FIELD].meta["has_orientation"] = False
    negative, orientation = notes(maps, **NOTES)
    assert "r2prime (r2prime.nii.gz) is negative in 1.0% of the mask" in negative
    assert "no orientation" in orientation
    assert notes(maps, **NOTES | {"b0_direction": (0.0, 0.0, 1.0)}) == [negative]


def test_r2prime_that_may_be_r2star(maps: Maps, r2star_maps: Maps) -> None:
    maps[R2PRIME] = as_map(R2PRIME, r2star_maps[R2STAR].as_tensor())
    (said,) = notes(maps, **NOTES)
    assert "r2prime (r2prime.nii.gz) has a median of 18 1/s, as R2* has; if it is R2*, give it as --r2star" in said
    assert notes(maps, **NOTES | {"b0_tesla": 7.0}) == []


@pytest.mark.parametrize(("b0_tesla", "noted"), [(2.89, False), (3.0, False), (1.5, True), (7.0, True)])
def test_r2_was_learnt_at_one_field_strength(r2star_maps: Maps, b0_tesla: float, noted: bool) -> None:
    said = notes(r2star_maps, **NOTES | {"b0_tesla": b0_tesla})
    assert [f"learnt at 3 T which part of R2* is R2; at {b0_tesla:g} T" in note for note in said] == [True] * noted


QUARTER_TURN = ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))


@pytest.mark.parametrize(
    ("affine", "b0_direction", "blurred"),
    [
        (np.eye(3), None, False),
        (QUARTER_TURN, None, False),
        (np.eye(3), (0.0, -1.0, 0.0), False),
        (np.eye(3), (0.0, 0.1, 1.0), True),
        (np.diag([1.0, 1.0, 2.0]), None, True),
        (0.5 * np.eye(3), None, True),
    ],
)
def test_direct_networks_resample(
    maps: Maps, affine: np.ndarray, b0_direction: tuple[float, float, float] | None, blurred: bool
) -> None:
    """Whole turns at their voxel size cost nothing; whatever else is interpolated is said."""
    maps[LOCAL_FIELD].affine = torch.block_diag(torch.as_tensor(np.array(affine)), torch.ones(1, 1))
    said = notes(maps, **NOTES | {"b0_direction": b0_direction}, axial_mm=1.0)
    assert ["resampled to the network's 1 mm voxels with B0 along +z and back; expect blurring" in s for s in said] == (
        [True] * blurred
    )


@pytest.mark.parametrize(
    ("size", "trained"),
    [
        ((1.0, 1.0, 4.0), False),
        ((2.0, 2.0, 2.0), False),
        ((0.8, 0.8, 2.0), False),
        ((0.5, 0.5, 0.5), False),
        ((1.0, 1.0, 2.0), True),
        ((2.0, 1.0, 1.0), True),
        ((0.7, 0.7, 0.7), True),
    ],
)
def test_voxels_that_the_network_never_saw(maps: Maps, size: tuple[float, float, float], trained: bool) -> None:
    maps[LOCAL_FIELD].affine = torch.diag(torch.tensor([*size, 1.0], dtype=torch.float64))
    said = notes(maps, **NOTES)
    assert len(said) == (0 if trained else 1)
    if not trained:
        named = " x ".join(f"{v:g}" for v in size)
        assert f"voxels of {named} mm are not of the network's training data, 0.7 to 1.3 mm" in said[0]


def test_sign_self_test(maps: Maps) -> None:
    """chi_total follows R2' in its sign: right, and turned around."""
    r2prime = maps[R2PRIME].numpy()[0]
    assert doubtful_sign(r2prime / 137, maps) == []
    (said,) = doubtful_sign(-r2prime / 137, maps)
    assert "where R2' is highest" in said
    assert "--field_sign -1" in said


def test_sign_self_test_with_r2star(r2star_maps: Maps) -> None:
    r2star = r2star_maps[R2STAR].numpy()[0]
    assert doubtful_sign(r2star / 137, r2star_maps) == []
    (said,) = doubtful_sign(-r2star / 137, r2star_maps)
    assert "where R2* is highest" in said
