"""IntervalLoss: its value against the equation, its minimum where the intervals are calibrated, what it ignores."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from custom_transforms.losses import IntervalLoss
from custom_transforms.networks.uncertainty import INTERVALS


def loss_of(sd: Tensor, error: Tensor) -> float:
    return float(IntervalLoss()(torch.cat([error, sd], dim=1), torch.zeros_like(error)))


@pytest.mark.parametrize("ratio", [0.5, 1.5, 3.0])
def test_equation(ratio: float) -> None:
    """|error| = ratio x SD: inside both intervals, inside the wide one alone, and outside."""
    sd = torch.rand(2, 2, 3, 4, 5) + 0.1
    expected = 0.0
    for share, factor in INTERVALS.items():
        u = math.log(ratio / factor)
        expected += (share if u > 0 else share - 1) * u / len(INTERVALS)
    assert loss_of(sd, -ratio * sd) == pytest.approx(expected, rel=1e-4)


def test_minimum_is_the_standard_deviation_of_normal_errors() -> None:
    torch.manual_seed(0)
    error = 0.02 * torch.randn(1, 2, 40, 40, 40)
    candidates = np.geomspace(0.01, 0.04, 41)
    values = [loss_of(torch.full_like(error, sd), error) for sd in candidates]
    assert candidates[int(np.argmin(values))] == pytest.approx(0.02, rel=0.04)


def test_derivative_is_the_error_of_the_coverage() -> None:
    """Whatever the distribution: here one with heavy tails."""
    torch.manual_seed(0)
    error = torch.distributions.StudentT(3.0).sample((1, 2, 20, 20, 20)).float() * 0.01
    log_sd = torch.tensor(math.log(0.012), requires_grad=True)
    sd = log_sd.exp().expand_as(error)
    IntervalLoss()(torch.cat([error, sd], dim=1), torch.zeros_like(error)).backward()
    held = [float((error.abs() <= factor * 0.012).double().mean()) - share for share, factor in INTERVALS.items()]
    assert float(log_sd.grad) == pytest.approx(sum(held) / len(held), abs=1e-3)
    assert abs(sum(held)) > 1e-2


def test_only_the_mask_counts_and_each_voxel_as_much() -> None:
    sd, error = torch.full((1, 2, 4, 4, 4), 0.01), torch.full((1, 2, 4, 4, 4), 0.015)
    expected = loss_of(sd, error)
    sd[..., 2:], error[..., 2:] = 0.0, 5.0
    assert loss_of(sd, error) == pytest.approx(expected)
    sd[..., 0], error[..., 0] = 1.0, 1.5  # a lesion: the same ratio
    assert loss_of(sd, error) == pytest.approx(expected)


def test_error_of_zero_has_a_gradient() -> None:
    pred = torch.cat([torch.zeros(1, 2, 2, 2, 2), torch.full((1, 2, 2, 2, 2), 0.01)], dim=1).requires_grad_()
    IntervalLoss()(pred, torch.zeros(1, 2, 2, 2, 2)).backward()
    assert bool(torch.isfinite(pred.grad).all()) and bool((pred.grad[:, 2:] > 0).all())


def test_maps_alone_are_refused() -> None:
    with pytest.raises(ValueError, match="chi_para, chi_dia and their SDs, got 2 channels"):
        IntervalLoss()(torch.zeros(1, 2, 2, 2, 2), torch.zeros(1, 2, 2, 2, 2))
