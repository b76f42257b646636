"""Forward differences on a periodic grid, their adjoint, and the spectrum of both together.

Volumes are worked on in parts, a few planes of the first axis at a time: what an iteration needs of them stays in the
processor's cache, which is about twice as fast.
"""

import math

import torch
from torch import Tensor

AXES = (-3, -2, -1)
WHOLE = slice(None)

_PLANE_VALUES = 2**18  # in a part, on a CPU


def parts_of(maps: Tensor) -> list[slice]:
    """Cut the planes of maps (B, C, X, Y, Z) along the first axis into parts; on a GPU there is one."""
    n = maps.shape[-3]
    step = n if maps.is_cuda else max(1, _PLANE_VALUES * n // maps.numel())
    return [slice(start, min(n, start + step)) for start in range(0, n, step)]


def planes(maps: Tensor, part: slice) -> Tensor:
    """Give a view of the planes of maps (..., X, Y, Z)."""
    return maps[..., part, :, :]


def difference(maps: Tensor, axis: int, part: slice = WHOLE) -> Tensor:
    """Give maps[i + 1] - maps[i] along an axis in the planes of a part; the first follows the last.

    Args:
        maps: (B, C, X, Y, Z), all planes.
        axis: one of AXES.
        part: of the planes.
    """
    here, n = planes(maps, part), maps.shape[axis]
    result = torch.empty_like(here)
    if axis == AXES[0]:
        start, stop, _ = part.indices(n)
        inner = min(stop, n - 1) - start
        following = planes(maps, slice(start + 1, start + 1 + inner))
        torch.sub(following, here[..., :inner, :, :], out=result[..., :inner, :, :])
        if stop == n:
            torch.sub(maps[..., :1, :, :], here[..., inner:, :, :], out=result[..., inner:, :, :])
        return result
    torch.sub(here.narrow(axis, 1, n - 1), here.narrow(axis, 0, n - 1), out=result.narrow(axis, 0, n - 1))
    torch.sub(here.narrow(axis, 0, 1), here.narrow(axis, n - 1, 1), out=result.narrow(axis, n - 1, 1))
    return result


def add_adjoint_difference(
    total: Tensor, values: Tensor, axis: int, part: slice = WHOLE, *, weight: float = 1.0
) -> None:
    """Add weight times the adjoint of :func:`difference`, values[i - 1] - values[i], in place.

    Args:
        total: (B, C, X, Y, Z), all planes.
        values: those of the part; elsewhere they are taken for 0.
        axis: one of AXES.
        part: of the planes.
        weight: of what is added.
    """
    here = planes(total, part)
    here.sub_(values, alpha=weight)
    n = total.shape[axis]
    if axis == AXES[0]:
        start, stop, _ = part.indices(n)
        inner = min(stop, n - 1) - start
        planes(total, slice(start + 1, start + 1 + inner)).add_(values[..., :inner, :, :], alpha=weight)
        if stop == n:
            total[..., :1, :, :].add_(values[..., inner:, :, :], alpha=weight)
        return
    here.narrow(axis, 1, n - 1).add_(values.narrow(axis, 0, n - 1), alpha=weight)
    here.narrow(axis, 0, 1).add_(values.narrow(axis, n - 1, 1), alpha=weight)


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
