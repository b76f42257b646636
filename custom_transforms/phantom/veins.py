"""Veins: the deep ones that every brain has, and trees drawn at random through the white matter."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from custom_transforms.phantom.geometry import Grid, paint_tube
from custom_transforms.phantom.structures import DEEP_VEINS, Point, Tube
from custom_transforms.phantom.template import Template

TREES = 100
STEP_MM = 5.0
TRUNK_STEPS = 6
BRANCH_STEPS = 4
BRANCHES = 2
RADIUS_MM = (0.5, 1.3)  # of trunks; branches have 0.7 of it
BEND = 0.35  # SD of the change of direction at each step
DRAIN_MM = (0.0, -15.0, 15.0)  # trunks lead away from here, as medullary veins do from the ventricles


def paint_veins(template: Template, *, generator: torch.Generator) -> Tensor:
    """The fraction of each voxel that veins fill.

    Args:
        template: The brain; its grid and white matter are used.
        generator: Source of the randomness, on the CPU.

    Returns:
        Coverage, (X, Y, Z), 0 to 1, zero outside the mask.
    """
    grid = Grid.of(template)
    coverage = torch.zeros(grid.shape, device=grid.device)
    for vein in DEEP_VEINS.values():
        paint_tube(coverage, vein, grid)
        paint_tube(coverage, Tube(tuple((-x, y, z) for x, y, z in vein.points_mm), vein.radius_mm), grid)
    for tube in _draw_trees(template, generator):
        paint_tube(coverage, tube, grid)
    return coverage * template.mask


def _draw_trees(template: Template, generator: torch.Generator) -> list[Tube]:
    """Random walks away from the ventricles, each with branches from along its trunk."""
    white = (template.wm > 0.5).nonzero()
    roots = white[torch.randint(len(white), (TREES,), generator=generator).to(white.device)].cpu()
    tubes = []
    for root in roots + torch.tensor(template.origin_mm):
        radius = RADIUS_MM[0] + (RADIUS_MM[1] - RADIUS_MM[0]) * float(torch.rand(1, generator=generator))
        trunk = _walk(root, root - torch.tensor(DRAIN_MM), TRUNK_STEPS, generator)
        tubes.append(_tube(trunk, radius))
        for start in torch.randint(1, TRUNK_STEPS, (BRANCHES,), generator=generator).tolist():
            away = trunk[start + 1] - trunk[start] + STEP_MM * torch.randn(3, generator=generator)
            tubes.append(_tube(_walk(trunk[start], away, BRANCH_STEPS, generator), 0.7 * radius))
    return tubes


def _walk(start: Tensor, direction: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """Points of a bending path, (steps + 1, 3), mm."""
    points = [start]
    for _ in range(steps):
        direction = F.normalize(F.normalize(direction, dim=0) + BEND * torch.randn(3, generator=generator), dim=0)
        points.append(points[-1] + STEP_MM * direction)
    return torch.stack(points)


def _tube(points: Tensor, radius_mm: float) -> Tube:
    vertices: list[Point] = [(x, y, z) for x, y, z in points.tolist()]
    return Tube(tuple(vertices), radius_mm)
