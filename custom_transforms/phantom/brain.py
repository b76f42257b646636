"""The anatomical brain: a new subject for every seed.

The tissue of the template is filled with the subject's own values, texture, veins and lesions, deformed, and sampled
on a voxel grid. Fields and signals are not made here (acquisition.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from custom_transforms import keys
from custom_transforms.phantom.geometry import Grid
from custom_transforms.phantom.lesions import KINDS, LESIONS, MICROBLEEDS, Lesion, draw_lesions, paint_lesion
from custom_transforms.phantom.ms_lesions import draw_ms_lesions, paint_ms_lesion
from custom_transforms.phantom.regions import label_regions
from custom_transforms.phantom.structures import REGIONS
from custom_transforms.phantom.template import Template, load_template
from custom_transforms.phantom.tissue import add_texture, blend, draw_tissue_table, paint_tissue
from custom_transforms.phantom.veins import paint_veins
from custom_transforms.phantom.warp import (
    draw_warp,
    enclosing_grid,
    resample,
    resample_labels,
    rotation_matrix,
)

AFFINE = "affine"  # voxel index to scanner mm, axes R, A, S, (4, 4)
MS_LESIONS = "ms_lesions"  # numbers of the lesions, from 1
MARGIN_VOXELS = 8  # left around the brain
LARGEST_VOXEL_MM = 20.0  # beyond it nothing of the anatomy is left


class AnatomicalBrain:
    """Simulated heads with the anatomy of the ICBM152 template.

    Args:
        voxel_size_mm: Voxel size along the three axes, mm.
        tilt_deg: Angle between the head's axis and B0, degrees, or the range it is drawn from; the side to which the
            head tilts is random. The voxel grid turns with the head, so the angle shows in the affine and in the
            direction of B0, and a subject looks the same at all angles.
        lesions: Number of haemorrhages and calcifications, in turns.
        microbleeds: Number of haemorrhages of 2 to 5 mm.
        ms_lesions: Number of lesions of multiple sclerosis, of the four kinds of `MS_KINDS` in turns.
        device: Where the maps are made and left. The random numbers come from the CPU: a seed is the same subject
            everywhere.

    Raises:
        ValueError: If a voxel size is not positive or beyond 20 mm, or an angle beyond 180 degrees.
    """

    def __init__(
        self,
        *,
        voxel_size_mm: Sequence[float] = (1.0, 1.0, 1.0),
        tilt_deg: float | Sequence[float] = 0.0,
        lesions: int = 0,
        microbleeds: int = 0,
        ms_lesions: int = 0,
        device: str = "cpu",
    ) -> None:
        if len(voxel_size_mm) != 3 or min(voxel_size_mm) <= 0 or max(voxel_size_mm) > LARGEST_VOXEL_MM:
            raise ValueError(
                f"voxel_size_mm must be three positive numbers up to {LARGEST_VOXEL_MM:g}, got {tuple(voxel_size_mm)}"
            )
        x, y, z = voxel_size_mm
        self.voxel_size_mm = (float(x), float(y), float(z))
        low, high = (tilt_deg, tilt_deg) if isinstance(tilt_deg, int | float) else tilt_deg
        if max(abs(low), abs(high)) > 180:
            raise ValueError(f"tilt_deg must be from -180 to 180, got {tilt_deg}; it is an angle in degrees")
        self.tilt_range_deg = (float(low), float(high))
        self.lesions = lesions
        self.microbleeds = microbleeds
        self.ms_lesions = ms_lesions
        self.device = device

    def __call__(self, seed: int) -> dict[str, Tensor]:
        """Make the subject of a seed.

        Args:
            seed: Any non-negative integer.

        Returns:
            Under the names of `custom_transforms.keys`: `chi_para`, `chi_dia` (1, X, Y, Z), ppm; `r2` (1, X, Y, Z),
            1/s; `m0` (1, X, Y, Z); `mask` (1, X, Y, Z), 0 or 1; `regions` (1, X, Y, Z), uint8, indices of `REGIONS`;
            `ms_lesions` (1, X, Y, Z), uint8, 0 outside of MS lesions and n in the nth, whose kind is `ms_kind(n)`;
            `voxel_size_mm` (3,); `b0_direction` (3,), unit vector in voxel axes; and `affine` (4, 4), float64.
        """
        template = load_template(self.device)
        maps, labels = self._make_head(template, seed)
        warp = draw_warp(generator=_generator(seed, "warp"), device=self.device)
        grid = enclosing_grid(template, warp, self.voxel_size_mm, MARGIN_VOXELS)
        maps = resample(torch.cat([maps, template.mask[None].float()]), template, warp, grid)
        labels = resample_labels(labels, template, warp, grid)
        mask = maps[4:] > 0.5
        box, first_voxel = _bounding_box(mask[0], MARGIN_VOXELS)
        mask = mask[box]
        regions, numbers = (labels[box] * mask).split(1)
        chi_para, chi_dia, r2, m0 = (maps[:4][box] * mask).split(1)
        start_mm = torch.tensor(grid.start_mm) + first_voxel * torch.tensor(self.voxel_size_mm)
        return {
            keys.CHI_PARA: chi_para,
            keys.CHI_DIA: chi_dia,
            keys.R2: r2,
            keys.PROTON_DENSITY: m0,
            keys.MASK: mask.float(),
            keys.REGIONS: regions,
            MS_LESIONS: numbers,
            **self._geometry(start_mm, seed),
        }

    def _make_head(self, template: Template, seed: int) -> tuple[Tensor, Tensor]:
        """Maps (4, X, Y, Z), and regions and lesion numbers (2, X, Y, Z), of a subject before the deformation."""
        regions = label_regions(self.device).clone()
        table = draw_tissue_table(_generator(seed, "tissue"))
        maps = add_texture(paint_tissue(template, regions, table), generator=_generator(seed, "texture"))
        maps, numbers = _add_ms_lesions(maps, regions, self.ms_lesions, template, seed)
        veins = paint_veins(template, generator=_generator(seed, "veins"))
        maps = blend(maps, table[REGIONS["vein"]], veins)
        regions[veins > 0.5] = REGIONS["vein"]
        for purpose, count, family in (
            ("lesions", self.lesions, LESIONS),
            ("microbleeds", self.microbleeds, MICROBLEEDS),
        ):
            generator = _generator(seed, purpose)
            for lesion in draw_lesions(template, count, generator=generator, family=family):
                maps = _paint(maps, regions, lesion, table, template, generator)
        return maps, torch.stack([regions, numbers])

    def _geometry(self, start_mm: Tensor, seed: int) -> dict[str, Tensor]:
        """Affine, voxel size and direction of B0, which is +z of the scanner: b_i = A_zi / |A_i|."""
        generator = _generator(seed, "tilt")
        low, high = self.tilt_range_deg
        side, share = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        axis = torch.tensor([math.cos(2 * math.pi * side), math.sin(2 * math.pi * side), 0.0], dtype=torch.float64)
        rotation = rotation_matrix(axis, low + share * (high - low))
        affine = torch.eye(4, dtype=torch.float64)
        affine[:3, :3] = rotation * torch.tensor(self.voxel_size_mm)
        affine[:3, 3] = rotation @ start_mm.double()
        return {
            AFFINE: affine,
            keys.VOXEL_SIZE_MM: torch.tensor(self.voxel_size_mm, device=self.device),
            keys.B0_DIRECTION: rotation[2].float().to(self.device),
        }


def _generator(seed: int, purpose: str) -> torch.Generator:
    """A stream of random numbers of its own for each purpose, so that asking for lesions changes nothing else."""
    words = np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))


def _add_ms_lesions(maps: Tensor, regions: Tensor, count: int, template: Template, seed: int) -> tuple[Tensor, Tensor]:
    """Maps (4, X, Y, Z) with MS lesions in them, and the number of each lesion at its voxels, (X, Y, Z)."""
    numbers, grid, generator = torch.zeros_like(regions), Grid.of(template), _generator(seed, "ms_lesions")
    for number, lesion in enumerate(draw_ms_lesions(regions, grid, count, generator=generator), start=1):
        maps, coverage = paint_ms_lesion(maps, lesion, grid, generator=generator)
        numbers[coverage > 0.5] = number
    return maps, numbers


def _paint(
    maps: Tensor, regions: Tensor, lesion: Lesion, table: Tensor, template: Template, generator: torch.Generator
) -> Tensor:
    """Put a lesion into the regions (X, Y, Z), in place, and give the maps (4, X, Y, Z) with it."""
    values = table[REGIONS[lesion.kind]].clone()
    values[KINDS[lesion.kind]] = lesion.chi_ppm
    coverage = paint_lesion(lesion, Grid.of(template), generator=generator) * template.mask
    regions[coverage > 0.5] = REGIONS[lesion.kind]
    return blend(maps, values, coverage)


def _bounding_box(mask: Tensor, margin: int) -> tuple[tuple[slice, ...], Tensor]:
    """The box around a mask (X, Y, Z) with a margin, as slices of (C, X, Y, Z), and its first voxel (3,)."""
    occupied = mask.nonzero().cpu()
    low = (occupied.amin(0) - margin).clamp(min=0)
    high = occupied.amax(0) + margin + 1
    return (slice(None), *(slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))), low
