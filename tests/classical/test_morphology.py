"""Weights by the magnitude: precision as the square of the signal, smoothness but for its steepest edges."""

import pytest
import torch

from custom_transforms.classical.morphology import noise_precision, smoothness

VOXEL_MM = torch.tensor([[1.0, 2.0, 1.0]])


def test_precision_goes_as_the_square_of_the_signal() -> None:
    mask = torch.zeros(1, 1, 4, 4, 4)
    mask[..., :2] = 1
    assert torch.equal(noise_precision(None, mask), mask)
    magnitude = torch.full_like(mask, 300.0)
    magnitude[..., 0] = 100.0
    expected = torch.zeros_like(mask)
    expected[..., 0], expected[..., 1] = 0.25, 2.25
    torch.testing.assert_close(noise_precision(magnitude, mask), expected)
    torch.testing.assert_close(noise_precision(1e4 * magnitude, mask), expected)


def test_nothing_is_smoothed_across_the_edge_of_the_mask() -> None:
    mask = torch.zeros(1, 1, 6, 6, 6)
    mask[..., 1:5, 1:5, 1:5] = 1
    for axis, smooth in enumerate(smoothness(None, mask, VOXEL_MM, edge_share=0.3)):
        assert torch.equal(smooth, mask * mask.roll(-1, dims=axis - 3) / VOXEL_MM[0, axis])
        assert int((smooth > 0).sum()) == 4 * 4 * 3


def test_steepest_differences_are_edges() -> None:
    """In 1/mm, so a step along the axis of thick voxels is less steep; for each image of a batch by itself."""
    mask = torch.ones(1, 1, 8, 8, 8)
    guide = torch.zeros_like(mask)
    guide[:, :, 4:] += 1.0  # two steps of the periodic grid: 2 x 64 differences of 1 / mm
    guide[:, :, :, 4:] += 1.2  # and of 0.6 / mm
    share = 128 / (3 * 512)
    x, y, z = smoothness(guide, mask, VOXEL_MM, edge_share=share)
    assert int((x == 0).sum()) == 128 and not bool(x[:, :, [3, 7]].any())
    assert bool(y.all()) and bool(z.all())
    x, y, z = smoothness(guide, mask, VOXEL_MM, edge_share=2 * share)
    assert int((y == 0).sum()) == 128 and bool(z.all())
    both = smoothness(
        torch.cat([guide, 5 * guide]), mask.expand(2, -1, -1, -1, -1), VOXEL_MM.repeat(2, 1), edge_share=share
    )
    assert all(torch.equal(smooth[0], smooth[1]) for smooth in both)


@pytest.mark.parametrize("edge_share", [0.0, 1.0])
def test_extremes(edge_share: float) -> None:
    guide = torch.rand(1, 1, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    kept = (
        sum(
            float((s > 0).float().mean())
            for s in smoothness(guide, torch.ones_like(guide), VOXEL_MM, edge_share=edge_share)
        )
        / 3
    )
    assert kept == pytest.approx(1 - edge_share, abs=0.01)
