r"""Labels from several head orientations: COSMOS for chi_total, then non-negative least squares for the two sources.

    chi_total = argmin over q of sum_i |m (f_i - D_i m q)|^2,     i = 1 ... N orientations of B0 to the head, N >= 3
    chi_para, chi_dia = argmin over cp, cd >= 0 of |cp - cd - q|^2 + |w_para cp + w_dia cd - R|^2,     R = R2' / Dr

The first is COSMOS (Liu 2009, doi:10.1002/mrm.21828). The published division per frequency,

    q = F^-1 [ sum_i D_i F f_i / sum_i D_i^2 ],

takes the field outside the mask m for zero and the grid for periodic. Here the field counts inside alone, and conjugate
gradients minimise the same squares; that division, with a floor beneath it, is their preconditioner.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from operator import add

import torch
from torch import Tensor

from custom_transforms.physics.dipole import default_geometry, kernel_for, padded_shape
from custom_transforms.physics.source_model import separate_sources, weight_columns
from custom_transforms.physics.zero import zero_mean

FEWEST_ORIENTATIONS = 3

LARGEST_NOISE_GAIN = 8.0
"""Of directions that COSMOS takes, see :func:`noise_gain`. Three that are 6 degrees apart have 8.2, such of 10 degrees
6.4, of 20 degrees 4.7; directions all around have 3.4."""

Progress = Callable[[int, float], None]

_FLOOR = 0.003  # of the mean of D_i^2 in the preconditioner, 3 % of what all directions of k have on average
_SPHERE_POINTS = 20000


def noise_gain(b0_direction: Tensor) -> Tensor:
    """Tell how much COSMOS amplifies white noise of the fields, but for the factor 1/sqrt(N) of averaging N of them.

        gain^2 = mean over k of 1 / (mean over i of D_i(k)^2)

    Parallel directions share the cone on which their dipoles are zero: their gain has no bound. Where the cones of all
    directions meet in single lines, as those of orthogonal directions do, hardly any of k is lost, and the gain is low.

    Args:
        b0_direction: (..., N, 3), unit vectors of B0 in the head.

    Returns:
        (...), dimensionless, float64.
    """
    i = torch.arange(_SPHERE_POINTS, dtype=torch.float64) + 0.5
    turn, height = math.pi * (3 - math.sqrt(5)) * i, i / _SPHERE_POINTS  # a spiral that covers half a sphere evenly
    side = (1 - height**2).sqrt()
    k = torch.stack([side * turn.cos(), side * turn.sin(), height])
    squares = (1 / 3 - (b0_direction.double().cpu() @ k) ** 2) ** 2
    return (1 / squares.mean(dim=-2).clamp(min=torch.finfo(torch.float64).tiny)).mean(dim=-1).sqrt()


def _check_orientations(local_field_ppm: Tensor, b0_direction: Tensor) -> None:
    if local_field_ppm.ndim != 5 or b0_direction.shape != (*local_field_ppm.shape[:2], 3):
        raise ValueError(
            "COSMOS takes fields (B, N, X, Y, Z) and directions (B, N, 3), got "
            f"{tuple(local_field_ppm.shape)} and {tuple(b0_direction.shape)}; give one direction for each field"
        )
    count = local_field_ppm.shape[1]
    if count < FEWEST_ORIENTATIONS:
        raise ValueError(
            f"COSMOS needs {FEWEST_ORIENTATIONS} or more head orientations, got {count}; "
            "turn the head further, or use a method for a single orientation"
        )
    for directions, gain in zip(b0_direction.double(), noise_gain(b0_direction).tolist(), strict=True):
        if gain > LARGEST_NOISE_GAIN:
            cosine = float((directions @ directions.T).abs().min())  # B0 and -B0 make the same dipole
            raise ValueError(
                f"the {count} head orientations are nearly parallel: the largest angle between their directions of B0 "
                f"is {math.degrees(math.acos(min(1.0, cosine))):.1f} degrees, and noise would grow {gain:.3g}-fold, "
                f"more than {LARGEST_NOISE_GAIN:g}-fold; turn the head by 10 degrees or more, to different sides"
            )


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(1, 2, 3, 4), keepdim=True)


def _conjugate_gradients(
    normal: Callable[[Tensor], Tensor],
    precondition: Callable[[Tensor], Tensor],
    right: Tensor,
    *,
    iterations: int,
    tolerance: float,
    progress: Progress | None,
) -> Tensor:
    """Solve normal(q) = right for each volume of a batch, from q = 0; volumes that have converged stay as they are."""
    q, residual, step = torch.zeros_like(right), right, precondition(right)
    size, norm = _inner(residual, step), _inner(right, right).sqrt()
    going = norm > 0
    for iteration in range(1, iterations + 1):
        if not going.any():
            break
        product = normal(step)
        length = torch.where(going, size / _inner(step, product), 0.0)
        q, residual = q + length * step, residual - length * product
        relative = torch.where(norm > 0, _inner(residual, residual).sqrt() / norm, 0.0)
        going = relative > tolerance
        preconditioned = precondition(residual)
        size, previous = _inner(residual, preconditioned), size
        step = preconditioned + torch.where(going, size / previous, 0.0) * step
        if progress is not None:
            progress(iteration, float(relative.max()))
    return q


def cosmos(
    local_field_ppm: Tensor,
    mask: Tensor,
    voxel_size_mm: Tensor,
    b0_direction: Tensor,
    *,
    padding: float = 0.5,
    iterations: int = 100,
    tolerance: float = 1e-5,
    progress: Progress | None = None,
) -> Tensor:
    """Find the total susceptibility that explains the fields of all head orientations best.

    Args:
        local_field_ppm: (B, N, X, Y, Z) in ppm of B0, on a grid that turns with the head.
        mask: (B, 1, X, Y, Z), 1 in the brain; 1 everywhere for a field of the whole grid.
        voxel_size_mm: (B, 3).
        b0_direction: (B, N, 3), unit vectors in voxel axes.
        padding: relative zero margin against wrap-around; 0 is for a field that is periodic on the grid.
        iterations: at most so many steps of the conjugate gradients.
        tolerance: they stop where the gradient of the squares has fallen to this share of what it was at zero.
        progress: called after each step with its number and that share, the largest of the batch.

    Returns:
        chi_total in ppm, (B, 1, X, Y, Z), with zero mean in the mask: the field does not tell it, as D(0) = 0.

    Raises:
        ValueError: fewer than 3 orientations, orientations that are nearly parallel, or a wrong shape.
    """
    _check_orientations(local_field_ppm, b0_direction)
    x, y, z = local_field_ppm.shape[-3:]
    grid = padded_shape([x, y, z], padding)
    geometries = [default_geometry(local_field_ppm, voxel_size_mm, b) for b in b0_direction.unbind(dim=1)]
    kernels = [kernel_for(grid, *geometry) for geometry in geometries]
    division = 1 / (reduce(add, (kernel * kernel for kernel in kernels)) + _FLOOR * len(kernels))

    def spectrum(values: Tensor) -> Tensor:
        return torch.fft.rfftn(mask * values, s=grid, dim=(-3, -2, -1))

    def image(half_spectrum: Tensor) -> Tensor:
        return mask * torch.fft.irfftn(half_spectrum, s=grid, dim=(-3, -2, -1))[..., :x, :y, :z]

    def forward(q: Tensor) -> Iterator[Tensor]:
        q_spectrum = spectrum(q)
        return (image(kernel * q_spectrum) for kernel in kernels)

    def adjoint(fields: Iterable[Tensor]) -> Tensor:
        return image(reduce(add, (kernel * spectrum(field) for kernel, field in zip(kernels, fields, strict=True))))

    q = _conjugate_gradients(
        lambda step: adjoint(forward(step)),
        lambda residual: image(division * spectrum(residual)),
        adjoint(local_field_ppm.split(1, dim=1)),
        iterations=iterations,
        tolerance=tolerance,
        progress=progress,
    )
    return zero_mean(q, mask)


def non_negative_sources(
    q_ppm: Tensor, r2prime_ppm: Tensor, mask: Tensor, relaxivity_weights: Tensor | None = None
) -> Tensor:
    """Solve the two-source problem at the head of the module in every voxel, exactly.

    Where the sources that fit both inputs are not both positive, the minimum has one source only (or none): the better
    of the two is taken.

    Args:
        q_ppm: (B, 1, X, Y, Z) total susceptibility.
        r2prime_ppm: (B, 1, X, Y, Z) R2'/Dr, the mean over the head orientations.
        mask: (B, 1, X, Y, Z), 1 in the brain.
        relaxivity_weights: (B, 2), or None for a single Dr.

    Returns:
        chi_para and chi_dia >= 0 in ppm, (B, 2, X, Y, Z), zero outside the mask.
    """
    w_para, w_dia = weight_columns(q_ppm, relaxivity_weights)
    both = separate_sources(q_ppm, r2prime_ppm, relaxivity_weights)
    para = (w_para * r2prime_ppm + q_ppm).clamp(min=0.0) / (1 + w_para * w_para)
    dia = (w_dia * r2prime_ppm - q_ppm).clamp(min=0.0) / (1 + w_dia * w_dia)
    # what a single source takes off the squares
    is_para = para * para * (1 + w_para * w_para) >= dia * dia * (1 + w_dia * w_dia)
    single = torch.cat([torch.where(is_para, para, 0.0), torch.where(is_para, 0.0, dia)], dim=1)
    return mask * torch.where((both >= 0).all(dim=1, keepdim=True), both, single)
