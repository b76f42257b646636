r"""Dipole inversion by Tikhonov regularisation, in one line of algebra.

    q = F^-1 [D / (D^2 + lambda)] F f

the minimiser of |f - D q|^2 + lambda |q|^2 on an unpadded grid.
"""

from torch import Tensor

from .dipole import convolve, default_geometry, kernel_for, padded_shape


def tikhonov_inversion(
    field_ppm: Tensor,
    voxel_size_mm: Tensor | None = None,
    b0_direction: Tensor | None = None,
    regularisation: float = 0.03,
    padding: float = 0.5,
) -> Tensor:
    """Invert the dipole convolution.

    Args:
        field_ppm: (B, 1, X, Y, Z) local field in ppm of B0, zero outside the mask.
        voxel_size_mm: (B, 3) in mm, or None for 1 mm.
        b0_direction: (B, 3) unit vectors in voxel axes, or None for +z.
        regularisation: lambda > 0, dimensionless.
        padding: relative zero margin against wrap-around.

    Returns:
        Total susceptibility in ppm, (B, 1, X, Y, Z); its mean is not determined, as D(0) = 0.

    Raises:
        ValueError: lambda is not positive.
    """
    if not regularisation > 0:
        raise ValueError(f"regularisation must be positive, got {regularisation}; 0.01 to 0.1 is usual")
    voxel_size_mm, b0_direction = default_geometry(field_ppm, voxel_size_mm, b0_direction)
    grid = padded_shape([field_ppm.shape[-3], field_ppm.shape[-2], field_ppm.shape[-1]], padding)
    kernel = kernel_for(grid, voxel_size_mm, b0_direction)
    return convolve(field_ppm, kernel / (kernel * kernel + regularisation), grid)
