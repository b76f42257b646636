"""Haemorrhages and calcifications with known susceptibility, far beyond that of tissue."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from custom_transforms.phantom.filters import smooth_noise
from custom_transforms.phantom.geometry import Grid, ellipsoid_radius
from custom_transforms.phantom.structures import Ellipsoid, Point
from custom_transforms.phantom.template import Template

KINDS = {"haemorrhage": 0, "calcification": 1}  # name of the region: channel of the source it raises

CHI_PPM = (0.1, 3.0)  # range, log-uniform
RADIUS_MM = (1.5, 9.0)  # range, log-uniform
ELONGATION = 0.3  # semi-axes differ by up to this fraction
ROUGHNESS = 0.15  # SD of the relative radius
MAX_CSF = 0.3  # lesions start in tissue


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


def draw_lesions(template: Template, count: int, *, generator: torch.Generator) -> list[Lesion]:
    """Draw lesions of alternating kind, with centres anywhere in the tissue of the brain.

    Args:
        template: The brain.
        count: Number of lesions.
        generator: Source of the randomness, on the CPU.

    Returns:
        The lesions; the first ones stay the same when the count grows.

    Raises:
        ValueError: If the count is negative.
    """
    if count < 0:
        raise ValueError(f"the number of lesions must not be negative, got {count}")
    tissue = (template.mask & (template.csf < MAX_CSF)).nonzero().cpu()
    kinds = list(KINDS)
    return [_draw_lesion(kinds[i % len(kinds)], tissue, template.origin_mm, generator) for i in range(count)]


def paint_lesion(lesion: Lesion, grid: Grid, *, generator: torch.Generator) -> Tensor:
    """The fraction of each voxel that a lesion fills.

    Args:
        lesion: The lesion.
        grid: The grid to paint on.
        generator: Source of the roughness of its surface, on the CPU.

    Returns:
        Coverage, (X, Y, Z), 0 to 1, with an edge about one voxel wide.
    """
    longest, _, shortest = lesion.shape.semi_axes_mm
    coverage = torch.zeros(grid.shape, device=grid.device)
    box, points = grid.around((lesion.shape.centre_mm,), (1 + 3 * ROUGHNESS) * longest + 1)
    n_x, n_y, n_z = points.shape[1:]
    rough = smooth_noise((n_x, n_y, n_z), length_voxels=max(longest, 2.0), channels=1, generator=generator)[0]
    radius = ellipsoid_radius(lesion.shape, points) * (1 + ROUGHNESS * rough.clamp(-2, 2)).to(points)
    coverage[box] = ((1 - radius) * shortest + 0.5).clamp(0, 1)
    return coverage


def _draw_lesion(kind: str, tissue: Tensor, origin_mm: Point, generator: torch.Generator) -> Lesion:
    x, y, z = (tissue[int(torch.randint(len(tissue), (1,), generator=generator))] + torch.tensor(origin_mm)).tolist()
    size, chi = (_log_uniform(bounds, generator) for bounds in (RADIUS_MM, CHI_PPM))
    stretch = 1 + ELONGATION * (2 * torch.rand(3, generator=generator) - 1)
    longest, middle, shortest = (size * stretch).sort(descending=True).values.tolist()
    long_axis, middle_axis = torch.randn(2, 3, generator=generator).tolist()
    volume_mm3 = 4 / 3 * math.pi * longest * middle * shortest
    return Lesion(
        kind, chi, Ellipsoid((x, y, z), (longest, middle, shortest), tuple(long_axis), tuple(middle_axis), volume_mm3)
    )


def _log_uniform(bounds: tuple[float, float], generator: torch.Generator) -> float:
    low, high = bounds
    return low * (high / low) ** float(torch.rand(1, generator=generator))
