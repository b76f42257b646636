"""An independent solver of what the iterative methods minimise, on grids that are small enough for dense matrices."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from custom_transforms.physics import DipoleConvolution


def dense(operator: Callable[[torch.Tensor], torch.Tensor], shape: Sequence[int]) -> NDArray:
    """The matrix of an operator on maps (N, 1, X, Y, Z)."""
    n = int(np.prod(shape))
    return operator(torch.eye(n, dtype=torch.float64).reshape(n, 1, *shape)).reshape(n, n).T.numpy()


@dataclass(frozen=True)
class DenseProblem:
    """Minimise 1/2 |A x - b|^2 + sum t |G x|, over all x or those >= 0, each map inside a mask and zero outside.

    Attributes:
        A: (M, C * n), n voxels in the mask.
        b: (M,).
        G: (K, C * n).
        t: (K,).
        non_negative: x >= 0.
        inside: (X * Y * Z,), the mask.
    """

    A: NDArray
    b: NDArray
    G: NDArray
    t: NDArray
    non_negative: bool
    inside: NDArray

    def objective(self, x: NDArray) -> float:
        return float(np.square(self.A @ x - self.b).sum() / 2 + self.t @ np.abs(self.G @ x))

    def solve(self) -> NDArray:
        """By the dual, a least squares problem with bounds: x = H^-1 (A'b - G'u + v) with |u| <= t and v >= 0."""
        chol = np.linalg.cholesky(np.linalg.inv(self.A.T @ self.A))
        columns, low, high = [self.G.T], [-self.t], [self.t]
        if self.non_negative:
            n = self.A.shape[1]
            columns, low, high = [*columns, -np.eye(n)], [*low, np.zeros(n)], [*high, np.full(n, np.inf)]
        bounds = np.concatenate(low) - 1e-13, np.concatenate(high) + 1e-13  # where t = 0 they must differ
        right = self.A.T @ self.b
        dual = lsq_linear(
            chol.T @ np.hstack(columns), chol.T @ right, bounds=bounds, method="bvls", tol=1e-13, max_iter=5000
        ).x
        return chol @ chol.T @ (right - np.hstack(columns) @ dual)

    def vector(self, maps: torch.Tensor) -> NDArray:
        """The voxels in the mask of maps (1, C, X, Y, Z)."""
        return maps[0].flatten(1)[:, torch.from_numpy(self.inside)].double().numpy().ravel()


@pytest.fixture
def dipole_matrix() -> Callable[..., NDArray]:
    """D on a periodic grid."""

    def make(shape: Sequence[int], voxel_size_mm: torch.Tensor, b0_direction: torch.Tensor) -> NDArray:
        n = int(np.prod(shape))
        geometry = voxel_size_mm.double().expand(n, 3), b0_direction.double().expand(n, 3)
        return dense(lambda maps: DipoleConvolution(padding=0)(maps, *geometry), shape)

    return make


@pytest.fixture
def gradient_matrices() -> Callable[..., list[NDArray]]:
    """Forward differences in 1/mm along the three axes of a periodic grid."""

    def make(shape: Sequence[int], voxel_size_mm: torch.Tensor) -> list[NDArray]:
        return [
            dense(lambda maps, axis=axis: maps.roll(-1, dims=axis - 3) - maps, shape) / float(voxel_size_mm[0, axis])
            for axis in range(3)
        ]

    return make


@pytest.fixture
def problem_type() -> type[DenseProblem]:
    return DenseProblem
