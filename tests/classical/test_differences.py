"""Differences against their definition, their adjoint, and their spectrum."""

from typing import Any

import pytest
import torch

from custom_transforms.classical.differences import (
    AXES,
    add_adjoint_difference,
    difference,
    laplacian_symbol,
    parts_of,
    planes,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("axis", AXES)
def test_difference_and_its_adjoint(axis: int) -> None:
    x, y = noise(2, 1, 5, 4, 7), noise(2, 1, 5, 4, 7, seed=1)
    assert torch.equal(difference(x, axis), torch.roll(x, -1, dims=axis) - x)
    adjoint = torch.zeros_like(y)
    add_adjoint_difference(adjoint, y, axis)
    inner = (difference(x, axis) * y).sum()
    torch.testing.assert_close((x * adjoint).sum(), inner, rtol=1e-12, atol=1e-12)
    assert abs(float((x * -adjoint).sum() - inner)) > 0.1


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("step", [1, 2, 4, 5, 9])
def test_parts_make_the_whole(axis: int, step: int) -> None:
    x, y = noise(2, 2, 5, 4, 7), noise(2, 2, 5, 4, 7, seed=1)
    parts = [slice(start, min(5, start + step)) for start in range(0, 5, step)]
    found = torch.cat([difference(x, axis, part) for part in parts], dim=-3)
    assert torch.equal(found, difference(x, axis))
    total, expected = x.clone(), x.clone()
    for part in parts:
        add_adjoint_difference(total, planes(y, part), axis, part, weight=0.3)
    add_adjoint_difference(expected, y, axis, weight=0.3)
    torch.testing.assert_close(total, expected)


def test_parts_cover_all_planes_once() -> None:
    maps = torch.empty(1, 2, 50, 200, 200)
    parts = parts_of(maps)
    assert len(parts) > 10
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(50))
    assert parts_of(maps[..., :3, :4, :4]) == [slice(0, 3)]


def test_spectrum_of_both_together(geometry: Any) -> None:
    x = noise(geometry.batch, 1, *geometry.shape)
    expected = torch.zeros_like(x)
    for axis in AXES:
        add_adjoint_difference(expected, difference(x, axis), axis)
    symbol = laplacian_symbol(list(geometry.shape), x)
    found = torch.fft.irfftn(symbol * torch.fft.rfftn(x, dim=(-3, -2, -1)), s=geometry.shape, dim=(-3, -2, -1))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
