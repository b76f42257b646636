"""Tikhonov inversion against dense least squares."""

import numpy as np
import pytest
import torch
from torch import Tensor

from custom_transforms.physics import DipoleConvolution, tikhonov_inversion


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense_tikhonov(field: Tensor, matrix: Tensor, regularisation: float) -> Tensor:
    """argmin over q of |f - D q|^2 + lambda |q|^2, as one stacked least-squares problem."""
    n = field.numel()
    rows = np.concatenate([matrix.numpy(), np.sqrt(regularisation) * np.eye(n)])
    right = np.concatenate([field.numpy().ravel(), np.zeros(n)])
    return torch.from_numpy(np.linalg.lstsq(rows, right, rcond=None)[0]).reshape(field.shape)


@pytest.mark.parametrize("regularisation", [1e-3, 0.1])
@pytest.mark.parametrize("shape", [(4, 6, 4), (3, 5, 5)])
def test_is_the_least_squares_solution(shape: tuple[int, ...], regularisation: float):
    mm = torch.tensor([[0.9, 1.2, 2.0]], dtype=torch.float64)
    b = torch.nn.functional.normalize(torch.tensor([[0.2, -0.4, 0.9]], dtype=torch.float64))
    n = int(np.prod(shape))
    units = torch.eye(n, dtype=torch.float64).reshape(1, n, *shape)
    matrix = DipoleConvolution(padding=0)(units, mm, b).reshape(n, n).T
    field = noise(1, 1, *shape)
    expected = dense_tikhonov(field, matrix, regularisation)
    q = tikhonov_inversion(field, mm, b, regularisation=regularisation, padding=0)
    assert (q - expected).norm() < 1e-10 * expected.norm()  # condition number up to 1 / sqrt(lambda)
    wrong = tikhonov_inversion(-field, mm, b, regularisation=regularisation, padding=0)
    assert (wrong - expected).norm() > expected.norm()


def test_recovers_what_the_field_holds_and_no_mean():
    # Along z the field of a susceptibility that varies across B0 only is chi/3: D = 1/3 there
    x = torch.arange(16, dtype=torch.float64)
    chi = (0.5 + torch.cos(2 * torch.pi * x / 8)).reshape(1, 1, 16, 1, 1).expand(1, 1, 16, 4, 4)
    field = DipoleConvolution(padding=0)(chi)
    q = tikhonov_inversion(field, regularisation=1e-3, padding=0)
    shrinkage = (1 / 9) / (1 / 9 + 1e-3)
    torch.testing.assert_close(q, shrinkage * (chi - chi.mean()))


def test_more_regularisation_gives_a_smaller_map_and_a_larger_residual():
    field, dipole = noise(1, 1, 6, 5, 4), DipoleConvolution(padding=0)
    maps = [tikhonov_inversion(field, regularisation=value, padding=0) for value in (1e-3, 1e-2, 1e-1, 1.0)]
    sizes = [float(q.norm()) for q in maps]
    residuals = [float((field - dipole(q)).norm()) for q in maps]
    assert sizes == sorted(sizes, reverse=True) and residuals == sorted(residuals)


@pytest.mark.parametrize("regularisation", [0.0, -1.0, float("nan")])
def test_lambda_must_be_positive(regularisation: float):
    with pytest.raises(ValueError, match="regularisation must be positive"):
        tikhonov_inversion(noise(1, 1, 4, 4, 4), regularisation=regularisation)
