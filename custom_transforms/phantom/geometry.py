"""Ellipsoids and tubes on a 1 mm grid.

A point p lies inside an ellipsoid with centre c, semi-axes a and unit axes E where |diag(1/a) E (p - c)| <= 1, and
inside a tube where its distance to the polyline is at most the radius.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from custom_transforms.phantom.structures import Ellipsoid, Point, Tube
from custom_transforms.phantom.template import Template

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Grid:
    """A 1 mm grid along the MNI axes: its shape and the position of its first voxel."""

    shape: tuple[int, ...]
    origin_mm: Point
    device: torch.device

    @classmethod
    def of(cls, template: Template) -> Grid:
        """The grid of a template."""
        return cls(tuple(template.mask.shape), template.origin_mm, template.mask.device)

    def around(self, points_mm: tuple[Point, ...], reach_mm: float) -> tuple[Box, Tensor]:
        """The voxels within reach of some points: the box of indices and its coordinates (3, x, y, z), mm."""
        slices = []
        for axis, (size, origin) in enumerate(zip(self.shape, self.origin_mm, strict=True)):
            values = [point[axis] - origin for point in points_mm]
            start = min(max(int(min(values) - reach_mm), 0), size)
            stop = max(min(int(max(values) + reach_mm) + 2, size), start)
            slices.append(slice(start, stop))
        box = (slices[0], slices[1], slices[2])
        return box, self.coordinates_mm(box)

    def coordinates_mm(self, box: Box) -> Tensor:
        """Positions of the voxels of a box, (3, x, y, z), mm."""
        axes = [
            torch.arange(*part.indices(size), dtype=torch.float32, device=self.device) + origin
            for part, size, origin in zip(box, self.shape, self.origin_mm, strict=True)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def ellipsoid_radius(ellipsoid: Ellipsoid, points_mm: Tensor) -> Tensor:
    """Distance from the centre in units of the semi-axes, 1 on the surface.

    Args:
        ellipsoid: The ellipsoid.
        points_mm: Positions, (3, ...), mm.

    Returns:
        Normalised radius, (...).
    """
    long = F.normalize(torch.tensor(ellipsoid.long_axis, dtype=torch.float32), dim=0)
    middle = torch.tensor(ellipsoid.middle_axis, dtype=torch.float32)
    middle = F.normalize(middle - (middle @ long) * long, dim=0)  # the table's axes are rounded
    axes = torch.stack([long, middle, torch.linalg.cross(long, middle)]).to(points_mm)
    centre = torch.tensor(ellipsoid.centre_mm).to(points_mm).view(3, *[1] * (points_mm.ndim - 1))
    scaled = torch.tensordot(axes / torch.tensor(ellipsoid.semi_axes_mm).to(points_mm)[:, None], points_mm - centre, 1)
    return scaled.norm(dim=0)


def segment_distance_mm(start_mm: Point, end_mm: Point, points_mm: Tensor) -> Tensor:
    """Distance of points (3, ...) to the segment between two points, mm."""
    start, end = (torch.tensor(p, dtype=torch.float32, device=points_mm.device) for p in (start_mm, end_mm))
    shape = (3, *[1] * (points_mm.ndim - 1))
    along = (end - start).view(shape)
    offset = points_mm - start.view(shape)
    fraction = ((offset * along).sum(0) / along.square().sum()).clamp(0, 1)
    return (offset - fraction * along).norm(dim=0)


def paint_tube(coverage: Tensor, tube: Tube, grid: Grid) -> None:
    """Raise the covered fraction of each voxel, (X, Y, Z), to that of a tube, in place.

    The edge is a ramp one voxel wide: coverage = clamp(radius + 1/2 - distance, 0, 1).
    """
    for start, end in pairwise(tube.points_mm):
        box, points = grid.around((start, end), tube.radius_mm + 1)
        inside = (tube.radius_mm + 0.5 - segment_distance_mm(start, end, points)).clamp(0, 1)
        coverage[box] = torch.maximum(coverage[box], inside)
