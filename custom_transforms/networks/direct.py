"""What all direct networks share: the dipole is learnt, at one voxel size and one head position."""

from torch import Tensor


def check_trained_geometry(name: str, trained_mm: float, voxel_size_mm: Tensor, b0_direction: Tensor) -> None:
    """Refuse a geometry that a direct network was not trained for.

    Args:
        name: of the network, for the message.
        trained_mm: isotropic voxel size of its training data.
        voxel_size_mm: (B, 3) in mm.
        b0_direction: (B, 3) unit vectors in voxel axes.

    Raises:
        ValueError: voxels that are more than 2 % off, or B0 more than 1 degree from +-z.
    """
    if bool(((voxel_size_mm / trained_mm - 1).abs() > 0.02).any()):
        raise ValueError(
            f"{name} was trained at {trained_mm} mm isotropic, got voxels of {voxel_size_mm} mm; "
            "run it through AxialInferer, or use UnrolledChiSepNet"
        )
    if bool((b0_direction[:, 2].abs() < 0.9998).any()):
        raise ValueError(
            f"{name} was trained with B0 along +z, got {b0_direction}; "
            "run it through AxialInferer, or use UnrolledChiSepNet"
        )
