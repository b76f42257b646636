"""Haemorrhages, microbleeds and calcifications with known susceptibility, far beyond that of tissue."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from custom_transforms.phantom.filters import smooth_noise
from custom_transforms.phantom.geometry import Box, Grid, ellipsoid_radius
from custom_transforms.phantom.structures import Ellipsoid, Point
from custom_transforms.phantom.template import Template

KINDS = {"haemorrhage": 0, "calcification": 1}  # name of the region: channel of the source it raises

ELONGATION = 0.3  # semi-axes differ by up to this fraction
ROUGHNESS = 0.15  # SD of the relative radius
MAX_CSF = 0.3  # lesions start in tissue


@dataclass(frozen=True)
class LesionFamily:
    """What lesions are drawn from.

    Attributes:
        kinds: Names of their regions, drawn in turns.
        chi_ppm: Range of the source, ppm, log-uniform.
        radius_mm: Range of the mean semi-axis, mm, log-uniform.
    """

    kinds: tuple[str, ...]
    chi_ppm: tuple[float, float]
    radius_mm: tuple[float, float]


LESIONS = LesionFamily(tuple(KINDS), chi_ppm=(0.1, 3.0), radius_mm=(1.5, 9.0))
MICROBLEEDS = LesionFamily(("haemorrhage",), chi_ppm=(0.3, 1.5), radius_mm=(1.0, 2.5))


@dataclass(frozen=True)
class Lesion:
    """One lesion.

    Attributes:
        kind: Name of its region, one of `KINDS`.
        chi_ppm: Magnitude of its source, ppm.
        shape: Ellipsoid whose rough surface bounds it, MNI mm.
    """

    kind: str
    chi_ppm: float
    shape: Ellipsoid


def draw_lesions(
    template: Template, count: int, *, generator: torch.Generator, family: LesionFamily = LESIONS
) -> list[Lesion]:
    """Draw lesions of alternating kind, with centres anywhere in the tissue of the brain.

    Args:
        template: The brain.
        count: Number of lesions.
        family: Their kinds and ranges.
        generator: Source of the randomness, on the CPU.

    Returns:
        The lesions; the first ones stay the same when the count grows.

    Raises:
        ValueError: If the count is negative.
    """
    if count < 0:
        raise ValueError(f"the number of lesions must not be negative, got {count}")
    tissue = (template.mask & (template.csf < MAX_CSF)).nonzero().cpu()
    return [_draw_lesion(family, i, tissue, template.origin_mm, generator) for i in range(count)]


def paint_lesion(lesion: Lesion, grid: Grid, *, generator: torch.Generator) -> Tensor:
    """The fraction of each voxel that a lesion fills.

    Args:
        lesion: The lesion.
        grid: The grid to paint on.
        generator: Source of the roughness of its surface, on the CPU.

    Returns:
        Coverage, (X, Y, Z), 0 to 1, with an edge about one voxel wide.
    """
    coverage = torch.zeros(grid.shape, device=grid.device)
    box, depth_mm = rough_depth(lesion.shape, grid, generator=generator)
    coverage[box] = (depth_mm + 0.5).clamp(0, 1)
    return coverage


def rough_depth(shape: Ellipsoid, grid: Grid, *, generator: torch.Generator) -> tuple[Box, Tensor]:
    """How far voxels lie below the rough surface of an ellipsoid, along its shortest axis.

    Args:
        shape: The ellipsoid.
        grid: The grid.
        generator: Source of the roughness, on the CPU.

    Returns:
        The voxels around it, as slices, and their depth (x, y, z), mm; negative outside.
    """
    longest, _, shortest = shape.semi_axes_mm
    box, points = grid.around((shape.centre_mm,), (1 + 3 * ROUGHNESS) * longest + 1)
    n_x, n_y, n_z = points.shape[1:]
    rough = smooth_noise((n_x, n_y, n_z), length_voxels=max(longest, 2.0), channels=1, generator=generator)[0]
    radius = ellipsoid_radius(shape, points) * (1 + ROUGHNESS * rough.clamp(-2, 2)).to(points)
    return box, (1 - radius) * shortest


def draw_centre(candidates: Tensor, origin_mm: Point, *, generator: torch.Generator) -> Point:
    """One of the voxels (n, 3), on the CPU, in mm; voxel (0, 0, 0) is at the origin."""
    voxel = candidates[int(torch.randint(len(candidates), (1,), generator=generator))]
    x, y, z = (voxel + torch.tensor(origin_mm)).tolist()
    return x, y, z


def draw_ellipsoid(centre_mm: Point, radius_mm: float, *, generator: torch.Generator) -> Ellipsoid:
    """An ellipsoid in any direction whose semi-axes differ from a radius by up to `ELONGATION` of it."""
    stretch = 1 + ELONGATION * (2 * torch.rand(3, generator=generator) - 1)
    longest, middle, shortest = (radius_mm * stretch).sort(descending=True).values.tolist()
    long_axis, middle_axis = torch.randn(2, 3, generator=generator).tolist()
    volume_mm3 = 4 / 3 * math.pi * longest * middle * shortest
    return Ellipsoid(centre_mm, (longest, middle, shortest), tuple(long_axis), tuple(middle_axis), volume_mm3)


def log_uniform(bounds: tuple[float, float], *, generator: torch.Generator) -> float:
    """A number between two bounds whose logarithm is uniform."""
    low, high = bounds
    return low * (high / low) ** float(torch.rand(1, generator=generator))


def _draw_lesion(
    family: LesionFamily, index: int, tissue: Tensor, origin_mm: Point, generator: torch.Generator
) -> Lesion:
    centre_mm = draw_centre(tissue, origin_mm, generator=generator)
    radius_mm, chi_ppm = (log_uniform(bounds, generator=generator) for bounds in (family.radius_mm, family.chi_ppm))
    kind = family.kinds[index % len(family.kinds)]
    return Lesion(kind, chi_ppm, draw_ellipsoid(centre_mm, radius_mm, generator=generator))
