"""Thresholded k-space division against its definition on the full complex spectrum, and what it does to a point."""

from typing import Any

import pytest
import torch

from custom_transforms.classical import TKDSusceptibility
from custom_transforms.physics import DipoleConvolution


def full_dipole(shape: tuple[int, ...], voxel_mm: torch.Tensor, b0: torch.Tensor) -> torch.Tensor:
    """The mean of D(k) and D(-k mod N), on the whole spectrum."""
    k = torch.stack(
        torch.meshgrid(*(torch.fft.fftfreq(n, float(v)) for n, v in zip(shape, voxel_mm, strict=True)), indexing="ij")
    ).double()

    def dipole(k: torch.Tensor) -> torch.Tensor:
        k2 = (k * k).sum(dim=0)
        return torch.where(k2 > 0, 1 / 3 - torch.einsum("i,i...->...", b0, k) ** 2 / k2.clamp(min=1e-30), 0.0)

    index = torch.meshgrid(*(-torch.arange(n) % n for n in shape), indexing="ij")
    return (dipole(k) + dipole(k[:, *index])) / 2


@pytest.mark.parametrize("threshold", [0.1, 0.3])
def test_is_the_division(geometry: Any, threshold: float) -> None:
    field = torch.randn(geometry.batch, 1, *geometry.shape, generator=torch.Generator().manual_seed(0))
    image = torch.cat([field, torch.zeros_like(field), torch.ones_like(field)], dim=1)
    found = TKDSusceptibility(threshold=threshold, padding=0)(image, geometry.voxel_size_mm, geometry.b0_direction)
    for i in range(geometry.batch):
        D = full_dipole(geometry.shape, geometry.voxel_size_mm[i], geometry.b0_direction[i])
        inverse = torch.where(D.abs() > threshold, 1 / D.where(D != 0, 1.0), D.sign() / threshold)
        expected = torch.fft.ifftn(inverse * torch.fft.fftn(field[i, 0].double())).real / (D * inverse).mean()
        torch.testing.assert_close(found[i, 0], (expected - expected.mean()).float(), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(found[i, 0], -expected.float(), atol=1e-2)


def test_compensation_keeps_the_height_of_a_point() -> None:
    chi = torch.zeros(1, 1, 24, 24, 24)
    chi[..., 12, 12, 12] = 1.0
    field = DipoleConvolution(padding=0)(chi)
    image = torch.cat([field, torch.zeros_like(field), torch.ones_like(field)], dim=1)
    for threshold in (0.1, 0.2, 0.4):
        assert float(TKDSusceptibility(threshold=threshold, padding=0)(image)[..., 12, 12, 12]) == pytest.approx(
            1, abs=1e-3
        )


@pytest.mark.parametrize("threshold", [0.0, -0.1, 0.7, float("nan")])
def test_threshold(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold must lie between 0 and 2/3"):
        TKDSusceptibility(threshold=threshold)
