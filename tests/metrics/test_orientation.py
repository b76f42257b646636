"""Spread over head orientations, where the answer is known."""

import pytest
import torch

from custom_transforms.metrics import orientation_sd


def test_against_known_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    chi = torch.rand(1, 2, 6, 5, 4, generator=generator)
    mask = torch.ones(3, 1, 6, 5, 4)
    mask[1, :, 0] = 0
    shift = torch.tensor([-0.01, 0.0, 0.01]).view(3, 1, 1, 1, 1) * torch.tensor([1.0, 3.0]).view(1, 2, 1, 1, 1)
    pred = chi + shift
    expected = torch.tensor([[0.01, 0.03]], dtype=torch.float64)
    torch.testing.assert_close(orientation_sd(pred, mask), expected, rtol=1e-5, atol=0)
    pred[1, :, 0] = 7  # outside of one mask
    torch.testing.assert_close(orientation_sd(pred, mask), expected, rtol=1e-5, atol=0)
    assert orientation_sd(pred, torch.ones_like(mask)).min() > 0.1
    assert orientation_sd(chi.expand(3, 2, 6, 5, 4), mask).abs().max() == 0


def test_one_orientation_has_no_spread() -> None:
    with pytest.raises(ValueError, match="at least two orientations"):
        orientation_sd(torch.ones(1, 2, 4, 4, 4), torch.ones(1, 1, 4, 4, 4))
