"""What all direct networks share: the dipole is learnt, at one voxel size and one head position.

An exporter cannot follow the checks, as what they raise depends on values. It skips them and puts what they ask for,
:func:`voxel_size_fits`, :func:`direction_fits` and :func:`relaxivity_fits`, into the file in its own way.
"""

import torch
from torch import Tensor


def voxel_size_fits(trained_mm: float, voxel_size_mm: Tensor) -> Tensor:
    """Say whether all voxel sizes (B, 3) are within 2 % of the isotropic one of the training data."""
    return ((voxel_size_mm / trained_mm - 1).abs() <= 0.02).all()


def direction_fits(b0_direction: Tensor) -> Tensor:
    """Say whether all unit vectors (B, 3) in voxel axes are within 1 degree of +-z."""
    return (b0_direction[:, 2].abs() >= 0.9998).all()


def relaxivity_fits(relaxivity_weights: Tensor) -> Tensor:
    """Say whether all weights (B, 2) are those of a single Dr."""
    return ((relaxivity_weights - 1).abs() <= 1e-3).all()


def _checks_values() -> bool:
    if torch.jit.is_scripting():
        return True
    return not torch.compiler.is_exporting()


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
    if not _checks_values():
        return
    if not bool(voxel_size_fits(trained_mm, voxel_size_mm)):
        raise ValueError(
            f"{name} was trained at {trained_mm} mm isotropic, got voxels of {voxel_size_mm} mm; "
            "run it through AxialInferer, or use UnrolledChiSepNet"
        )
    if not bool(direction_fits(b0_direction)):
        raise ValueError(
            f"{name} was trained with B0 along +z, got {b0_direction}; "
            "run it through AxialInferer, or use UnrolledChiSepNet"
        )


def check_single_relaxivity(name: str, relaxivity_weights: Tensor | None) -> None:
    """Refuse relaxivity weights (B, 2) other than 1 in a network that learnt a single Dr.

    Raises:
        ValueError: a weight that is more than 0.001 off.
    """
    if relaxivity_weights is not None and _checks_values() and not bool(relaxivity_fits(relaxivity_weights)):
        raise ValueError(f"{name} was trained with a single relaxivity; use UnrolledChiSepNet for two")
