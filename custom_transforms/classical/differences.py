"""Forward differences on a periodic grid, their adjoint, and the spectrum of both together."""

import math

import torch
from torch import Tensor


def difference(values: Tensor, dim: int) -> Tensor:
    """Give values[i + 1] - values[i] along an axis; the first follows the last."""
    n = values.shape[dim]
    result = torch.empty_like(values)
    torch.sub(values.narrow(dim, 1, n - 1), values.narrow(dim, 0, n - 1), out=result.narrow(dim, 0, n - 1))
    torch.sub(values.narrow(dim, 0, 1), values.narrow(dim, n - 1, 1), out=result.narrow(dim, n - 1, 1))
    return result


def add_adjoint_difference(total: Tensor, values: Tensor, dim: int, *, weight: float = 1.0) -> Tensor:
    """Add weight times the adjoint of :func:`difference`, values[i - 1] - values[i], to ``total`` in place."""
    n = values.shape[dim]
    total.sub_(values, alpha=weight)
    total.narrow(dim, 1, n - 1).add_(values.narrow(dim, 0, n - 1), alpha=weight)
    total.narrow(dim, 0, 1).add_(values.narrow(dim, n - 1, 1), alpha=weight)
    return total


def laplacian_symbol(grid: list[int], like: Tensor) -> Tensor:
    """Give the eigenvalues of the sum of adjoint times difference over the axes.

    Args:
        grid: (X, Y, Z).
        like: a tensor of the dtype and on the device of the result.

    Returns:
        sum_i 2 - 2 cos(2 pi k_i / n_i), (1, 1, X, Y, Z // 2 + 1).
    """
    result = like.new_zeros(1, 1, 1, 1, 1)
    for axis, n in enumerate(grid):
        k = torch.arange(n // 2 + 1 if axis == 2 else n, device=like.device, dtype=like.dtype)
        shape = [-1 if i == axis else 1 for i in range(3)]
        result = result + (2 - 2 * torch.cos(2 * math.pi * k / n)).reshape(1, 1, *shape)
    return result
