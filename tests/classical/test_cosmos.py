"""COSMOS against dense least squares and a susceptibility that is known; the sources against the conditions of NNLS."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor
from torch.nn.functional import normalize

from custom_transforms.classical import cosmos, non_negative_sources
from custom_transforms.physics import DipoleConvolution, combine_sources, separate_sources

VOXEL_MM = torch.tensor([[0.9, 1.2, 2.0]], dtype=torch.float64)
DIRECTIONS = [[0.0, 0.0, 1.0], [0.5, 0.1, 0.9], [-0.3, 0.5, 0.9], [-0.2, -0.4, 0.9]]
B0 = normalize(torch.tensor([DIRECTIONS], dtype=torch.float64), dim=-1)
WEIGHTS = torch.tensor([[1.3, 0.7]], dtype=torch.float64)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def demean(q: Tensor, mask: Tensor) -> Tensor:
    return mask * (q - (mask * q).sum() / mask.sum())


def ball(*shape: int) -> Tensor:
    axes = [torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape]
    return (sum(x**2 for x in torch.meshgrid(*axes, indexing="ij")) < 1).double()[None, None]


def fields_of(chi: Tensor, voxel_mm: Tensor, directions: Tensor) -> Tensor:
    return torch.cat([DipoleConvolution(padding=0.5)(chi, voxel_mm, b) for b in directions.unbind(dim=1)], dim=1)


def test_is_the_least_squares_solution_in_the_mask() -> None:
    shape = (5, 4, 6)
    mask, fields = (noise(1, 1, *shape, seed=1) > -1).double(), 0.1 * noise(1, 4, *shape)
    units = torch.eye(120, dtype=torch.float64).reshape(120, 1, *shape) * mask
    rows = mask * fields_of(units, VOXEL_MM.expand(120, 3), B0.expand(120, 4, 3))
    dense = np.linalg.lstsq(rows.reshape(120, -1).T.numpy(), (mask * fields).numpy().ravel(), rcond=None)[0]
    expected = demean(torch.from_numpy(dense).reshape(mask.shape), mask)
    q = cosmos(fields, mask, VOXEL_MM, B0, iterations=200)
    assert (q - expected).norm() < 1e-8 * expected.norm()
    assert (cosmos(-fields, mask, VOXEL_MM, B0, iterations=200) - expected).norm() > expected.norm()


def test_recovers_a_known_susceptibility_and_needs_the_directions() -> None:
    mask = ball(14, 15, 12)
    chi = demean(0.1 * noise(1, 1, 14, 15, 12), mask)
    fields = mask * fields_of(chi, VOXEL_MM, B0)
    assert (cosmos(fields, mask, VOXEL_MM, B0, iterations=60) - chi).norm() < 0.01 * chi.norm()
    assert (cosmos(fields, mask, VOXEL_MM, B0) - chi).norm() < 0.1 * chi.norm()
    assert (cosmos(fields, mask, VOXEL_MM, B0.flip(1)) - chi).norm() > 0.5 * chi.norm()


def test_more_orientations_are_better_than_one_thrice() -> None:
    mask = ball(14, 15, 12)
    chi = demean(0.1 * noise(1, 1, 14, 15, 12), mask)
    once = B0[:, :1].expand(1, 4, 3)
    error = [(cosmos(mask * fields_of(chi, VOXEL_MM, b), mask, VOXEL_MM, b) - chi).norm() for b in (B0, once)]
    assert error[0] < 0.3 * error[1]


def test_batch_equals_singles() -> None:
    fields, mask = noise(2, 4, 6, 5, 4), ball(6, 5, 4).expand(2, 1, 6, 5, 4)
    voxels, directions = torch.cat([VOXEL_MM, VOXEL_MM / 2]), torch.cat([B0, B0[..., [1, 2, 0]]])
    both = cosmos(fields, mask, voxels, directions)
    for i in range(2):
        one = slice(i, i + 1)
        torch.testing.assert_close(both[one], cosmos(fields[one], mask[one], voxels[one], directions[one]))


def test_no_field_gives_no_susceptibility() -> None:
    fields = torch.zeros(1, 3, 6, 5, 4)
    assert not cosmos(fields, torch.ones(1, 1, 6, 5, 4), VOXEL_MM, B0[:, :3]).any()


@pytest.mark.parametrize(
    ("fields", "directions", "words"),
    [((1, 2, 4, 4, 4), B0[:, :2], "3 or more head orientations, got 2"), ((1, 3, 4, 4, 4), B0, "one direction for")],
)
def test_wrong_orientations(fields: tuple[int, ...], directions: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cosmos(noise(*fields), torch.ones(1, 1, 4, 4, 4, dtype=torch.float64), VOXEL_MM, directions)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_sources_fulfil_the_conditions_of_the_minimum(weights: Tensor | None) -> None:
    """Karush-Kuhn-Tucker, which are sufficient as the problem is convex: no gradient where positive, none down at 0."""
    q, r2prime, mask = noise(1, 1, 9, 9, 9), noise(1, 1, 9, 9, 9, seed=1), torch.ones(1, 1, 9, 9, 9)
    chi = non_negative_sources(q, r2prime, mask, weights)
    w = (torch.ones(1, 2) if weights is None else weights)[:, :, None, None, None]
    found_q, found_r = combine_sources(chi, weights)
    sign = torch.tensor([1.0, -1.0]).reshape(1, 2, 1, 1, 1)
    gradient = sign * (found_q - q) + w * (found_r - r2prime)
    assert bool((chi >= 0).all())
    assert bool((gradient[chi > 0].abs() < 1e-12).all())
    assert bool((gradient[chi == 0] > -1e-12).all())
    assert all(bool(((chi > 0).sum(dim=1) == n).any()) for n in (0, 1, 2))


def test_sources_equal_those_of_scipy_and_not_clamped_ones() -> None:
    q, r2prime = noise(1, 1, 6, 6, 6), noise(1, 1, 6, 6, 6, seed=1)
    chi = non_negative_sources(q, r2prime, torch.ones(1, 1, 6, 6, 6), WEIGHTS)
    matrix = np.stack([[1.0, -1.0], WEIGHTS[0].numpy()])
    right = torch.cat([q, r2prime], dim=1).reshape(2, -1).T.numpy()
    expected = np.stack([nnls(matrix, row)[0] for row in right], axis=1).reshape(chi.shape)
    np.testing.assert_allclose(chi.numpy(), expected, atol=1e-12)
    assert not np.allclose(separate_sources(q, r2prime, WEIGHTS).clamp(min=0).numpy(), expected, atol=0.01)


def test_single_relaxivity_is_the_clamped_closed_form() -> None:
    q, r2prime, mask = noise(2, 1, 6, 5, 4), noise(2, 1, 6, 5, 4, seed=1), ball(6, 5, 4)
    torch.testing.assert_close(non_negative_sources(q, r2prime, mask), mask * separate_sources(q, r2prime).clamp(min=0))
