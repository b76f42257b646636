r"""The axial frame of a head: an isotropic grid whose third axis is B0.

    p' = R V i = o + t j,    R b = z

with source index i, voxel sizes V = diag(v), axial index j, voxel size t and origin o. R is the smallest rotation that
takes B0 to +z. Maps are interpolated as averages over the mask, <m x> / <m>, so that the edge of the brain keeps its
values; going to coarser voxels, in either direction, <> is a mean over the new voxel and not one sample of it.

Networks that learnt the dipole at one voxel size with B0 along +z need it (Yoon 2018,
doi:10.1016/j.neuroimage.2018.06.030; Kim 2025, doi:10.48550/arXiv.2409.14030).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor
from torch import Tensor

from custom_transforms.keys import B0_DIRECTION, IMAGE, LABEL, MASK, VOXEL_SIZE_MM
from custom_transforms.phantom.warp import rotation_matrix

from .base import image_name
from .geometry import check_same_grid
from .rotation import sample_affine

_MARGIN_VOXELS = 8  # around the brain, for the networks' edges
_SAME_VOXEL_SIZE = 1e-3  # relative; beneath these two, a head is axial already and is not interpolated
_SAME_ANGLE_DEG = 0.1
_ROUNDING = 1e-3  # voxels, of affines and rotations
_LARGEST_STEP = 1.3  # voxels from sample to sample, before a mean over the new voxel is needed
_LEAST_COVERAGE = 1e-3  # of a voxel by the mask, for a masked average


def rotation_to_axial(b0_direction: Tensor) -> Tensor:
    """Give the smallest rotation R with R b = z, (3, 3) float64; half a turn is about the first axis.

    Args:
        b0_direction: b, (3,) unit vector in voxel axes.
    """
    x, y, z = convert_to_tensor(b0_direction, track_meta=False, dtype=torch.float64).tolist()
    across = math.hypot(x, y)
    axis = [y, -x, 0.0] if across > 0 else [1.0, 0.0, 0.0]
    return rotation_matrix(torch.tensor(axis, dtype=torch.float64), math.degrees(math.atan2(across, z)))


def _averaging(matrix: Tensor) -> tuple[int, int, int]:
    """Samples along each axis of a new voxel that steps over the columns of ``matrix``, (3, 3) in sampled voxels."""
    x, y, z = (1 if step <= _LARGEST_STEP else math.ceil(step - _ROUNDING) for step in matrix.norm(dim=0).tolist())
    return x, y, z


def _masked_average(
    maps: Tensor, mask: Tensor, matrix: Tensor, offset: Tensor, shape: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Give <m x> / <m>, (C, *shape), and <m>, (1, *shape), of maps (C, X, Y, Z) and a mask (1, X, Y, Z)."""
    weighted = torch.cat([maps * mask, mask])
    sampled = sample_affine(weighted, matrix, offset, shape, samples=_averaging(matrix))
    maps, coverage = sampled[:-1], sampled[-1:]
    return maps / coverage.clamp(min=_LEAST_COVERAGE) * (coverage > _LEAST_COVERAGE), coverage


@dataclass(frozen=True)
class AxialFrame:
    """The axial isotropic grid around the mask of a head, and the way there and back.

    Attributes:
        mask: of the source, (1, X, Y, Z), 0 or 1, float32.
        shape: the axial grid.
        matrix: source voxels per axial voxel, (3, 3) float64.
        offset: source index of axial voxel 0, (3,) float64.
        identity: the source is such a grid already and stays as it is, bit by bit.
    """

    mask: Tensor
    shape: tuple[int, int, int]
    matrix: Tensor
    offset: Tensor
    identity: bool

    @classmethod
    def around(cls, mask: Tensor, voxel_size_mm: Tensor, b0_direction: Tensor, *, target_mm: float) -> AxialFrame:
        """Lay the axial grid around a mask, with a margin.

        Args:
            mask: (1, X, Y, Z), 0 or 1.
            voxel_size_mm: (3,) in mm.
            b0_direction: (3,) unit vector in voxel axes.
            target_mm: isotropic voxel size of the axial grid, mm.

        Raises:
            ValueError: the mask is empty.
        """
        inside = (mask > 0.5).float()
        points = inside[0].nonzero().double().cpu()
        if not len(points):
            raise ValueError("the mask is empty: no voxel is above 0.5; give a mask with 1 in the brain")
        voxel, b0 = (v.double().cpu() for v in (voxel_size_mm, b0_direction))
        to_axial = rotation_to_axial(b0) * voxel / target_mm
        same_size = bool(((voxel / target_mm - 1).abs() <= _SAME_VOXEL_SIZE).all())
        if same_size and float(b0[2]) > 0 and float(b0[:2].norm()) < math.sin(math.radians(_SAME_ANGLE_DEG)):
            x, y, z = mask.shape[1:]
            return cls(inside, (x, y, z), torch.eye(3).double(), torch.zeros(3).double(), True)
        points = points @ to_axial.T
        # whole voxels from the source's first one: turns of 90 and 180 degrees need no interpolation
        low = torch.floor(points.amin(0) + _ROUNDING) - _MARGIN_VOXELS
        x, y, z = (torch.ceil(points.amax(0) - _ROUNDING) + _MARGIN_VOXELS - low + 1).int().tolist()
        matrix = torch.linalg.inv(to_axial)
        return cls(inside, (x, y, z), matrix, matrix @ low, False)

    def to_axial(self, maps: Tensor) -> Tensor:
        """Bring maps (C, X, Y, Z) into the frame, (C, *shape), zero outside the mask there; the mask stays binary."""
        if self.identity:
            return maps
        average, coverage = _masked_average(maps, self.mask.to(maps), self.matrix, self.offset, self.shape)
        return average * (coverage > 0.5)

    def from_axial(self, maps: Tensor) -> Tensor:
        """Bring maps (C, *shape) back to the source's grid, (C, X, Y, Z), zero outside its mask."""
        mask = self.mask.to(maps)
        if self.identity:
            return maps * mask
        to_axial = torch.linalg.inv(self.matrix)
        x, y, z = mask.shape[1:]
        return mask * _masked_average(maps, self.to_axial(mask), to_axial, -to_axial @ self.offset, (x, y, z))[0]

    def affine(self, affine: Tensor) -> Tensor:
        """Give the affine (4, 4) of the axial grid for that of the source."""
        to_source = torch.eye(4, dtype=torch.float64)
        to_source[:3, :3], to_source[:3, 3] = self.matrix, self.offset
        return affine @ to_source.to(affine)


class AxialResampled(MapTransform):
    """Resample the maps of a head to an isotropic grid whose third axis is B0, for networks that know no other.

    It comes after :class:`Geometryd`. The keys, the mask, voxel_size_mm and b0_direction change.

    Args:
        keys: maps (C, X, Y, Z) on the grid of the mask: image, label and, of gradient-echo data, r2prime.
        voxel_size_mm: voxel size of the new grid, mm.
        allow_missing_keys: skip absent maps.

    Raises:
        ValueError: mask or geometry are missing, or a map is on another grid.
    """

    def __init__(
        self, keys: KeysCollection = (IMAGE, LABEL), *, voxel_size_mm: float = 1.0, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not voxel_size_mm > 0:
            raise ValueError(f"voxel_size_mm must be positive, got {voxel_size_mm}")
        self.voxel_size_mm = voxel_size_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample."""
        result = dict(data)
        missing = [key for key in (MASK, VOXEL_SIZE_MM, B0_DIRECTION) if key not in data]
        if missing:
            raise ValueError(f"{', '.join(missing)} missing: put Maskd and Geometryd before this")
        mask, voxel_size_mm, b0 = (
            convert_to_tensor(data[key], track_meta=False) for key in (MASK, VOXEL_SIZE_MM, B0_DIRECTION)
        )
        frame = AxialFrame.around(mask, voxel_size_mm, b0, target_mm=self.voxel_size_mm)
        for key in (*self.key_iterator(result), MASK):
            check_same_grid(image_name(key, data[key]), data[key], MASK, data[MASK])
            result[key] = _resampled(data[key], frame)
        result[VOXEL_SIZE_MM] = torch.full((3,), self.voxel_size_mm)
        result[B0_DIRECTION] = torch.tensor([0.0, 0.0, 1.0])
        return result


def _resampled(image: Tensor, frame: AxialFrame) -> Tensor:
    """Bring an image into the frame, its affine with it."""
    maps = frame.to_axial(convert_to_tensor(image, track_meta=False, dtype=torch.float32))
    if not isinstance(image, MetaTensor):
        return maps
    result = MetaTensor(maps)
    result.copy_meta_from(image)
    result.affine = frame.affine(image.affine)
    return result
