"""Slices show the right voxels the right way round, whatever the affine, and say where they are."""

import base64
import io

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from custom_transforms import keys
from custom_transforms.report.histograms import HEIGHT, WIDTH, histogram
from custom_transforms.report.html_maps import APPEARANCES, MapForReport
from custom_transforms.report.slices import POSITIONS, Picture, Slicer

SAGITTAL, CORONAL, AXIAL = 0, 1, 2
ORIENTATIONS = {"RAS": np.eye(3), "LPS": np.diag([-1.0, -1, 1]), "SAL": np.eye(3)[:, [2, 1, 0]] * [1.0, 1, -1]}
SHAPES = {"even": (28, 36, 20), "odd": (27, 33, 21)}
SIZES_MM = {"isotropic": (1.0, 1.0, 1.0), "anisotropic": (1.5, 0.8, 2.0)}


def affine_of(axes: np.ndarray, size_mm: tuple[float, ...], tilt_deg: float = 0.0) -> np.ndarray:
    """Voxel axes in the scanner's, turned about x."""
    c, s = np.cos(np.deg2rad(tilt_deg)), np.sin(np.deg2rad(tilt_deg))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ axes * size_mm
    affine[:3, 3] = (11.0, -7.0, 5.0)
    return affine


def positions_mm(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Scanner coordinates of all voxels, (3, X, Y, Z)."""
    index = np.stack([*np.indices(shape), np.ones(shape)])
    return np.einsum("ij,j...->i...", affine, index)[:3]


def ball(shape: tuple[int, ...]) -> np.ndarray:
    centred = [(i - (n - 1) / 2) / (0.4 * n) for i, n in zip(np.indices(shape), shape, strict=True)]
    return (sum(c**2 for c in centred) < 1).astype(np.float32)


def pixels(picture: Picture) -> np.ndarray:
    data = base64.b64decode(picture.uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES_MM)
def test_grey_is_that_of_the_scanner_coordinates(orientation: str, shape: str, size: str) -> None:
    """A map of a coordinate is a ramp to the right or to the top, and constant where it should be."""
    affine = affine_of(ORIENTATIONS[orientation], SIZES_MM[size])
    mask = ball(SHAPES[shape])
    mm = positions_mm(mask.shape, affine)
    slicer = Slicer(mask, affine)
    for plane, (right, up) in {SAGITTAL: (1, 2), CORONAL: (0, 2), AXIAL: (0, 1)}.items():
        for axis in range(3):
            window = (float(mm[axis].min()), float(mm[axis].max()))
            shown = slicer.cut(mm[axis], window, [plane])
            for picture in shown:
                grey = pixels(picture).astype(float)
                across, upwards = np.diff(grey, axis=1), np.diff(grey[::-1], axis=0)
                assert (across > 0).all() if axis == right else (across == 0).all()
                assert (upwards > 0).all() if axis == up else (upwards == 0).all()
                if axis == plane:
                    value = window[0] + grey[0, 0] / 255 * (window[1] - window[0])
                    told = float(picture.position.split()[2])
                    assert abs(value - told) <= 0.51 + (window[1] - window[0]) / 510
    # without the affine, the same comparison fails
    wrong = pixels(Slicer(mask, np.eye(4)).cut(mm[0], (float(mm[0].min()), float(mm[0].max())), [AXIAL])[3])
    ramp = np.diff(wrong.astype(float), axis=1)
    assert (ramp > 0).all() == (orientation == "RAS")


def test_oblique_affine_is_shown_along_the_closest_axes() -> None:
    affine = affine_of(ORIENTATIONS["LPS"], (1.0, 1.0, 2.0), tilt_deg=20)
    mask = ball((28, 36, 20))
    mm = positions_mm(mask.shape, affine)
    for picture in Slicer(mask, affine).cut(mm[0], (float(mm[0].min()), float(mm[0].max())), [CORONAL]):
        assert (np.diff(pixels(picture).astype(float), axis=1) > 0).all()
    middle = Slicer(mask, affine).cut(mm[2], (-30.0, 30.0), [AXIAL])[3]
    centre = nib.affines.apply_affine(affine, [13.5, 17.5, 9.0])[2]  # 0.47 of 16 slices above the second one
    assert abs(float(middle.position.split()[2]) - centre) <= 0.51


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_extent_honours_the_voxel_size(orientation: str) -> None:
    affine = affine_of(ORIENTATIONS[orientation], (1.5, 0.8, 2.0))
    mask = np.ones((20, 30, 24), np.float32)
    sizes = np.abs(affine[:3, :3]).sum(axis=1)  # of the voxels along the scanner's axes
    extent = sizes * np.abs(np.linalg.inv(ORIENTATIONS[orientation])) @ mask.shape
    for plane, (right, up) in {SAGITTAL: (1, 2), CORONAL: (0, 2), AXIAL: (0, 1)}.items():
        picture = Slicer(mask, affine).cut(mask, (0.0, 1.0), [plane])[0]
        assert picture.width_mm == pytest.approx(extent[right] if orientation != "SAL" else picture.width_mm)
        height, width = pixels(picture).shape
        assert picture.width_mm / width == pytest.approx(sizes[right])
        assert picture.height_mm / height == pytest.approx(sizes[up])
        assert picture.right == ("A" if plane == SAGITTAL else "R")


def test_slices_are_cropped_to_the_mask_and_cut_at_shares_of_it() -> None:
    mask = np.zeros((60, 50, 70), np.float32)
    mask[20:40, 15:35, 30:51] = 1
    shown = Slicer(mask, np.eye(4)).cut(mask, (0.0, 1.0), [AXIAL, SAGITTAL])
    assert len(shown) == len(POSITIONS[AXIAL]) + len(POSITIONS[SAGITTAL])
    assert [picture.plane for picture in shown[-2:]] == ["sagittal"] * 2
    assert shown[0].position == f"z = {round(30 + 20 * POSITIONS[AXIAL][0])} mm"
    assert pixels(shown[0]).shape == (20 + 12, 20 + 12)  # 6 mm on every side


def test_window() -> None:
    mask = np.ones((8, 9, 6), np.float32)
    values = np.full(mask.shape, 0.025, np.float32)
    values[:4] = -1
    values[:, :4] = np.nan
    grey = pixels(Slicer(mask, np.eye(4)).cut(values, (0.0, 0.1), [AXIAL])[0])
    assert set(grey[:5, 4:].ravel()) == {64}
    assert set(grey[:, :4].ravel()) == {0}
    assert set(grey[5:].ravel()) == {0}


def test_outline_lies_on_the_rim_of_the_mask() -> None:
    mask = ball((40, 40, 40))
    picture = Slicer(mask, np.eye(4)).cut(np.full(mask.shape, 0.5), (0.0, 1.0), [AXIAL], outline=True)[3]
    coloured = pixels(picture).astype(int)
    line = np.ptp(coloured, axis=-1) > 0
    middle = np.array(line.shape) / 2 - 0.5
    radius = np.hypot(*(np.argwhere(line) - middle).T) / 2
    assert line.sum() > 100
    assert 14 < radius.min() <= radius.max() < 16.5  # the ball has 16 voxels
    assert not np.ptp(pixels(Slicer(mask, np.eye(4)).cut(mask, (0.0, 1.0), [AXIAL])[3])[0])


def test_fine_images_do_not_weigh_more() -> None:
    mask = np.ones((600, 500, 4), np.float32)
    assert max(pixels(Slicer(mask, np.diag([0.3, 0.3, 2, 1])).cut(mask, (0, 1), [AXIAL])[0]).shape) == 256


def test_empty_mask_shows_everything() -> None:
    assert pixels(Slicer(np.zeros((8, 9, 6)), np.eye(4)).cut(np.ones((8, 9, 6)), (0, 2), [AXIAL])[0]).shape == (9, 8)


def test_named_maps_and_their_windows() -> None:
    mask = np.ones((4, 5, 6), np.float32)
    shown = MapForReport.named(keys.CHI_DIA, mask, note="made up")
    assert (shown.title, shown.unit, shown.window, shown.note) == ("chi_dia", "ppm", (0.0, 0.1), "made up")
    assert APPEARANCES[keys.CHI_TOTAL].window == (-0.1, 0.1)
    values = np.linspace(-1, 3, 120).reshape(mask.shape)
    low, high = MapForReport.named(keys.TOTAL_FIELD, values).window_in(mask)
    assert (low, high) == pytest.approx((-np.percentile(values, 99.5), np.percentile(values, 99.5)))
    assert MapForReport.named(keys.MAGNITUDE, values + 1).window_in(mask)[0] == 0
    assert MapForReport.named(keys.MAGNITUDE, 0 * values).window_in(mask) == (0, 1)
    with pytest.raises(ValueError, match="expected one of magnitude"):
        MapForReport.named("chi", mask)
    with pytest.raises(ValueError, match="squeeze"):
        MapForReport(mask[None], "chi")
    with pytest.raises(ValueError, match="window"):
        MapForReport(mask, "chi", window=(1.0, 1.0))


def test_histogram_counts_the_mask() -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(0.05, 0.01, (20, 20, 20)).astype(np.float32)
    mask = np.zeros(values.shape)
    mask[:10] = 1
    values[10:] = 9.0
    values[0, 0, :5] = np.nan
    values[1, 0, :4] = 0.2
    found = histogram(values, mask, (0.0, 0.1))
    inside = values[:10][np.isfinite(values[:10])]
    assert found.median == pytest.approx(np.median(inside))
    assert (found.mean, found.sd) == pytest.approx((inside.mean(), inside.std()), rel=1e-4)
    assert (found.not_finite, found.beyond_percent) == (5, pytest.approx(100 * 4 / inside.size))
    assert (found.low, found.high) == pytest.approx((WIDTH / 6, WIDTH * 5 / 6))
    assert found.middle == pytest.approx(WIDTH / 2, abs=1)
    corners = [float(part.split("H")[0]) for part in found.path.split("V")[1:-1]]
    assert min(corners) < 0.3 * HEIGHT and corners[0] == corners[-1] == HEIGHT
    assert int(np.argmin(corners)) in range(34, 46)  # of 80 bars
    assert np.isnan(histogram(values, np.zeros_like(mask), (0.0, 0.1)).median)
