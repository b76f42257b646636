"""Input that cannot be used is refused, by file and with the remedy; what can be used passes."""

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom_transforms.checks import InputError, check_maps, read_map
from custom_transforms.keys import LOCAL_FIELD, MASK, R2PRIME

SHAPE = (9, 8, 7)

Maps = dict[str, MetaTensor]


@pytest.mark.parametrize("name", ["maps", "r2star_maps"])
def test_good_maps_pass(name: str, request: pytest.FixtureRequest) -> None:
    check_maps(request.getfixturevalue(name))


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
    maps[MASK] = maps[MASK][..., :-1]


def shift_mm(offset_mm: float) -> Callable[[Maps], None]:
    def change(maps: Maps) -> None:
        maps[R2PRIME].affine[0, 3] = offset_mm

    return change


def take_slice(maps: Maps) -> None:
    for key, image in maps.items():
        maps[key] = image[..., 3:4]


def shear(maps: Maps) -> None:
    for image in maps.values():
        image.affine[0, 1] = 0.2


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
