"""The sign that alternates along the slices is found and undone; an ordinary image is left alone."""

import pytest
import torch

from custom_transforms.raw.slices import slice_correlation, undo_slice_alternation


def signal(slices: int) -> torch.Tensor:
    """Give a smooth object with a field that turns its phase by 0.4 rad a slice, and noise."""
    generator = torch.Generator().manual_seed(2)
    z = torch.arange(slices) - slices / 2
    x = torch.linspace(-1, 1, 9)
    phase = 0.4 * z + x[:, None, None]
    object_ = torch.exp(-(x[:, None, None] ** 2) - x[:, None] ** 2).expand(9, 9, slices)
    noise = torch.randn(2, 9, 9, slices, generator=generator)
    echo = torch.polar(object_.contiguous(), phase.expand(9, 9, slices).contiguous()) + 0.05 * torch.complex(*noise)
    return torch.stack([echo, echo * 0.7])


@pytest.mark.parametrize("slices", [8, 9])
def test_alternation_is_undone(slices: int) -> None:
    echoes = signal(slices)
    sign = (-1.0) ** torch.arange(slices)
    restored, alternated = undo_slice_alternation(echoes * sign)
    assert alternated
    assert torch.equal(restored, echoes)


@pytest.mark.parametrize("slices", [8, 9])
def test_ordinary_images_stay(slices: int) -> None:
    echoes = signal(slices)
    same, alternated = undo_slice_alternation(echoes)
    assert not alternated
    assert same is echoes


def test_correlation_of_a_linear_phase_is_its_cosine() -> None:
    phase = 0.7 * torch.arange(10.0).expand(1, 3, 3, 10)
    echoes = torch.polar(torch.ones_like(phase), phase)
    assert slice_correlation(echoes) == pytest.approx(float(torch.cos(torch.tensor(0.7))), abs=1e-6)


def test_nan_does_not_hide_the_alternation() -> None:
    echoes = signal(8) * (-1.0) ** torch.arange(8)
    echoes[0, 0, 0, 0] = complex(float("nan"), 0)
    assert undo_slice_alternation(echoes)[1]
