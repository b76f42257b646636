"""SourceLoss against its equation on tiny arrays."""

import pytest
import torch

from custom_transforms.losses import SourceLoss


def test_constant_error_is_its_magnitude() -> None:
    label = torch.rand(2, 2, 3, 4, 5)
    assert float(SourceLoss(scale_ppm=0.1)(label + 0.02, label)) == pytest.approx(0.2, rel=1e-4)


def test_ramp_adds_its_gradient() -> None:
    label = torch.zeros(1, 2, 4, 3, 3)
    ramp = torch.arange(4.0)[:, None, None].expand_as(label)
    # mean |0, 1, 2, 3| = 1.5; the gradient is 1 along one axis of three
    assert float(SourceLoss(gradient_weight=0.3, scale_ppm=1.0)(ramp, label)) == pytest.approx(1.5 + 0.3 / 3)


def test_iterations_are_weighted_by_halves() -> None:
    label = torch.zeros(1, 2, 2, 2, 2)
    estimates = torch.stack([label + 4.0, label + 2.0, label + 1.0], dim=1)
    expected = (0.25 * 4 + 0.5 * 2 + 1 * 1) / 1.75
    assert float(SourceLoss(scale_ppm=1.0)(estimates, label)) == pytest.approx(expected)


def test_swapped_sources_are_an_error() -> None:
    label = torch.rand(1, 2, 4, 4, 4)
    assert float(SourceLoss()(label, label)) == 0
    assert float(SourceLoss()(label.flip(1), label)) > 1
