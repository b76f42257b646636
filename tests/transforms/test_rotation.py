"""Sampling on another grid, against closed forms and an independent implementation."""

import pytest
import torch
from scipy.ndimage import affine_transform
from torch import Tensor

from custom_transforms.transforms.rotation import rotate_volume, sample_affine

IDENTITY = torch.eye(3, dtype=torch.float64)


@pytest.fixture
def volume() -> Tensor:
    return torch.rand(2, 9, 7, 8, generator=torch.Generator().manual_seed(0))


def test_linear_maps_are_exact() -> None:
    def linear(shape: tuple[int, int, int], matrix: Tensor, offset: Tensor) -> Tensor:
        index = torch.stack(torch.meshgrid(*(torch.arange(n).double() for n in shape), indexing="ij"))
        at = torch.einsum("ij,jxyz->ixyz", matrix, index) + offset[:, None, None, None]
        return torch.einsum("i,ixyz->xyz", torch.tensor([0.5, -2.0, 3.0]).double(), at)[None] + 7

    matrix = torch.tensor([[0.5, 0.1, 0.0], [-0.1, 0.4, 0.1], [0.0, 0.1, 0.3]]).double()
    offset = torch.tensor([2.0, 3.5, 1.25]).double()
    source = linear((24, 20, 18), IDENTITY, torch.zeros(3).double())
    expected = linear((20, 9, 12), matrix, offset)
    for samples in ((1, 1, 1), (2, 3, 1)):  # a mean over a voxel's extent has the value of its centre
        result = sample_affine(source, matrix, offset, (20, 9, 12), samples=samples)
        torch.testing.assert_close(result, expected, atol=1e-10, rtol=0)
    assert not torch.allclose(sample_affine(source, matrix.T, offset, (20, 9, 12)), expected, atol=0.1)


def test_agrees_with_scipy(volume: Tensor) -> None:
    matrix = torch.tensor([[0.7, 0.3, 0.1], [-0.2, 0.9, 0.4], [0.1, -0.3, 0.8]]).double()
    offset, shape = torch.tensor([1.0, -0.5, 0.25]).double(), (18, 6, 10)
    result = sample_affine(volume.double(), matrix, offset, shape)
    for ours, source in zip(result, volume.double(), strict=True):
        # scipy drops to 0 at the edge, we within one voxel of it
        inside = affine_transform(torch.ones(9, 7, 8).numpy(), matrix.numpy(), offset.numpy(), shape, order=1) > 0.999
        theirs = affine_transform(source.numpy(), matrix.numpy(), offset.numpy(), shape, order=1)
        assert inside.sum() > 50
        assert abs(ours.numpy() - theirs)[inside].max() < 1e-12


def test_averaging_removes_what_a_coarse_grid_cannot_show() -> None:
    checkers = torch.arange(32).remainder(2).float().view(1, 32, 1, 1).expand(1, 32, 8, 8)
    coarse, offset = 2 * IDENTITY, torch.full((3,), 0.5).double()
    mean = sample_affine(checkers, coarse, offset, (16, 4, 4), samples=(2, 2, 2))
    torch.testing.assert_close(mean, torch.full((1, 16, 4, 4), 0.5), atol=1e-5, rtol=0)
    aliased = sample_affine(checkers, coarse, torch.zeros(3), (16, 4, 4))
    assert float((aliased - 0.5).abs().max()) == pytest.approx(0.5, abs=1e-5)


def test_one_voxel_axes(volume: Tensor) -> None:
    plane = volume[..., :1]
    torch.testing.assert_close(sample_affine(plane, IDENTITY, torch.zeros(3), (9, 7, 1)), plane, atol=1e-6, rtol=0)


def test_rotation_turns_about_the_centre(volume: Tensor) -> None:
    half = torch.diag(torch.tensor([-1.0, -1.0, 1.0]).double())
    turned = rotate_volume(volume, half, torch.tensor([0.8, 1.1, 2.0]))
    torch.testing.assert_close(turned, volume.flip(1, 2), atol=1e-5, rtol=0)
    assert not torch.allclose(turned, volume.flip(1, 3), atol=0.1)
