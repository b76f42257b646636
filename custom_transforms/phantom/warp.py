"""Every subject's own head: a random affine and smooth deformation of the template, on any voxel grid.

A point p of the head (mm, axes R, A, S) has the template's tissue at M (p + u(p)), with a matrix M near identity and a
smooth displacement u. Voxel i lies at p = start + voxel_size i; the grid is tied to the head, so that tilting the head
turns the grid with it and shows in the affine alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from custom_transforms.phantom.filters import smooth_noise
from custom_transforms.phantom.structures import Point
from custom_transforms.phantom.template import Template

SCALING = 0.08  # head size along each axis, uniform within +- this fraction
ROTATION_DEG = 4.0  # about each axis, uniform within +- this angle
SHEAR = 0.03  # uniform within +- this slope
DISPLACEMENT_MM = 1.5  # SD of each component of u
DISPLACEMENT_LENGTH_MM = 30.0  # distance at which its correlation has fallen to 1/e

_KNOT_MM = 5.0  # spacing of the grid that holds u
_REACH_MM = 130.0  # u is defined within this distance of the origin along each axis, and constant beyond
_SLAB = 16  # planes resampled at a time, which bounds the memory


@dataclass(frozen=True)
class VoxelGrid:
    """A voxel grid tied to the head.

    Attributes:
        start_mm: Centre of the first voxel, mm.
        voxel_size_mm: Voxel size, mm.
        shape: Number of voxels on each axis.
    """

    start_mm: Point
    voxel_size_mm: Point
    shape: tuple[int, int, int]

    def axes_mm(self, samples: tuple[int, ...], device: torch.device) -> list[Tensor]:
        """Positions along each axis, mm, with a number of samples in each voxel."""
        return [
            start + size * ((torch.arange(n * k, device=device) + 0.5) / k - 0.5)
            for start, size, n, k in zip(self.start_mm, self.voxel_size_mm, self.shape, samples, strict=True)
        ]


@dataclass(frozen=True)
class HeadWarp:
    """Maps points of a subject's head to the template.

    Attributes:
        matrix: M, (3, 3).
        displacement_mm: u at knots within `_REACH_MM` of the origin, (3, n, n, n), mm.
    """

    matrix: Tensor
    displacement_mm: Tensor

    def __call__(self, points_mm: Tensor) -> Tensor:
        """Positions in the template, (X, Y, Z, 3), mm, of positions in the head, (X, Y, Z, 3), mm."""
        offset = _interpolate(self.displacement_mm, points_mm / _REACH_MM, mode="bilinear", padding="border")
        return (points_mm + offset.movedim(0, -1)) @ self.matrix.T


def draw_warp(*, generator: torch.Generator, device: str = "cpu") -> HeadWarp:
    """Draw a subject's deformation.

    Args:
        generator: Source of the randomness, on the CPU.
        device: Where the result is put.

    Returns:
        The deformation.
    """
    scale, angle, slope = (bound * (2 * torch.rand(3, generator=generator) - 1) for bound in (SCALING, 1.0, SHEAR))
    rotation = torch.eye(3)
    for axis, turn in zip(torch.eye(3), (ROTATION_DEG * angle).tolist(), strict=True):
        rotation = rotation @ rotation_matrix(axis, turn)
    shear = torch.eye(3)
    shear[0, 1], shear[0, 2], shear[1, 2] = slope
    knots = 1 + round(2 * _REACH_MM / _KNOT_MM)
    noise = smooth_noise(
        (knots, knots, knots), length_voxels=DISPLACEMENT_LENGTH_MM / _KNOT_MM, channels=3, generator=generator
    )
    return HeadWarp((rotation @ shear @ torch.diag(1 / (1 + scale))).to(device), (DISPLACEMENT_MM * noise).to(device))


def rotation_matrix(axis: Tensor, angle_deg: float) -> Tensor:
    """Rotation about an axis (3,), by Rodrigues' formula R = I + sin(a) K + (1 - cos(a)) K^2, (3, 3)."""
    x, y, z = F.normalize(axis, dim=0).tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=axis.dtype)
    angle = math.radians(angle_deg)
    return torch.eye(3, dtype=axis.dtype) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def enclosing_grid(template: Template, warp: HeadWarp, voxel_size_mm: Point, margin_voxels: int) -> VoxelGrid:
    """A voxel grid that holds the whole warped template, with a margin."""
    near = template.affine[:3, 3].float()
    far = near + torch.tensor(template.mask.shape) - 1
    corners = torch.tensor(list(product(*zip(near.tolist(), far.tolist(), strict=True))))
    corners = corners @ torch.linalg.inv(warp.matrix.cpu()).T
    voxel = torch.tensor(voxel_size_mm)
    reach = 4 * DISPLACEMENT_MM + margin_voxels * voxel
    low = torch.floor((corners.amin(0) - reach) / voxel)
    high = torch.ceil((corners.amax(0) + reach) / voxel)
    (x, y, z), (n_x, n_y, n_z) = (low * voxel).tolist(), (high - low + 1).int().tolist()
    return VoxelGrid((x, y, z), voxel_size_mm, (n_x, n_y, n_z))


def resample(maps: Tensor, template: Template, warp: HeadWarp, grid: VoxelGrid) -> Tensor:
    """Average warped maps over the voxels of a grid.

    Voxels of 1.5 mm or more along an axis are sampled several times along it and averaged.

    Args:
        maps: Maps on the template's grid, (C, X, Y, Z), float32.
        template: The template, for its grid.
        warp: The subject's deformation.
        grid: The new grid.

    Returns:
        Maps on the new grid, (C, *grid.shape), float32; zero outside the template.
    """
    samples = tuple(max(1, round(size)) for size in grid.voxel_size_mm)
    x, y, z = grid.axes_mm(samples, maps.device)
    slabs = [
        F.avg_pool3d(_sample(maps, template, warp, (x_slab, y, z), mode="bilinear"), samples)
        for x_slab in x.split(_SLAB * samples[0])
    ]
    return torch.cat(slabs, dim=1)


def resample_labels(labels: Tensor, template: Template, warp: HeadWarp, grid: VoxelGrid) -> Tensor:
    """Warped labels at the centres of the voxels of a grid.

    Args:
        labels: Labels on the template's grid, (1, X, Y, Z), uint8.
        template: The template, for its grid.
        warp: The subject's deformation.
        grid: The new grid.

    Returns:
        Labels on the new grid, (1, *grid.shape), uint8; zero outside the template.
    """
    x, y, z = grid.axes_mm((1, 1, 1), labels.device)
    slabs = [
        _sample(labels.float(), template, warp, (x_slab, y, z), mode="nearest").to(torch.uint8)
        for x_slab in x.split(_SLAB)
    ]
    return torch.cat(slabs, dim=1)


def _sample(
    volume: Tensor, template: Template, warp: HeadWarp, axes: tuple[Tensor, Tensor, Tensor], *, mode: str
) -> Tensor:
    """Template maps (C, X, Y, Z) at the warped points of a grid given by its axes, mm."""
    points = warp(torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1))
    half_width = (torch.tensor(template.mask.shape, device=points.device) - 1) / 2
    centre = torch.tensor(template.origin_mm, device=points.device) + half_width
    return _interpolate(volume, (points - centre) / half_width, mode=mode, padding="zeros")


def _interpolate(volume: Tensor, position: Tensor, *, mode: str, padding: str) -> Tensor:
    """Values of (C, x, y, z) at positions (X, Y, Z, 3) that are -1 and 1 at the centres of the outermost voxels."""
    grid = position.flip(-1).unsqueeze(0)  # grid_sample wants the last axis first
    return F.grid_sample(volume.unsqueeze(0), grid, mode=mode, padding_mode=padding, align_corners=True).squeeze(0)
