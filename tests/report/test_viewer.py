"""The volumes of the viewer lie where the map lies, and weigh no more than they may."""

import base64
import gzip

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from custom_transforms.report.html_maps import MapForReport
from custom_transforms.report.slices import Slicer
from custom_transforms.report.viewer import STEPS, Volume, volumes, widget_licence, widget_text

PLENTY = 10_000_000
WINDOW = (-40.0, 40.0)


def oblique(size_mm: tuple[float, float, float]) -> np.ndarray:
    """LPS, turned by 25 degrees about x."""
    c, s = np.cos(np.deg2rad(25)), np.sin(np.deg2rad(25))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[-1, 0, 0], [0, -c, -s], [0, -s, c]]) * size_mm
    affine[:3, 3] = (12.0, 20.0, -9.0)
    return affine


def ramp(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """A linear function of the scanner's coordinates: averages leave it as it is."""
    mm = nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    return mm @ [0.5, -0.8, 0.3]


def packed(
    values: np.ndarray, mask: np.ndarray, affine: np.ndarray, budget: int = PLENTY
) -> tuple[list[Volume], float]:
    shown = {"ramp": MapForReport(values, "Ramp", "ppm", WINDOW)}
    return volumes(shown, mask, Slicer(mask, affine), budget_bytes=budget)


def read(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    image = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(volume.text)))
    assert image.get_data_dtype() == np.int16
    return image.get_fdata(), image.affine


@pytest.mark.parametrize("size_mm", [(1.0, 1.0, 1.0), (0.5, 0.6, 2.0), (0.4, 0.4, 0.4), (3.0, 1.0, 2.0)])
@pytest.mark.parametrize("shape", [(30, 26, 20), (31, 25, 19)])
def test_values_lie_where_the_map_has_them(size_mm: tuple[float, float, float], shape: tuple[int, ...]) -> None:
    affine = oblique(size_mm)
    mask = np.zeros(shape, np.float32)
    mask[4:26, 3:20, 5:16] = 1
    ([volume], finest_mm) = packed(ramp(shape, affine), mask, affine)
    found, found_affine = read(volume)
    inside = found > volume.floor
    assert finest_mm == 1.0
    assert (nib.affines.voxel_sizes(found_affine) > 0.999).all()
    step = (WINDOW[1] - WINDOW[0]) / STEPS
    # a coarse voxel that hangs over the rim of the mask holds the mean of its part inside
    interior = binary_erosion(inside)
    assert interior.sum() > 50
    # the map is a staircase to who averages it: at most an eighth of a voxel from its ramp on each axis
    tolerance = 0.51 * step + 0.125 * np.abs(np.array([0.5, -0.8, 0.3]) @ affine[:3, :3]).sum() * (min(size_mm) < 1)
    assert np.abs(found - ramp(found.shape, found_affine))[interior].max() < tolerance
    wrong = found_affine.copy()
    wrong[:3, 3] += found_affine[:3, :3] @ [0.5, 0.5, -0.5]  # half a voxel off would be seen
    assert np.abs(found - ramp(found.shape, wrong))[interior].max() > tolerance


def test_volume_is_cropped_to_the_mask_and_empty_outside() -> None:
    mask = np.zeros((40, 40, 40), np.float32)
    mask[10:20, 12:30, 5:25] = 1
    values = np.where(mask > 0.5, 1e9, -1e9)
    values[11, 13, 6] = np.nan
    ([volume], _) = packed(values, mask, np.eye(4))
    found, _ = read(volume)
    assert found.shape == (12, 20, 22)
    assert ((found > volume.floor) == (mask[9:21, 11:31, 4:26] > 0.5)).all()
    assert found[2, 2, 2] == 0
    assert volume.floor < WINDOW[0]


def test_budget_coarsens_and_then_refuses() -> None:
    shape = (64, 64, 64)
    noise = np.random.default_rng(0).normal(0, 30, shape)
    mask = np.ones(shape, np.float32)
    fine, _ = packed(noise, mask, np.eye(4))
    assert packed(noise, mask, np.eye(4), len(fine[0].text))[1] == 1.0
    coarse, finest_mm = packed(noise, mask, np.eye(4), len(fine[0].text) // 2)
    assert finest_mm > 1
    assert 0 < len(coarse[0].text) <= len(fine[0].text) // 2
    assert packed(noise, mask, np.eye(4), 50)[0] == []


def test_program_of_the_viewer_is_the_module_that_the_page_drives() -> None:
    program = gzip.decompress(base64.b64decode(widget_text())).decode()
    assert program.rstrip().rstrip(";").endswith("as default}")
    for name in ("initialize", "render", "widget_manager.get_model", "change:volumes", "draw_scene"):
        assert name in program
    assert "BSD" in widget_licence() or "Redistribution and use" in widget_licence()
