"""Lesions of multiple sclerosis: white matter that has lost myelin, gained iron, or both.

A lesion is a change of the white matter it lies in, so that the texture goes on through it: chi_dia and R2 are
multiplied, and chi_para is raised or lowered, in the core and in a rim of iron-laden cells by different amounts. The
lesion keeps the region of the white matter; a map of lesion numbers says where each one is.

The kinds and their order of size follow the literature; the ranges are assumed, and wide. In 306 lesions chi_total
differed from normal-appearing white matter by -0.070 to 0.052 ppm at 7 T (Harrison 2016), lesions with a paramagnetic
rim, 1 to 2 mm wide, keep their iron for years (Zhang 2019), and early lesions lose myelin before iron gathers (Zhang
2016). R2 falls with the oedema and the loss of tissue. No publication known to us gives chi_para and chi_dia of the
four kinds.

References:
    Harrison et al. 2016, AJNR 37:1447; Zhang et al. 2016, doi:10.3174/ajnr.A4825; Zhang et al. 2019,
    doi:10.3174/ajnr.A6071
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from custom_transforms.phantom.geometry import Grid, ellipsoid_radius
from custom_transforms.phantom.lesions import draw_centre, draw_ellipsoid, log_uniform, rough_depth
from custom_transforms.phantom.structures import REGIONS, TRACT_REGIONS, Ellipsoid, Point

WHITE_MATTER = (REGIONS["white_matter"], *(REGIONS[name] for name in TRACT_REGIONS))  # labels

RADIUS_MM = (1.5, 6.0)  # range of the mean semi-axis, log-uniform
RIM_MM = (1.0, 2.0)  # range of the width of rims
MIN_WHITE = 0.8  # share of a lesion that lies in white matter
GAP_MM = 2.0  # least distance between lesions
MAX_TRIES = 200  # places tried for a lesion
LARGEST_COUNT = 255  # numbers that a uint8 map holds


@dataclass(frozen=True)
class MSKind:
    """Ranges of what a kind of lesion does to white matter, uniform.

    Attributes:
        core_para_ppm: Added to chi_para in the core, ppm.
        rim_para_ppm: Added to chi_para in the rim, ppm; None where there is no rim.
        dia_left: Share of chi_dia that is left.
        r2_left: Share of R2 that is left.
    """

    core_para_ppm: tuple[float, float]
    rim_para_ppm: tuple[float, float] | None
    dia_left: tuple[float, float]
    r2_left: tuple[float, float]


MS_KINDS = {
    "iron_rim": MSKind((-0.010, 0.0), (0.02, 0.08), (0.1, 0.6), (0.5, 0.8)),
    "demyelinated": MSKind((-0.010, 0.0), None, (0.1, 0.6), (0.5, 0.8)),
    "iron_and_demyelinated": MSKind((0.015, 0.06), None, (0.1, 0.6), (0.5, 0.8)),
    "remyelinated": MSKind((-0.002, 0.002), None, (0.75, 1.0), (0.8, 0.95)),
}


@dataclass(frozen=True)
class MSLesion:
    """One lesion.

    Attributes:
        kind: One of `MS_KINDS`.
        shape: Ellipsoid whose rough surface bounds it, MNI mm.
        rim_mm: Width of the rim, 0 where there is none.
        core_para_ppm: Added to chi_para in the core, ppm; the sum is kept from falling below 0.
        rim_para_ppm: The same in the rim.
        dia_left: Share of chi_dia that is left.
        r2_left: Share of R2 that is left.
    """

    kind: str
    shape: Ellipsoid
    rim_mm: float
    core_para_ppm: float
    rim_para_ppm: float
    dia_left: float
    r2_left: float


def ms_kind(number: int) -> str:
    """The kind of a subject's nth lesion, n = 1, 2, ...: they take turns in the order of `MS_KINDS`."""
    return list(MS_KINDS)[(number - 1) % len(MS_KINDS)]


def draw_ms_lesions(regions: Tensor, grid: Grid, count: int, *, generator: torch.Generator) -> list[MSLesion]:
    """Draw lesions of the four kinds in turns, in white matter and apart from one another.

    Args:
        regions: Labels of the brain, (X, Y, Z), uint8.
        grid: Their grid.
        count: Number of lesions.
        generator: Source of the randomness, on the CPU.

    Returns:
        The lesions; the first ones stay the same when the count grows.

    Raises:
        ValueError: If the count is not from 0 to 255, or there is no room for so many.
    """
    if not 0 <= count <= LARGEST_COUNT:
        raise ValueError(f"the number of MS lesions must be from 0 to {LARGEST_COUNT}, got {count}")
    white = torch.isin(regions, torch.tensor(WHITE_MATTER, device=regions.device))
    candidates = white.nonzero().cpu()
    lesions: list[MSLesion] = []
    for number in range(1, count + 1):
        shape = _draw_place(white, candidates, grid, [lesion.shape for lesion in lesions], generator)
        lesions.append(_draw_change(ms_kind(number), shape, generator))
    return lesions


def paint_ms_lesion(maps: Tensor, lesion: MSLesion, grid: Grid, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Change the white matter where a lesion is.

    Args:
        maps: chi_para, chi_dia (ppm), R2 (1/s) and M0, (4, X, Y, Z).
        lesion: The lesion.
        grid: Their grid.
        generator: Source of the roughness of its surface, on the CPU.

    Returns:
        New maps, (4, X, Y, Z), and the fraction of each voxel that the lesion fills, (X, Y, Z).
    """
    box, depth_mm = rough_depth(lesion.shape, grid, generator=generator)
    inside, core = ((depth_mm - edge + 0.5).clamp(0, 1) for edge in (0.0, lesion.rim_mm))
    para, dia, r2, m0 = maps[(slice(None), *box)]
    para = para + lesion.core_para_ppm * core + lesion.rim_para_ppm * (inside - core)
    dia, r2 = (values * (1 - (1 - left) * inside) for values, left in ((dia, lesion.dia_left), (r2, lesion.r2_left)))
    changed, coverage = maps.clone(), torch.zeros(grid.shape, device=grid.device)
    changed[(slice(None), *box)] = torch.stack([para.clamp(min=0), dia, r2, m0])
    coverage[box] = inside
    return changed, coverage


def _draw_place(
    white: Tensor, candidates: Tensor, grid: Grid, taken: list[Ellipsoid], generator: torch.Generator
) -> Ellipsoid:
    """An ellipsoid in white matter that keeps its distance to those already there."""
    for _ in range(MAX_TRIES):
        centre_mm = draw_centre(candidates, grid.origin_mm, generator=generator)
        shape = draw_ellipsoid(centre_mm, log_uniform(RADIUS_MM, generator=generator), generator=generator)
        box, points = grid.around((centre_mm,), shape.semi_axes_mm[0])
        inside = ellipsoid_radius(shape, points) <= 1
        apart = all(
            _distance(centre_mm, other.centre_mm) > shape.semi_axes_mm[0] + other.semi_axes_mm[0] + GAP_MM
            for other in taken
        )
        if apart and float(white[box][inside].float().mean()) >= MIN_WHITE:
            return shape
    raise ValueError(f"no room for more than {len(taken)} MS lesions in this white matter; ask for fewer")


def _draw_change(kind: str, shape: Ellipsoid, generator: torch.Generator) -> MSLesion:
    ranges = MS_KINDS[kind]
    rim_para_ppm = ranges.rim_para_ppm or (0.0, 0.0)
    rim_mm = RIM_MM if ranges.rim_para_ppm else (0.0, 0.0)
    drawn = torch.rand(5, generator=generator).tolist()
    bounds = (rim_mm, ranges.core_para_ppm, rim_para_ppm, ranges.dia_left, ranges.r2_left)
    values = [low + (high - low) * share for share, (low, high) in zip(drawn, bounds, strict=True)]
    return MSLesion(kind, shape, *values)


def _distance(first: Point, second: Point) -> float:
    return sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) ** 0.5
