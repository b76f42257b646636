"""The dipole convolution against the full complex FFT in NumPy, dense matrices, symmetries, and its known traps."""

from itertools import permutations, product

import numpy as np
import pytest
import torch
from torch import Tensor

from custom_transforms.physics import DipoleConvolution, default_geometry, dipole_kernel, kernel_for

OBLIQUE = torch.nn.functional.normalize(torch.tensor([[0.2, -0.4, 0.9]], dtype=torch.float64))
ANISOTROPIC_MM = torch.tensor([[0.9, 1.2, 2.0]], dtype=torch.float64)


def random_image(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def relative_error(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).norm() / expected.norm())


def full_dipole(shape: tuple[int, ...], voxel_size_mm: Tensor, b0_direction: Tensor) -> np.ndarray:
    """D(k) on the whole spectrum as the textbook has it, not mirrored."""
    axes = [np.fft.fftfreq(n, float(d)) for n, d in zip(shape, voxel_size_mm, strict=True)]
    k = np.stack(np.meshgrid(*axes, indexing="ij"))
    k2 = (k**2).sum(axis=0)
    k2[0, 0, 0] = 1
    dipole = 1 / 3 - np.tensordot(b0_direction.numpy(), k, axes=1) ** 2 / k2
    dipole[0, 0, 0] = 0
    return dipole


def full_field(chi: Tensor, voxel_size_mm: Tensor, b0_direction: Tensor) -> np.ndarray:
    """Circular convolution of (X, Y, Z) by the complex FFT; its imaginary part shows a D(k) that is not symmetric."""
    return np.fft.ifftn(full_dipole(chi.shape, voxel_size_mm, b0_direction) * np.fft.fftn(chi.numpy()))


def matrix(dipole: DipoleConvolution, shape: tuple[int, ...], *geometry: Tensor) -> Tensor:
    """Columns of the operator: the images of all unit voxels, sent through as channels."""
    n = int(np.prod(shape))
    units = torch.eye(n, dtype=torch.float64).reshape(1, n, *shape)
    return dipole(units, *geometry).reshape(n, n).T


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_real_fft_agrees_with_complex_fft(geometry, tolerance, dtype: torch.dtype):
    chi = random_image(geometry.batch, 2, *geometry.shape)
    field = DipoleConvolution(padding=0)(chi.to(dtype), geometry.voxel_size_mm, geometry.b0_direction)
    assert field.dtype == dtype
    for sample, sample_chi, mm, b in zip(field, chi, geometry.voxel_size_mm, geometry.b0_direction, strict=True):
        expected = torch.from_numpy(np.stack([full_field(x, mm, b).real for x in sample_chi]))
        assert relative_error(sample, expected) < tolerance["float64" if dtype == torch.float64 else "float32"]


def test_half_spectrum_without_mirroring_is_wrong_on_an_even_grid():
    shape, mm, b = (8, 6, 10), ANISOTROPIC_MM, OBLIQUE
    chi = random_image(1, 1, *shape)
    naive = torch.from_numpy(full_dipole(shape, mm[0], b[0])[..., : shape[2] // 2 + 1])
    kernel = dipole_kernel(list(shape), mm, b)[0, 0]
    assert (naive - kernel).abs().max() > 0.2
    complex_field = full_field(chi[0, 0], mm[0], b[0])
    assert np.abs(complex_field.imag).max() > 0.01  # the textbook's D(k) is no real operator here
    naive_field = torch.fft.irfftn(torch.fft.rfftn(chi[0, 0]) * naive, s=shape)
    assert relative_error(naive_field, torch.from_numpy(complex_field.real)) > 0.01


def test_adjoint_is_the_operator_itself(geometry, tolerance):
    dipole = DipoleConvolution(padding=0.5)
    x, y = (random_image(geometry.batch, 1, *geometry.shape, seed=seed) for seed in (1, 2))
    forward = dipole(x, geometry.voxel_size_mm, geometry.b0_direction)
    adjoint = dipole(y, geometry.voxel_size_mm, geometry.b0_direction)
    assert forward.shape == y.shape and adjoint.shape == x.shape
    scale = forward.norm() * y.norm()
    assert abs((forward * y).sum() - (x * adjoint).sum()) < tolerance["float64"] * scale
    wrong_sign = -dipole(forward, geometry.voxel_size_mm, geometry.b0_direction)
    assert (forward**2).sum() - (x * wrong_sign).sum() > forward.norm() ** 2


@pytest.mark.parametrize("shape", [(4, 6, 2), (3, 5, 3), (4, 3, 5)])
def test_dense_matrix_is_symmetric_with_the_spectrum_of_the_kernel(shape: tuple[int, ...], tolerance):
    dense = matrix(DipoleConvolution(padding=0), shape, ANISOTROPIC_MM, OBLIQUE)
    units = torch.eye(len(dense), dtype=torch.float64).reshape(-1, *shape)
    expected = [full_field(unit, ANISOTROPIC_MM[0], OBLIQUE[0]).real.ravel() for unit in units]
    assert relative_error(dense, torch.from_numpy(np.stack(expected, axis=1))) < tolerance["float64"]
    assert relative_error(dense.T, dense) < tolerance["float64"]
    dipole = full_dipole(shape, ANISOTROPIC_MM[0], OBLIQUE[0])
    mirrored = dipole[np.ix_(*[-np.arange(n) % n for n in shape])]
    spectrum = torch.from_numpy(np.sort((dipole + mirrored).ravel() / 2))
    assert relative_error(torch.linalg.eigvalsh(dense), spectrum) < tolerance["float64"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_range_and_exact_zero(geometry, dtype: torch.dtype):
    mm, b = geometry.voxel_size_mm.to(dtype), geometry.b0_direction.to(dtype)
    kernel = dipole_kernel(list(geometry.shape), mm, b)
    assert kernel.shape == (geometry.batch, 1, *geometry.shape[:2], geometry.shape[2] // 2 + 1)
    assert (kernel[:, 0, 0, 0, 0] == 0).all()
    assert kernel.min() > -2 / 3 - 1e-6 and kernel.max() < 1 / 3 + 1e-6


def test_minimum_is_reached_at_the_lowest_frequency_along_b0():
    # An epsilon of 1e-6 in |k|^2 would give -0.605 on this large field of view
    kernel = dipole_kernel([4, 4, 256], torch.ones(1, 3, dtype=torch.float64), OBLIQUE.new_tensor([[0, 0, 1]]))[0, 0]
    torch.testing.assert_close(kernel[0, 0, 1:], torch.full((128,), -2 / 3, dtype=torch.float64), atol=1e-15, rtol=0)
    torch.testing.assert_close(
        kernel[0, 1], torch.where(torch.arange(129) == 0, 1 / 3, kernel[0, 1]), rtol=1e-15, atol=0
    )


def test_linearity_and_translation(tolerance):
    dipole = DipoleConvolution(padding=0)
    x, y = random_image(1, 1, 8, 6, 5, seed=1), random_image(1, 1, 8, 6, 5, seed=2)
    field_x, field_y = dipole(x, ANISOTROPIC_MM, OBLIQUE), dipole(y, ANISOTROPIC_MM, OBLIQUE)
    assert (
        relative_error(dipole(2 * x - 3 * y, ANISOTROPIC_MM, OBLIQUE), 2 * field_x - 3 * field_y) < tolerance["float64"]
    )
    shift = {"shifts": (3, 1, 4), "dims": (2, 3, 4)}
    assert (
        relative_error(dipole(x.roll(**shift), ANISOTROPIC_MM, OBLIQUE), field_x.roll(**shift)) < tolerance["float64"]
    )
    assert abs(field_x.mean()) < tolerance["float64"]  # D(0) = 0


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flips", list(product([1, -1], repeat=3)))
def test_same_field_in_all_48_axis_orders_and_flips(order: tuple[int, ...], flips: tuple[int, ...], tolerance):
    def turn(image: Tensor) -> Tensor:
        turned = image.permute(0, 1, *(axis + 2 for axis in order))
        return turned.flip([axis + 2 for axis in range(3) if flips[axis] < 0])

    dipole, chi = DipoleConvolution(padding=0), random_image(1, 1, 7, 9, 5)
    expected = turn(dipole(chi, ANISOTROPIC_MM, OBLIQUE))
    turned_mm, turned_b = ANISOTROPIC_MM[:, order], OBLIQUE[:, order] * torch.tensor(flips)
    assert relative_error(dipole(turn(chi), turned_mm, turned_b), expected) < tolerance["float64"]
    if order != (0, 1, 2):
        assert relative_error(dipole(turn(chi), ANISOTROPIC_MM, turned_b), expected) > 0.1


def test_batch_of_two_geometries_equals_two_runs(tolerance):
    dipole = DipoleConvolution()
    chi = random_image(2, 1, 6, 5, 8)
    mm = torch.cat([ANISOTROPIC_MM, torch.ones_like(ANISOTROPIC_MM)])
    b = torch.cat([OBLIQUE, OBLIQUE[:, [2, 0, 1]]])
    single = torch.cat([dipole(chi[i : i + 1], mm[i : i + 1], b[i : i + 1]) for i in range(2)])
    assert relative_error(dipole(chi, mm, b), single) < tolerance["float64"]
    assert relative_error(dipole(chi, mm.flip(0), b.flip(0)), single) > 0.1


def test_padding_converges_to_the_big_box():
    chi = torch.zeros(1, 1, 16, 16, 16, dtype=torch.float64)
    chi[..., 2:14, 1:15, 3:13] = random_image(12, 14, 10).abs()
    reference = DipoleConvolution(padding=5)(chi, None, OBLIQUE)
    errors = [relative_error(DipoleConvolution(padding=p)(chi, None, OBLIQUE), reference) for p in (0, 0.5, 1, 2)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1 and errors[2] < 0.05 and errors[3] < 0.02


def test_default_geometry_is_one_mm_along_z():
    chi = random_image(2, 1, 5, 6, 7)
    along_z = torch.tensor([[0.0, 0.0, 1.0]] * 2)
    assert DipoleConvolution()(chi).equal(DipoleConvolution()(chi, torch.ones(2, 3), along_z))


def test_gradient(geometry):
    chi = random_image(geometry.batch, 1, 3, 2, 4).requires_grad_()
    dipole = DipoleConvolution(padding=0.5)
    assert torch.autograd.gradcheck(lambda x: dipole(x, geometry.voxel_size_mm, geometry.b0_direction), chi)


def test_autocast_and_half_precision_leave_float32_physics():
    dipole, chi = DipoleConvolution(), random_image(1, 1, 7, 6, 9, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert dipole(chi).equal(dipole(chi.clone()))
        under_autocast = dipole(chi)
    assert under_autocast.dtype == torch.float32 and under_autocast.equal(dipole(chi))
    half = chi.bfloat16()
    assert dipole(half).equal(dipole(half.float()))


def test_cache_returns_the_same_kernel_for_the_same_geometry_only():
    mm, b = ANISOTROPIC_MM, OBLIQUE
    kernel = kernel_for([8, 6, 10], mm, b)
    assert kernel_for([8, 6, 10], mm.clone(), b.clone()) is kernel
    others = [
        kernel_for([6, 8, 10], mm, b),
        kernel_for([8, 6, 10], mm.flip(1), b),
        kernel_for([8, 6, 10], mm, b.flip(1)),
        kernel_for([8, 6, 10], mm.float(), b.float()),
        kernel_for([8, 6, 10], mm.repeat(2, 1), b.repeat(2, 1)),
    ]
    assert all(other is not kernel for other in others)
    assert others[3].dtype == torch.float32 and len(others[4]) == 2
    torch.testing.assert_close(kernel, dipole_kernel([8, 6, 10], mm, b), rtol=0, atol=0)


def test_a_kernel_cached_in_inference_mode_serves_training():
    dipole, chi = DipoleConvolution(), random_image(1, 1, 3, 7, 11)
    with torch.inference_mode():
        expected = dipole(chi)
    chi.requires_grad_()
    field = dipole(chi)
    field.sum().backward()
    assert chi.grad is not None and field.equal(expected)


def test_nothing_is_saved_with_the_weights():
    dipole = DipoleConvolution()
    dipole(random_image(1, 1, 4, 4, 4))
    assert dipole.state_dict() == {} and list(dipole.parameters()) == []


def test_determinism():
    chi = random_image(2, 1, 9, 8, 7, dtype=torch.float32)
    assert DipoleConvolution()(chi).equal(DipoleConvolution()(chi.clone()))


@pytest.mark.parametrize(
    ("voxel_size_mm", "b0_direction", "message"),
    [
        (torch.ones(3), None, r"voxel_size_mm must have shape \(2, 3\)"),
        (torch.ones(1, 3), None, r"voxel_size_mm must have shape \(2, 3\)"),
        (torch.tensor([[1.0, 0.0, 1.0]] * 2), None, "voxel_size_mm must be positive"),
        (None, torch.tensor([[0.0, 1.0, 1.0]] * 2), "unit vectors"),
        (None, torch.tensor([[0.0, 1.0]] * 2), r"b0_direction must have shape \(2, 3\)"),
        (None, torch.full((2, 3), torch.nan), "unit vectors"),
    ],
)
def test_bad_geometry_is_refused(voxel_size_mm: Tensor | None, b0_direction: Tensor | None, message: str):
    with pytest.raises(ValueError, match=message):
        default_geometry(torch.zeros(2, 1, 4, 4, 4), voxel_size_mm, b0_direction)


def test_other_errors():
    with pytest.raises(ValueError, match="padding must not be negative"):
        DipoleConvolution(padding=-0.1)
    with pytest.raises(ValueError, match=r"the image must be \(B, C, X, Y, Z\)"):
        DipoleConvolution()(torch.zeros(1, 4, 4, 4))


@pytest.mark.gpu
def test_cpu_and_cuda_agree(geometry, tolerance):
    chi = random_image(geometry.batch, 1, *geometry.shape, dtype=torch.float32)
    dipole = DipoleConvolution()
    expected = dipole(chi, geometry.voxel_size_mm, geometry.b0_direction)
    field = dipole(chi.cuda(), geometry.voxel_size_mm, geometry.b0_direction)
    assert field.is_cuda and relative_error(field.cpu(), expected) < tolerance["float32"]
    with torch.autocast("cuda", dtype=torch.float16):
        assert dipole(chi.cuda(), geometry.voxel_size_mm, geometry.b0_direction).equal(field)
