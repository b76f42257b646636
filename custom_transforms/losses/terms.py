r"""Terms of the published losses.

    gradient     mean | G(chi) - G(label) |,     G(x)_c = sum_n max(x_n - x_c, 0) / |r_n - r_c|, n the 26 neighbours
    field model  mean m | f - D chi_total |

References:
    Yoon 2018, doi:10.1016/j.neuroimage.2018.06.030 (QSMnet).
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn

from custom_transforms.physics import DipoleConvolution

_NEIGHBOURS = [offset for offset in product((-1, 0, 1), repeat=3) if offset != (0, 0, 0)]


def neighbour_gradient(image: Tensor, voxel_size_mm: Tensor | None = None) -> Tensor:
    """Sum the rises to the 26 neighbours, each over its distance.

        G_c = sum_n max(x_n - x_c, 0) / |r_n - r_c|

    Args:
        image: (B, C, X, Y, Z), any unit.
        voxel_size_mm: (B, 3) in mm, or None for distances in voxels.

    Returns:
        (B, C, X - 2, Y - 2, Z - 2), the unit of the image per mm (or per voxel): voxels with all 26 neighbours.
    """
    centre = image[..., 1:-1, 1:-1, 1:-1]
    spacing = torch.ones(image.shape[0], 3) if voxel_size_mm is None else voxel_size_mm
    gradient = torch.zeros_like(centre)
    for offset in _NEIGHBOURS:
        x, y, z = (slice(1 + step, size - 1 + step) for step, size in zip(offset, image.shape[-3:], strict=True))
        distance = (spacing * torch.tensor(offset).to(spacing)).norm(dim=1).to(image)
        gradient = gradient + (image[..., x, y, z] - centre).relu() / distance[:, None, None, None, None]
    return gradient


def gradient_loss(pred: Tensor, label: Tensor, voxel_size_mm: Tensor | None = None) -> Tensor:
    """Compare the 26-neighbour gradients of two maps in L1, the sum over channels.

    Args:
        pred: (B, C, X, Y, Z).
        label: (B, C, X, Y, Z), same unit.
        voxel_size_mm: (B, 3) in mm, or None for distances in voxels.

    Returns:
        Scalar, the mean over batch and voxels.
    """
    difference = neighbour_gradient(pred, voxel_size_mm) - neighbour_gradient(label, voxel_size_mm)
    return difference.abs().mean(dim=(0, 2, 3, 4)).sum()


class FieldModelLoss(nn.Module):
    """Compare the field of an estimate with the measured one, mean m |f - D chi_total|.

    Args:
        padding: relative zero margin of the dipole convolution.
        rim_voxels: width of the rim that is left out at each face of the volume. 0 is for whole brains. A patch lacks
            the sources around it, whose field is strongest near its faces.

    Raises:
        ValueError: the rim is negative.
    """

    def __init__(self, *, padding: float = 0.5, rim_voxels: int = 0) -> None:
        super().__init__()
        if rim_voxels < 0:
            raise ValueError(f"rim_voxels must not be negative, got {rim_voxels}; 0 compares the whole volume")
        self.dipole = DipoleConvolution(padding=padding)
        self.rim_voxels = rim_voxels

    def forward(
        self,
        chi_total: Tensor,
        local_field: Tensor,
        mask: Tensor,
        voxel_size_mm: Tensor | None = None,
        b0_direction: Tensor | None = None,
    ) -> Tensor:
        """Compare.

        Args:
            chi_total: (B, 1, X, Y, Z) in ppm.
            local_field: (B, 1, X, Y, Z) in ppm.
            mask: (B, 1, X, Y, Z), 1 in the brain.
            voxel_size_mm: (B, 3) in mm, or None for 1 mm.
            b0_direction: (B, 3) unit vectors in voxel axes, or None for +z.

        Returns:
            Scalar in ppm, the mean over the voxels within the rim.

        Raises:
            ValueError: the rim leaves nothing of the volume.
        """
        shape = tuple(chi_total.shape[-3:])
        if 2 * self.rim_voxels >= min(shape):
            raise ValueError(
                f"a rim of {self.rim_voxels} voxels leaves nothing of a volume of {shape}; give a smaller rim_voxels"
            )
        error = (mask * (local_field - self.dipole(chi_total, voxel_size_mm, b0_direction))).abs()
        x, y, z = (slice(self.rim_voxels, size - self.rim_voxels) for size in shape)
        return error[..., x, y, z].mean()
