r"""Labels from several head orientations: COSMOS for chi_total, then non-negative least squares for the two sources.

    chi_total = argmin over q of sum_i |m (f_i - D_i m q)|^2,     i = 1 ... N orientations of B0 to the head, N >= 3
    chi_para, chi_dia = argmin over cp, cd >= 0 of |cp - cd - q|^2 + |w_para cp + w_dia cd - R|^2,     R = R2' / Dr

The first is COSMOS (Liu 2009, doi:10.1002/mrm.21828). The published division per frequency takes the field outside the
mask m for zero; here the field counts inside alone, and conjugate gradients minimise the same squares. They start from
zero and stop early, so that what no orientation shows stays small.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from operator import add

import torch
from torch import Tensor

from custom_transforms.physics.dipole import default_geometry, kernel_for, padded_shape
from custom_transforms.physics.source_model import separate_sources, weight_columns

FEWEST_ORIENTATIONS = 3
_PADDING = 0.5  # relative margin against wrap-around


def _check_orientations(local_field_ppm: Tensor, b0_direction: Tensor) -> None:
    if local_field_ppm.ndim != 5 or b0_direction.shape != (*local_field_ppm.shape[:2], 3):
        raise ValueError(
            "COSMOS takes fields (B, N, X, Y, Z) and directions (B, N, 3), got "
            f"{tuple(local_field_ppm.shape)} and {tuple(b0_direction.shape)}; give one direction for each field"
        )
    if local_field_ppm.shape[1] < FEWEST_ORIENTATIONS:
        raise ValueError(
            f"COSMOS needs {FEWEST_ORIENTATIONS} or more head orientations, got {local_field_ppm.shape[1]}; "
            "turn the head further, or use a method for a single orientation"
        )


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(1, 2, 3, 4), keepdim=True)


def _conjugate_gradients(normal: Callable[[Tensor], Tensor], right: Tensor, iterations: int) -> Tensor:
    """Solve normal(q) = right for each volume of a batch, from q = 0."""
    q, residual, step = torch.zeros_like(right), right, right
    size = _inner(residual, residual)
    tiny = torch.finfo(size.dtype).tiny  # nothing is left to do where the residual is zero
    for _ in range(iterations):
        product = normal(step)
        length = size / _inner(step, product).clamp(min=tiny)
        q, residual = q + length * step, residual - length * product
        size, previous = _inner(residual, residual), size
        step = residual + size / previous.clamp(min=tiny) * step
    return q


def cosmos(
    local_field_ppm: Tensor, mask: Tensor, voxel_size_mm: Tensor, b0_direction: Tensor, *, iterations: int = 16
) -> Tensor:
    """Find the total susceptibility that explains the fields of all head orientations best.

    Args:
        local_field_ppm: (B, N, X, Y, Z) in ppm of B0, on a grid that turns with the head.
        mask: (B, 1, X, Y, Z), 1 in the brain.
        voxel_size_mm: (B, 3).
        b0_direction: (B, N, 3), unit vectors in voxel axes.
        iterations: of the conjugate gradients.

    Returns:
        chi_total in ppm, (B, 1, X, Y, Z), with zero mean in the mask: the field does not tell it, as D(0) = 0.

    Raises:
        ValueError: fewer than 3 orientations, or a wrong shape.
    """
    _check_orientations(local_field_ppm, b0_direction)
    x, y, z = local_field_ppm.shape[-3:]
    grid = padded_shape([x, y, z], _PADDING)
    geometries = [default_geometry(local_field_ppm, voxel_size_mm, b) for b in b0_direction.unbind(dim=1)]
    kernels = [kernel_for(grid, *geometry) for geometry in geometries]

    def spectrum(values: Tensor) -> Tensor:
        return torch.fft.rfftn(mask * values, s=grid, dim=(-3, -2, -1))

    def image(half_spectrum: Tensor) -> Tensor:
        return mask * torch.fft.irfftn(half_spectrum, s=grid, dim=(-3, -2, -1))[..., :x, :y, :z]

    def forward(q: Tensor) -> Iterator[Tensor]:
        q_spectrum = spectrum(q)
        return (image(kernel * q_spectrum) for kernel in kernels)

    def adjoint(fields: Iterable[Tensor]) -> Tensor:
        return image(reduce(add, (kernel * spectrum(field) for kernel, field in zip(kernels, fields, strict=True))))

    right = adjoint(local_field_ppm.split(1, dim=1))
    q = _conjugate_gradients(lambda step: adjoint(forward(step)), right, iterations)
    return mask * (q - _inner(mask, q) / mask.sum(dim=(1, 2, 3, 4), keepdim=True).clamp(min=1.0))


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
