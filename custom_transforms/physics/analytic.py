r"""Analytic fields of a sphere and of an infinite cylinder, the references of the dipole convolution.

With the Lorentz sphere correction, a body of susceptibility chi relative to its surroundings shifts the main field by

    sphere:    inside 0,                            outside (chi/3) (a/r)^3 (3 cos^2(theta) - 1)
    cylinder:  inside (chi/6) (3 cos^2(theta) - 1), outside (chi/2) (a/r)^2 sin^2(theta) cos(2 phi)

theta is the angle to B0 of r (sphere) or of the axis (cylinder), phi that of r to B0 in the plane across the axis
(Haacke 1999, Magnetic Resonance Imaging, ch. 25; Schenck 1996, doi:10.1118/1.597854).
"""

import torch
from torch import Tensor


def _grid_mm(shape: tuple[int, int, int], voxel_size_mm: Tensor, centre_voxel: Tensor) -> Tensor:
    axes = [(torch.arange(n, dtype=torch.float64) - c) * v for n, c, v in zip(shape, centre_voxel, voxel_size_mm)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def sphere_field(
    shape: tuple[int, int, int],
    voxel_size_mm: Tensor,
    b0_direction: Tensor,
    *,
    centre_voxel: Tensor,
    radius_mm: float,
    chi_ppm: float,
) -> tuple[Tensor, Tensor]:
    """Give the field of a sphere, and where it is.

    Args:
        shape: grid (X, Y, Z).
        voxel_size_mm: (3,) in mm.
        b0_direction: (3,) unit vector in voxel axes.
        centre_voxel: (3,) centre in voxel indices.
        radius_mm: radius a in mm.
        chi_ppm: susceptibility relative to the surroundings in ppm.

    Returns:
        Field in ppm (X, Y, Z) and the boolean inside of the sphere (X, Y, Z), float64 on the CPU.
    """
    r = _grid_mm(shape, voxel_size_mm, centre_voxel)
    distance = r.norm(dim=0)
    cos = torch.einsum("i,ixyz->xyz", b0_direction.double(), r) / distance.clamp(min=1e-12)
    inside = distance <= radius_mm
    outside = chi_ppm / 3 * (radius_mm / distance.clamp(min=1e-12)) ** 3 * (3 * cos**2 - 1)
    return torch.where(inside, 0.0, outside), inside


def cylinder_field(
    shape: tuple[int, int, int],
    voxel_size_mm: Tensor,
    b0_direction: Tensor,
    *,
    centre_voxel: Tensor,
    axis: Tensor,
    radius_mm: float,
    chi_ppm: float,
) -> tuple[Tensor, Tensor]:
    """Give the field of an infinite cylinder along ``axis`` ((3,) unit vector in voxel axes), and where it is.

    The other arguments and the result are those of :func:`sphere_field`.
    """
    axis, b = axis.double(), b0_direction.double()
    r = _grid_mm(shape, voxel_size_mm, centre_voxel)
    across = r - axis[:, None, None, None] * torch.einsum("i,ixyz->xyz", axis, r)
    distance = across.norm(dim=0)
    cos = float(axis @ b)
    b_across = b - cos * axis
    sin2 = 1 - cos**2
    # sin^2(theta) cos(2 phi) = 2 (b_across . r / |r|)^2 - sin^2(theta)
    angular = 2 * (torch.einsum("i,ixyz->xyz", b_across, across) / distance.clamp(min=1e-12)) ** 2 - sin2
    inside = distance <= radius_mm
    outside = chi_ppm / 2 * (radius_mm / distance.clamp(min=1e-12)) ** 2 * angular
    return torch.where(inside, chi_ppm / 6 * (3 * cos**2 - 1), outside), inside
