"""Crops of a brain's anatomy, warped and filled anew for every volume, made in batches on the device that trains.

Only the points of the crop are computed. A point p of the crop (mm from its centre c) has the template's tissue at
q + u(q), q = c + M p, with a random affine M and a smooth displacement u. There the values of grey matter, white
matter or its tract, and fluid are mixed by the template's probabilities, and nuclei lie over them; every volume draws
its own values, exchanges those of the regions in a part of the volumes, and adds texture, vessels and lesions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from custom_transforms.phantom.filters import gaussian_smooth
from custom_transforms.phantom.random_draws import (
    Draws,
    Range,
    draw_affine,
    draw_in_ball,
    gaussian_noise,
)
from custom_transforms.phantom.regions import label_regions
from custom_transforms.phantom.shapes import (
    Canvas,
    paint_ellipsoids,
    paint_vessels,
    texture_factor,
)
from custom_transforms.phantom.structures import NUCLEUS_REGIONS, REGIONS, TRACT_REGIONS
from custom_transforms.phantom.template import load_template
from custom_transforms.phantom.tissue import NUCLEUS_EDGE_MM, tissue_table
from custom_transforms.phantom.training_phantom import TrainingPhantom

_COARSE_VOXEL_MM = 1.5  # mean voxel size from which the template is averaged first
_KNOTS = 20  # along each axis of the crop, between which positions are interpolated
_WARP_KNOTS, _WARP_REACH_MM = 24, 100.0  # the grid that holds u
_NEAR_MIDDLE_MM = 10.0  # how far a crop that is larger than the brain is moved
_MOVABLE = [REGIONS[name] for name in ("grey_matter", "white_matter", *TRACT_REGIONS, *NUCLEUS_REGIONS)]
_INNER = 0.75  # of the half axes of the brain, within which all centres are


@dataclass(frozen=True)
class _Anatomy:
    """The template, ready to be sampled; both levels have the same corners.

    Attributes:
        soft: Grey matter, white matter, mask and share of nuclei, (1, 4, X, Y, Z), at 1 mm and averaged at 2 mm.
        labels: Tract and nearest nucleus as indices of `REGIONS`, (1, 2, X, Y, Z), float32.
        half_width_mm: Half the distance between the outermost voxels, (3,).
    """

    soft: tuple[Tensor, Tensor]
    labels: Tensor
    half_width_mm: Tensor

    def fill(self, positions: Tensor, table: Tensor, *, averaged: bool) -> tuple[Tensor, Tensor]:
        """Tissue at positions (X, Y, Z, 3) by a table (regions, 4): maps (4, X, Y, Z) and mask (1, X, Y, Z)."""
        soft = _sample(self.soft[averaged], positions[None])[0]
        grey, white, mask, share = soft[:, None]
        labels = _sample(self.labels, positions[None], mode="nearest")[0].long()
        tract, nucleus = (table.T[:, label.flatten()].unflatten(1, label.shape) for label in labels)
        fluid = (mask - grey - white).clamp(min=0.0)
        values = table[:, :, None, None, None]
        maps = grey * values[REGIONS["grey_matter"]] + white * tract + fluid * values[REGIONS["cerebrospinal_fluid"]]
        return torch.lerp(maps, nucleus, share), (mask > 0.5).float()


@lru_cache(maxsize=2)
def _load_anatomy(device: str) -> _Anatomy:
    template, regions = load_template(device), label_regions(device)
    tracts, nuclei = (
        torch.where(
            torch.isin(regions, torch.tensor([REGIONS[name] for name in names], device=regions.device)), regions, rest
        )
        for names, rest in ((TRACT_REGIONS, REGIONS["white_matter"]), (NUCLEUS_REGIONS, REGIONS["background"]))
    )
    share = gaussian_smooth((nuclei > 0)[None].float(), sigma_voxels=NUCLEUS_EDGE_MM)[0]
    soft = torch.stack([template.gm, template.wm, template.mask.float(), share])[None]
    nearest = nuclei.float()[None, None]
    for _ in range(2):  # as far as the soft edges reach
        nearest = torch.where(nearest > 0, nearest, F.max_pool3d(nearest, 5, 1, 2))
    return _Anatomy(
        # sizes are odd, so that both levels share their outermost voxels
        soft=(soft, F.avg_pool3d(soft, 3, stride=2, padding=1)),
        labels=torch.cat([tracts.float()[None, None], nearest], dim=1),
        half_width_mm=(torch.tensor(regions.shape, device=regions.device) - 1) / 2,
    )


@dataclass(frozen=True, kw_only=True)
class WarpedAnatomy(TrainingPhantom):
    """Batches of warped crops of the brain; ranges are [low, high], other arguments those of :class:`TrainingPhantom`.

    Args:
        rotation_deg: largest rotation about each axis.
        scaling: largest relative change of the size along each axis.
        shear: largest slope.
        displacement_mm: SD of each component of the displacement.
        displacement_length_mm: distance at which its correlation has fallen to 1/e.
        chi_sd: SD of the logarithm of a region's susceptibilities around the population's.
        r2_sd: the same of R2.
        m0_sd: the same of m0.
        shuffle: chance that the regions other than fluid exchange their values first.
        r2_per_iron: range of the relative change of R2 with that of chi_para inside a region.
    """

    rotation_deg: float = 20.0
    scaling: float = 0.15
    shear: float = 0.1
    displacement_mm: float = 3.0
    displacement_length_mm: float = 30.0
    chi_sd: float = 0.5
    r2_sd: float = 0.25
    m0_sd: float = 0.1
    shuffle: float = 0.3
    r2_per_iron: Range = (0.0, 0.6)

    def _paint(self, draws: Draws, canvas: Canvas) -> tuple[Tensor, Tensor]:
        maps, mask = self._tissue(draws, canvas)
        change = texture_factor(draws, canvas, self.texture, self.gradient)
        r2_change = 1 + draws.uniform(*self.r2_per_iron)[:, None, None, None, None] * (change[:, :1] - 1)
        maps = maps * torch.cat([change, r2_change, torch.ones_like(r2_change)], dim=1)
        if self.lesions is not None:
            warp = canvas.noise(draws, 1, draws.uniform(2.0, 6.0))
            maps = paint_ellipsoids(maps, draws, canvas, self.lesions, warp=warp)
        if self.vessels is not None:
            maps = paint_vessels(maps, draws, canvas, self.vessels)
        return maps, mask

    def _tissue(self, draws: Draws, canvas: Canvas) -> tuple[Tensor, Tensor]:
        """Maps (B, 4, X, Y, Z) and mask (B, 1, X, Y, Z) of the crops, without texture."""
        anatomy = _load_anatomy(str(self.device))
        positions = self._positions(draws, canvas, anatomy.half_width_mm)
        tables = self._tables(draws)
        mean_voxel_mm = canvas.voxel_size_mm.prod(dim=1) ** (1 / 3)
        crops = [
            anatomy.fill(position, table, averaged=coarse)
            for position, table, coarse in zip(
                positions, tables, (mean_voxel_mm >= _COARSE_VOXEL_MM).tolist(), strict=True
            )
        ]
        maps, mask = (torch.stack(parts) for parts in zip(*crops, strict=True))
        return maps, mask

    def _positions(self, draws: Draws, canvas: Canvas, half_width_mm: Tensor) -> Tensor:
        """Where the crops' voxels are in the template, (B, X, Y, Z, 3), -1 and 1 at its outermost voxels."""
        half_crop = canvas.voxel_size_mm * (torch.tensor(canvas.shape, device=draws.device) - 1) / 2
        free = torch.minimum((half_width_mm - half_crop).clamp(min=_NEAR_MIDDLE_MM), _INNER * half_width_mm)
        centre = free * draw_in_ball(draws)
        affine = draw_affine(draws, rotation_deg=self.rotation_deg, scaling=self.scaling, shear=self.shear)
        steps = torch.linspace(-1.0, 1.0, _KNOTS, device=draws.device)
        knots = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"))
        knots = torch.einsum("bij,bj,jxyz->bixyz", affine, half_crop, knots) + centre[:, :, None, None, None]
        knots = knots + self.displacement_mm * self._displacement(draws, knots)
        knots = knots / half_width_mm[:, None, None, None]
        return F.interpolate(knots, size=list(canvas.shape), mode="trilinear", align_corners=True).movedim(1, -1)

    def _displacement(self, draws: Draws, points_mm: Tensor) -> Tensor:
        """Smooth noise of SD 1 at points (B, 3, x, y, z), of the same shape."""
        spacing_mm = 2 * _WARP_REACH_MM / (_WARP_KNOTS - 1)
        # noise through a Gaussian of SD s has the correlation exp(-d^2 / (2 s)^2)
        sigma = torch.full((draws.batch,), self.displacement_length_mm / 2 / spacing_mm, device=draws.device)
        voxel_size_mm = torch.full((draws.batch, 3), spacing_mm, device=draws.device)
        noise = gaussian_noise(draws, 3, (_WARP_KNOTS,) * 3, voxel_size_mm, sigma=sigma)
        return _sample(noise, points_mm.movedim(1, -1) / _WARP_REACH_MM, padding="border")

    def _tables(self, draws: Draws) -> Tensor:
        """Values of the regions, (B, regions, 4), in the order of `REGIONS`."""
        table = tissue_table().to(draws.device).expand(draws.batch, -1, -1)
        movable = torch.tensor(_MOVABLE, device=draws.device)
        order = torch.arange(table.shape[1], device=draws.device).repeat(draws.batch, 1)
        order[:, movable] = movable[draws.uniform(0.0, 1.0, (len(movable),)).argsort(dim=1)]
        shuffled = torch.take_along_dim(table, order[:, :, None], dim=1)
        table = torch.where((draws.uniform(0.0, 1.0) < self.shuffle)[:, None, None], shuffled, table)
        sd = torch.tensor([self.chi_sd, self.chi_sd, self.r2_sd, self.m0_sd], device=draws.device)
        return table * torch.exp(sd * draws.normal(tuple(table.shape[1:])))


def _sample(volume: Tensor, positions: Tensor, *, mode: str = "bilinear", padding: str = "zeros") -> Tensor:
    """Values of (B, C, x, y, z) at (B, X, Y, Z, 3), -1 and 1 at the centres of the outermost voxels."""
    # grid_sample wants the last axis first
    return F.grid_sample(volume, positions.flip(-1), mode=mode, padding_mode=padding, align_corners=True)
