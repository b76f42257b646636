"""Spherical mean values against direct sums, and the mean value property of harmonic functions."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from custom_transforms.physics import sphere_field
from custom_transforms.physics.dipole import convolve
from custom_transforms.physics.smv import ball_weights, smv_kernel

VOXEL_SIZES_MM = {"isotropic": (1.0, 1.0, 1.0), "flat": (0.8, 0.8, 2.0), "needle": (2.0, 0.7, 1.0)}


@pytest.fixture(params=VOXEL_SIZES_MM)
def voxel_size_mm(request: pytest.FixtureRequest) -> Tensor:
    return torch.tensor(VOXEL_SIZES_MM[request.param], dtype=torch.float64)


def coordinates_mm(shape: tuple[int, ...], voxel_size_mm: Tensor) -> list[Tensor]:
    axes = [(torch.arange(n, dtype=torch.float64) - n // 2) * v for n, v in zip(shape, voxel_size_mm, strict=True)]
    return list(torch.meshgrid(*axes, indexing="ij"))


def continuous_ball(shape: tuple[int, ...], voxel_size_mm: Tensor, radius_mm: float) -> Tensor:
    """The textbook's transform of a ball, cut off at the Nyquist frequency."""
    axes = [torch.fft.fftfreq(n, float(v), dtype=torch.float64) for n, v in zip(shape, voxel_size_mm, strict=True)]
    k = torch.stack(torch.meshgrid(*axes, indexing="ij")).norm(dim=0)[..., : shape[2] // 2 + 1]
    x = (2 * np.pi * radius_mm * k).clamp(min=1e-3)
    return (3 * (x.sin() - x * x.cos()) / x**3)[None, None]


@pytest.mark.parametrize("shape", [(24, 26, 20), (25, 27, 19), (24, 27, 20)])
def test_product_in_k_space_is_the_sum_over_the_ball(shape: tuple[int, ...], voxel_size_mm: Tensor):
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernel = smv_kernel(list(shape), voxel_size_mm, 5.0)
    expected = ndimage.convolve(image.numpy(), ball_weights(voxel_size_mm, 5.0).numpy(), mode="wrap")
    found = convolve(image[None, None], kernel, list(shape))[0, 0]
    assert (found - torch.from_numpy(expected)).abs().max() < 1e-12
    assert kernel[0, 0, 0, 0, 0] == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("radius_mm", [4.0, 7.5, 12.0])
def test_harmonics_of_second_order_keep_their_value(voxel_size_mm: Tensor, radius_mm: float):
    weights = ball_weights(voxel_size_mm, radius_mm)
    x, y, z = coordinates_mm(tuple(weights.shape), voxel_size_mm)
    assert weights.min() >= 0
    for harmonic in (torch.ones_like(x), x, z, x * y, x * z, x**2 - y**2, 2 * z**2 - x**2 - y**2):
        middle = harmonic[tuple(n // 2 for n in weights.shape)]
        assert (weights * harmonic).sum() == pytest.approx(float(middle), abs=1e-10 * radius_mm**2)
    # |x|^2 is not harmonic: its mean over a ball is 3/5 R^2, and the half voxel of the sampling
    assert (weights * (x**2 + y**2 + z**2)).sum() == pytest.approx(0.6 * radius_mm**2, rel=0.15)


@pytest.mark.parametrize("radius_mm", [4.0, 5.0, 6.0])
def test_sampling_alone_would_not_keep_them(radius_mm: float):
    voxel_size_mm = torch.tensor([0.8, 0.8, 2.0], dtype=torch.float64)
    x, y, z = coordinates_mm((21, 21, 9), voxel_size_mm)
    inside = (x**2 + y**2 + z**2 <= radius_mm**2).double()
    assert abs(float((inside * (x**2 - z**2)).sum() / inside.sum())) > 0.01 * radius_mm**2


def test_field_of_a_source_outside_keeps_its_value_better_than_with_the_continuous_ball(voxel_size_mm: Tensor):
    shape, radius_mm = (48, 50, 45), 6.0
    direction = torch.nn.functional.normalize(torch.tensor([0.2, -0.4, 0.9], dtype=torch.float64), dim=0)
    x = torch.stack(coordinates_mm(shape, voxel_size_mm))
    extent = voxel_size_mm * torch.tensor(shape)
    source = torch.tensor(shape) * torch.tensor([0.5, 0.5, -0.3])
    geometry = {"centre_voxel": source, "radius_mm": 0.2 * float(extent[2]), "chi_ppm": 9.4}
    field, _ = sphere_field(shape, voxel_size_mm, direction, **geometry)
    brain = (x / (0.36 * extent[:, None, None, None])).norm(dim=0) < 1
    deep = torch.from_numpy(ndimage.distance_transform_edt(brain, sampling=voxel_size_mm.tolist()) > radius_mm + 2)
    left = {}
    for name, kernel in (
        ("sampled", smv_kernel(list(shape), voxel_size_mm, radius_mm)),
        ("continuous", continuous_ball(shape, voxel_size_mm, radius_mm)),
    ):
        residual = field - convolve((field * brain)[None, None], kernel, list(shape))[0, 0]
        left[name] = float(residual[deep].norm() / field[deep].norm())
    assert left["sampled"] < 5e-3
    assert left["continuous"] > 3 * left["sampled"]


@pytest.mark.parametrize(
    ("shape", "radius_mm", "message"), [([16, 16, 16], 1.5, "at least the largest voxel"), ([8, 8, 8], 5.0, "not fit")]
)
def test_radii_that_cannot_be(shape: list[int], radius_mm: float, message: str):
    with pytest.raises(ValueError, match=message):
        smv_kernel(shape, torch.tensor([1.0, 1.0, 2.0]), radius_mm)
