"""The offset of the total susceptibility that makes both sources least negative."""

import numpy as np
import pytest
import torch

from custom_transforms.physics import combine_sources, feasible_offset, nearest_feasible, separate_sources


def head(batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sources with a block of fluid, and a mask with a rim outside."""
    generator = torch.Generator().manual_seed(0)
    chi = 0.05 * torch.rand(batch, 2, 24, 21, 18, generator=generator, dtype=torch.float64)
    chi[:, :, 6:15, 6:15, 6:12] = 0.0
    mask = torch.zeros(batch, 1, 24, 21, 18, dtype=torch.float64)
    mask[..., 1:-1, 1:-1, 1:-1] = 1.0
    return chi * mask, mask


@pytest.mark.parametrize("weights", [None, torch.tensor([[1.2, 0.8]], dtype=torch.float64)])
@pytest.mark.parametrize("offset", [-0.02, 0.004, 0.03])
def test_recovers_the_offset_of_a_head_with_fluid(offset: float, weights: torch.Tensor | None) -> None:
    chi, mask = head()
    q, r2prime = combine_sources(chi, weights)
    found = feasible_offset(q - offset * mask, r2prime, mask, weights)
    assert found.shape == (1, 1, 1, 1, 1)
    assert float(found) == pytest.approx(offset, abs=2e-4)


def test_the_sign_matters() -> None:
    chi, mask = head()
    q, r2prime = combine_sources(chi)
    assert abs(float(feasible_offset(0.02 * mask - q, r2prime, mask)) - 0.02) > 0.01


def test_leaves_a_feasible_pair_alone() -> None:
    chi, mask = head()
    q, r2prime = combine_sources(chi)
    assert float(feasible_offset(q, r2prime, mask).abs()) < 1e-12


def test_is_the_minimum_of_the_violation() -> None:
    """Against a scan of the objective on the same averages, computed with NumPy."""
    chi, mask = head()
    generator = torch.Generator().manual_seed(1)
    q, r2prime = combine_sources(chi)
    q = q + 0.01 * torch.randn(q.shape, generator=generator, dtype=torch.float64) + 0.013 * mask
    found = float(feasible_offset(q, r2prime, mask))

    def blocks(volume: torch.Tensor) -> np.ndarray:
        return volume[0, 0].numpy().reshape(8, 3, 7, 3, 6, 3).sum(axis=(1, 3, 5))

    inside = blocks(mask)
    mean_q, mean_r = (blocks(x * mask) / np.maximum(inside, 1e-9) for x in (q, r2prime))

    def violation(c: float) -> float:
        negative = np.maximum(mean_q + c - mean_r, 0) ** 2 + np.maximum(-mean_q - c - mean_r, 0) ** 2
        return float((inside * negative).sum())

    scan = np.linspace(-0.05, 0.05, 2001)
    best = scan[np.argmin([violation(c) for c in scan])]
    assert found == pytest.approx(best, abs=5e-4)


def test_batch_equals_singles_and_no_gradient() -> None:
    chi, mask = head(2)
    q, r2prime = combine_sources(chi)
    q = (q + torch.tensor([0.01, -0.02], dtype=torch.float64)[:, None, None, None, None]).requires_grad_()
    both = feasible_offset(q, r2prime, mask)
    single = [feasible_offset(q[i : i + 1], r2prime[i : i + 1], mask[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(both, torch.cat(single))
    assert not both.requires_grad


def test_improves_the_closed_form() -> None:
    chi, mask = head()
    q, r2prime = combine_sources(chi)
    shifted = q - 0.02 * mask
    plain = separate_sources(shifted, r2prime).clamp(min=0)
    pinned = separate_sources(shifted + mask * feasible_offset(shifted, r2prime, mask), r2prime).clamp(min=0)
    assert (pinned - chi).norm() < 0.1 * (plain - chi).norm()


@pytest.mark.parametrize("weights", [None, torch.tensor([[1.2, 0.8]])])
def test_nearest_feasible_is_the_least_that_leaves_no_source_negative(weights: torch.Tensor | None) -> None:
    generator = torch.Generator().manual_seed(0)
    q, r2prime = (torch.randn(1, 1, 5, 6, 7, generator=generator) for _ in range(2))
    feasible = nearest_feasible(q, r2prime, weights)
    sources = separate_sources(q, feasible, weights)
    assert float(sources.min()) > -1e-6
    changed = feasible > r2prime
    assert changed.any() and not changed.all()
    torch.testing.assert_close(feasible[~changed], r2prime[~changed])
    torch.testing.assert_close(
        sources.amin(1, keepdim=True)[changed], torch.zeros(int(changed.sum())), atol=1e-6, rtol=0
    )


def test_a_wrong_relaxivity_moves_the_zero_less_where_fluid_counts_most() -> None:
    """R2' that is a sixth too low says of pure sources that chi_total is too large; fluid says that it is not."""
    chi, mask = head()
    chi[:, 1] *= 0.02  # nearly pure
    q, r2prime = combine_sources(chi)
    assert abs(float(feasible_offset(q, r2prime, mask))) < 1e-4
    moved, held = (float(feasible_offset(q, r2prime / 1.2, mask, fluid_ppm=f)) for f in (float("inf"), 0.01))
    assert moved < -0.001 and abs(held) < 0.3 * abs(moved)
