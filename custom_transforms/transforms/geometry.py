"""Geometry of an image from its affine: voxel size, and the direction of B0 in voxel axes.

    v_i = |a_i|,    b_i = a_i . b0 / |a_i|

with a_i the column of voxel axis i in the affine (world coordinates RAS+, mm) and b0 the main field in the world, +z in
a scanner.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor
from torch import Tensor

from custom_transforms.keys import B0_DIRECTION, VOXEL_SIZE_MM

from .base import image_name

_LARGEST_SHEAR = 0.01  # cosine between voxel axes; stored affines are orthogonal up to rounding and small registrations
_LARGEST_OFFSET_MM = 0.1  # between the affines of two maps: tools round the numbers of a header differently


def _axes(affine: NdarrayOrTensor) -> tuple[Tensor, Tensor]:
    """Give the lengths (3,) of the voxel axes in mm and their unit vectors as columns (3, 3), float64."""
    columns = convert_to_tensor(affine, track_meta=False, dtype=torch.float64)[:3, :3].cpu()
    length = columns.norm(dim=0)
    if not bool((length > 0).all()):
        raise ValueError(f"the affine must have three voxel axes, got columns of length {length.tolist()} mm")
    units = columns / length
    shear = float((units.T @ units - torch.eye(3, dtype=torch.float64)).abs().max())
    if shear > _LARGEST_SHEAR:
        raise ValueError(
            f"the affine is sheared: the cosine between two voxel axes is {shear:.3f}; "
            "resample the maps to an orthogonal grid"
        )
    return length, units


def unit_vector(vector: Sequence[float] | Tensor) -> Tensor:
    """Scale a direction (3,) to length 1, float32.

    Raises:
        ValueError: not three numbers, or all zero.
    """
    direction = torch.as_tensor(vector, dtype=torch.float64)
    if direction.shape != (3,) or not bool(direction.norm() > 0):
        raise ValueError(f"a direction must be three numbers, not all zero, got {vector}; e.g. 0, 0, 1")
    return (direction / direction.norm()).float()


def voxel_size_from_affine(affine: NdarrayOrTensor) -> Tensor:
    """Give the voxel size in mm, (3,) float32, of an affine (4, 4).

    Raises:
        ValueError: the affine is singular or sheared.
    """
    return _axes(affine)[0].float()


def b0_direction_from_affine(affine: NdarrayOrTensor, b0_world: Sequence[float] = (0.0, 0.0, 1.0)) -> Tensor:
    """Give the unit vector of the main field in voxel axes.

    Args:
        affine: (4, 4), voxel indices to world coordinates (RAS+) in mm.
        b0_world: direction of the main field in the world, +z in a scanner.

    Returns:
        (3,) float32.

    Raises:
        ValueError: the affine is singular or sheared.
    """
    return unit_vector(_axes(affine)[1].T @ unit_vector(b0_world).double())


def check_same_grid(name: str, image: Tensor, reference_name: str, reference: Tensor) -> None:
    """Raise ValueError if two maps differ in spatial shape or, where both have one, in affine.

    Args:
        name: how the error calls the image.
        image: (C, X, Y, Z).
        reference_name: how the error calls the reference.
        reference: (C, X, Y, Z).
    """
    if image.shape[1:] != reference.shape[1:]:
        difference = f"shape {tuple(image.shape[1:])}, not {tuple(reference.shape[1:])}"
    elif not isinstance(image, MetaTensor) or not isinstance(reference, MetaTensor):
        return
    else:
        delta = (image.affine - reference.affine).double()
        points = torch.vstack([torch.zeros(3), torch.diag(torch.tensor(image.shape[1:]))]).double()
        largest = float((points @ delta[:3, :3].T + delta[:3, 3]).norm(dim=1).max())
        if largest <= _LARGEST_OFFSET_MM:
            return
        difference = f"an affine that lies up to {largest:.3g} mm away"
    raise ValueError(f"{name} is not on the grid of {reference_name}: it has {difference}; resample it to that grid")


class Geometryd(MapTransform):
    """Check that maps share one grid, and write voxel size and B0 direction from the first one's affine.

    It comes after transforms that change the grid.

    Args:
        keys: maps on one grid; the first is the reference.
        voxel_size_mm: (3,) in mm instead of the affine's.
        b0_direction: (3,) in voxel axes instead of the affine's; scaled to length 1.
        b0_world: direction of the main field in the world, for the affine.
        allow_missing_keys: skip absent maps; at least one must be there.

    Raises:
        ValueError: the maps' grids differ, or the geometry is neither in an affine nor given.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        voxel_size_mm: Sequence[float] | None = None,
        b0_direction: Sequence[float] | None = None,
        b0_world: Sequence[float] = (0.0, 0.0, 1.0),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.voxel_size_mm = None if voxel_size_mm is None else torch.tensor(voxel_size_mm, dtype=torch.float32)
        self.b0_direction = None if b0_direction is None else unit_vector(b0_direction)
        self.b0_world = b0_world

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check the grids and write the geometry."""
        result = dict(data)
        names = {key: image_name(key, result[key]) for key in self.key_iterator(result)}
        if not names:
            raise ValueError(f"none of the maps {', '.join(map(str, self.keys))} is there; give at least one")
        first = next(iter(names))
        for key, name in names.items():
            check_same_grid(name, result[key], names[first], result[first])
        result[VOXEL_SIZE_MM], result[B0_DIRECTION] = self._geometry(names[first], result[first])
        return result

    def _geometry(self, name: str, image: Any) -> tuple[Tensor, Tensor]:
        voxel_size_mm, b0_direction = self.voxel_size_mm, self.b0_direction
        if voxel_size_mm is not None and b0_direction is not None:
            return voxel_size_mm.clone(), b0_direction.clone()
        if not isinstance(image, MetaTensor):
            raise ValueError(f"{name} has no affine; load it with its header or give voxel_size_mm and b0_direction")
        if voxel_size_mm is None:
            voxel_size_mm = voxel_size_from_affine(image.affine)
        if b0_direction is None:
            b0_direction = b0_direction_from_affine(image.affine, self.b0_world)
        return voxel_size_mm.clone(), b0_direction.clone()
