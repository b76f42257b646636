"""Differences against their definition, their adjoint, and their spectrum."""

from typing import Any

import pytest
import torch

from custom_transforms.classical.differences import add_adjoint_difference, difference, laplacian_symbol


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("axis", [-3, -2, -1])
def test_difference_and_its_adjoint(axis: int) -> None:
    x, y = noise(2, 1, 5, 4, 7), noise(2, 1, 5, 4, 7, seed=1)
    assert torch.equal(difference(x, axis), torch.roll(x, -1, dims=axis) - x)
    adjoint = add_adjoint_difference(torch.zeros_like(y), y, axis)
    inner = (difference(x, axis) * y).sum()
    torch.testing.assert_close((x * adjoint).sum(), inner, rtol=1e-12, atol=1e-12)
    assert abs(float((x * -adjoint).sum() - inner)) > 0.1
    torch.testing.assert_close(add_adjoint_difference(x.clone(), y, axis, weight=0.3), x + 0.3 * adjoint)


def test_spectrum_of_both_together(geometry: Any) -> None:
    x = noise(geometry.batch, 1, *geometry.shape)
    expected = torch.zeros_like(x)
    for axis in (-3, -2, -1):
        add_adjoint_difference(expected, difference(x, axis), axis)
    symbol = laplacian_symbol(list(geometry.shape), x)
    found = torch.fft.irfftn(symbol * torch.fft.rfftn(x, dim=(-3, -2, -1)), s=geometry.shape, dim=(-3, -2, -1))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
