"""The 26-neighbour gradient against loops, the field model against the full complex FFT."""

from itertools import product

import numpy as np
import pytest
import torch

from custom_transforms.losses import FieldModelLoss, gradient_loss, neighbour_gradient


def gradient_by_loops(image: np.ndarray, voxel_size_mm: tuple[float, float, float]) -> np.ndarray:
    """For one channel (X, Y, Z)."""
    result = np.zeros([n - 2 for n in image.shape])
    for voxel in np.ndindex(result.shape):
        for step in product((-1, 0, 1), repeat=3):
            if any(step):
                rise = (
                    image[tuple(i + 1 + s for i, s in zip(voxel, step, strict=True))]
                    - image[tuple(i + 1 for i in voxel)]
                )
                result[voxel] += max(rise, 0) / np.linalg.norm(np.multiply(step, voxel_size_mm))
    return result


@pytest.mark.parametrize("voxel_size_mm", [None, ((1.0, 1.0, 1.0), (0.7, 1.2, 2.0))])
def test_gradient_is_that_of_the_loops(voxel_size_mm: tuple | None) -> None:
    image = torch.rand(2, 2, 5, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradient = neighbour_gradient(image, None if voxel_size_mm is None else torch.tensor(voxel_size_mm))
    for b, c in np.ndindex(2, 2):
        expected = gradient_by_loops(image[b, c].numpy(), voxel_size_mm[b] if voxel_size_mm else (1, 1, 1))
        np.testing.assert_allclose(gradient[b, c], expected, rtol=1e-6)


def test_a_peak_is_not_a_hole() -> None:
    peak = torch.zeros(1, 1, 5, 5, 5)
    peak[0, 0, 2, 2, 2] = 1.0
    inverse_distances = 6 + 12 / 2**0.5 + 8 / 3**0.5
    flat = torch.zeros_like(peak)
    assert float(gradient_loss(peak, flat)) == pytest.approx(inverse_distances / 27)
    assert float(gradient_loss(peak, peak)) == 0
    assert float(gradient_loss(peak, -peak)) == pytest.approx(2 * inverse_distances / 27)
    assert float(gradient_loss(torch.cat([peak, peak], 1), torch.cat([flat, flat], 1))) == pytest.approx(
        2 * inverse_distances / 27
    )


def field_by_complex_fft(chi: np.ndarray, voxel_size_mm: tuple, b: np.ndarray) -> np.ndarray:
    """For an odd grid, where D has no Nyquist plane."""
    k = np.stack(
        np.meshgrid(*(np.fft.fftfreq(n, d) for n, d in zip(chi.shape, voxel_size_mm, strict=True)), indexing="ij")
    )
    k2 = (k**2).sum(0)
    k2[0, 0, 0] = 1
    dipole = 1 / 3 - np.tensordot(b, k, 1) ** 2 / k2
    dipole[0, 0, 0] = 0
    return np.fft.ifftn(dipole * np.fft.fftn(chi)).real


def test_field_model() -> None:
    generator = torch.Generator().manual_seed(1)
    chi, mask = torch.randn(1, 1, 7, 9, 5, generator=generator), torch.ones(1, 1, 7, 9, 5)
    mask[..., 3:5, 4, 2] = 0
    b = np.array([0.48, -0.64, 0.6])
    voxel = (0.8, 1.1, 2.0)
    expected = torch.from_numpy(field_by_complex_fft(chi[0, 0].numpy(), voxel, b))[None, None].float()
    geometry = torch.tensor([voxel]), torch.from_numpy(b)[None].float()
    exact = FieldModelLoss(padding=0.0)
    assert float(exact(chi, expected, mask, *geometry)) < 1e-6
    assert float(exact(-chi, expected, mask, *geometry)) == pytest.approx(2 * float((mask * expected).abs().mean()))
    assert float(exact(chi, expected, mask)) > 0.1  # 1 mm and +z
    inner = FieldModelLoss(padding=0.0, rim_voxels=2)
    expected_inner = (mask * expected).abs()[..., 2:5, 2:7, 2:3].mean()
    assert float(inner(0 * chi, expected, mask, *geometry)) == pytest.approx(float(expected_inner))


def test_the_rim_holds_the_error_of_a_patch() -> None:
    chi = torch.rand(1, 1, 40, 40, 40, generator=torch.Generator().manual_seed(2))
    field = FieldModelLoss(padding=1.0).dipole(chi)
    patch, mask = (slice(None), slice(None), *3 * (slice(10, 30),)), torch.ones(1, 1, 20, 20, 20)
    whole, inner = (
        float(FieldModelLoss(padding=1.0, rim_voxels=rim)(chi[patch], field[patch], mask)) for rim in (0, 6)
    )
    assert 0 < inner < 0.5 * whole


def test_rims_that_cannot_be() -> None:
    zero = torch.zeros(1, 1, 6, 8, 8)
    with pytest.raises(ValueError, match="smaller rim_voxels"):
        FieldModelLoss(rim_voxels=3)(zero, zero, zero)
    with pytest.raises(ValueError, match="must not be negative"):
        FieldModelLoss(rim_voxels=-1)
