"""SSIM, XSIM and HFEN against window by window sums in NumPy, and the blindness that each of them has."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from custom_transforms.metrics import hfen_percent, ssim, xsim

Maps = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
STRUCTURE = (ssim, xsim, hfen_percent)


def similarity(a: np.ndarray, b: np.ndarray, c1: float, c2: float, ddof: int) -> float:
    """Similarity of two sets of samples."""
    cov = np.cov(a, b, ddof=ddof)
    luminance = (2 * a.mean() * b.mean() + c1) / (a.mean() ** 2 + b.mean() ** 2 + c1)
    return luminance * (2 * cov[0, 1] + c2) / (cov[0, 0] + cov[1, 1] + c2)


def ssim_by_numpy(pred: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    a, b = pred * mask, truth * mask
    low = min(a.min(), b.min())
    a, b = (a - low) * mask, (b - low) * mask
    high = max(a.max(), b.max())
    a, b = (sliding_window_view(np.pad(255 * x / high, 3, mode="symmetric"), (7, 7, 7)) for x in (a, b))
    c1, c2 = 2.55**2, 7.65**2
    return np.mean([similarity(a[i].ravel(), b[i].ravel(), c1, c2, 1) for i in zip(*np.nonzero(mask), strict=True)])


def xsim_by_numpy(pred: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    values = []
    for voxel in zip(*np.nonzero(mask), strict=True):
        window = tuple(slice(max(i - 2, 0), i + 3) for i in voxel)
        values.append(similarity(pred[window].ravel(), truth[window].ravel(), 0.01**2, 0.001**2, 0))
    return np.mean(values)


def hfen_by_numpy(pred: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """The three-dimensional LoG kernel, as one product, at every voxel."""
    x = np.arange(-8, 9.0)
    gaussian = np.exp(-(x**2) / 4.5)
    gaussian /= gaussian.sum()
    curve = (x**2 - 2.25) / 2.25**2
    cube = gaussian[:, None, None] * gaussian[:, None] * gaussian
    cube *= curve[:, None, None] + curve[:, None] + curve
    filtered = []
    for image in (pred, truth):
        windows = sliding_window_view(np.pad(image, 8, mode="symmetric"), (17, 17, 17))
        filtered.append(np.einsum("xyzijk,ijk->xyz", windows, cube)[mask])
    return 100 * np.linalg.norm(filtered[0] - filtered[1]) / np.linalg.norm(filtered[1])


REFERENCES = ((ssim, ssim_by_numpy), (xsim, xsim_by_numpy), (hfen_percent, hfen_by_numpy))


@pytest.mark.parametrize(("score", "reference"), REFERENCES, ids=lambda f: f.__name__)
def test_against_numpy(maps: Maps, by_volume: Callable, score: Callable, reference: Callable) -> None:
    one = tuple(x[:1] for x in maps)
    expected = by_volume(reference, one)
    np.testing.assert_allclose(score(*one), expected, rtol=1e-9)
    swapped = score(one[0].flip(1), *one[1:]).numpy()
    assert (np.abs(swapped / expected - 1) > 0.05).all()


@pytest.mark.parametrize("score", STRUCTURE)
def test_of_equal_maps(maps: Maps, score: Callable) -> None:
    _, truth, mask = maps
    perfect = torch.full((3, 2), 0.0 if score is hfen_percent else 1.0, dtype=torch.float64)
    torch.testing.assert_close(score(truth, truth, mask), perfect)


def test_only_xsim_knows_the_unit_and_only_hfen_ignores_the_zero(maps: Maps) -> None:
    pred, truth, mask = (x.double() for x in maps)
    for score in STRUCTURE:
        same = torch.allclose(score(3 * pred, 3 * truth, mask), score(pred, truth, mask))
        assert same is (score is not xsim)
        same = torch.allclose(score(pred + 0.1, truth, mask), score(pred, truth, mask))
        assert same is (score is hfen_percent)


def test_ssim_is_blind_outside_of_the_mask(maps: Maps) -> None:
    pred, truth, mask = maps
    spoilt = torch.where(mask > 0, pred, torch.nan)
    torch.testing.assert_close(ssim(spoilt, truth, mask), ssim(pred, truth, mask))
