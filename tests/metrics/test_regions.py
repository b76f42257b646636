"""Region means, the fits to them, leakage and lesions, with constructed maps and against NumPy's least squares."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from custom_transforms.metrics import (
    connected_components,
    deep_grey_linearity,
    fit_line,
    leakage,
    lesion_fit,
    lesion_means,
    region_means,
)

Maps = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture
def regions() -> torch.Tensor:
    """Labels 1 to 5 in the first volume of three, 1 to 4 in the others."""
    labels = torch.randint(1, 5, (3, 1, 9, 8, 11), generator=torch.Generator().manual_seed(1))
    labels[0, :, :2] = 5
    return labels


def test_region_means(maps: Maps, regions: torch.Tensor) -> None:
    means = region_means(maps[0], regions, labels=[4, 5])
    expected = maps[0].double().numpy()[0, 1][regions[0, 0].numpy() == 5].mean()
    assert means[0, 1, 1] == pytest.approx(expected, rel=1e-12)
    assert means.shape == (3, 2, 2)
    assert means[1:, :, 1].isnan().all() and not means[:, :, 0].isnan().any()
    swapped = region_means(maps[0].flip(1), regions, labels=[5])
    assert abs(float(swapped[0, 1, 0]) / expected - 1) > 1e-3


def test_line_against_numpy() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(7, generator=generator, dtype=torch.float64)
    y = 0.8 * x + 0.1 + 0.05 * torch.randn(7, generator=generator, dtype=torch.float64)
    fit = fit_line(torch.cat([x, torch.tensor([torch.nan])]), torch.cat([y, torch.tensor([5.0])]))
    np.testing.assert_allclose(torch.stack(fit[:2]), np.polyfit(x, y, 1), rtol=1e-10)
    residual = y - fit.slope * x - fit.intercept
    assert float(fit.r_squared) == pytest.approx(float(1 - residual.var() / y.var()), rel=1e-10)
    assert float(fit_line(x, -y).slope) == pytest.approx(-float(fit.slope))
    assert fit_line(x[:1], y[:1]).slope.isnan()


def test_linearity_is_the_slope_of_region_means(maps: Maps, regions: torch.Tensor) -> None:
    _, truth, _ = maps
    found = deep_grey_linearity(0.9 * truth + 0.3, truth, regions, labels=range(1, 6))
    torch.testing.assert_close(found, torch.full((3, 2), 0.1, dtype=torch.float64), rtol=1e-3, atol=0)
    assert deep_grey_linearity(truth, truth, regions, labels=range(1, 6)).max() < 1e-6
    assert deep_grey_linearity(truth, truth, regions, labels=[5]).isnan().all()


def test_leakage_against_least_squares(maps: Maps, by_volume: Callable) -> None:
    pred, truth, mask = maps
    found = leakage(pred, truth, mask)
    for b in range(3):
        inside = mask[b, 0].numpy() > 0
        for i, j in ((0, 1), (1, 0)):
            columns = [truth[b, k].double().numpy()[inside] for k in (i, j)]
            design = np.stack([*columns, np.ones_like(columns[0])], axis=1)
            expected = np.linalg.lstsq(design, pred[b, i].double().numpy()[inside])[0]
            assert float(found[b, i]) == pytest.approx(expected[1], rel=1e-9)


def test_leakage_of_a_known_mixture(maps: Maps) -> None:
    _, truth, mask = maps
    expected = torch.tensor([[0.2, -0.1]], dtype=torch.float64).expand(3, 2)
    mixed = 0.7 * truth.double() + expected[0, :, None, None, None] * truth.double().flip(1) + 0.05
    torch.testing.assert_close(leakage(mixed, truth, mask), expected)
    assert not torch.allclose(leakage(mixed.flip(1), truth, mask), expected)
    with pytest.raises(ValueError, match="two sources"):
        leakage(mixed[:, :1], truth[:, :1], mask)


def snake(length: int) -> torch.Tensor:
    """A winding object of the given length and, apart from it, one that touches only at corners."""
    mask = torch.zeros(1, 1, 20, 20, 6)
    for row in range(0, length, 2):
        mask[0, 0, row, :, 0] = 1
        mask[0, 0, row + 1, -1 if row % 4 == 0 else 0, 0] = 1
    for step in range(4):
        mask[0, 0, step, step, 2 + step] = 1
    return mask


def test_objects_are_found() -> None:
    mask = torch.cat([snake(18), torch.zeros(1, 1, 20, 20, 6)])
    mask[1, 0, 5, 5, 5] = mask[1, 0, 5, 5, 3] = 1
    labels = connected_components(mask)
    assert torch.equal(labels > 0, mask > 0)
    assert len(labels[0][labels[0] > 0].unique()) == 2
    assert len(labels[1][labels[1] > 0].unique()) == 2
    assert len(labels[labels > 0].unique()) == 4
    assert not connected_components(torch.zeros_like(mask)).any()


def test_lesions() -> None:
    lesions = torch.zeros(2, 1, 12, 12, 12)
    truth = 0.02 * torch.ones(2, 2, 12, 12, 12)
    chi_ppm = iter((0.1, 0.4, 0.9, 1.4))
    for volume in range(2):
        for corner in (1, 7):
            box = (volume, slice(None), *(slice(corner, corner + 4),) * 3)
            lesions[box] = 1
            truth[box] = next(chi_ppm)
    means = lesion_means(truth, lesions)
    torch.testing.assert_close(means, means.new_tensor([[0.1, 0.4, 0.9, 1.4]] * 2).T)
    pred = torch.stack([0.68 * truth[:, 0], truth[:, 1] ** 2], dim=1)
    fit = lesion_fit(pred, truth, lesions)
    assert float(fit.slope[0]) == pytest.approx(0.68) and float(fit.r_squared[0]) == pytest.approx(1)
    x = np.array([0.1, 0.4, 0.9, 1.4])
    assert float(fit.r_squared[1]) == pytest.approx(np.corrcoef(x, x**2)[0, 1] ** 2, rel=1e-6)
    assert fit.r_squared[1] < 0.98
