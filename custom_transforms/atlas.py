r"""Where the regions of the brain are in an image: the package's template, deformed to fit it (elastix.py).

The template's tissue gets the mean values of the population, and with them the contrast of each image:

    chi_total = chi_para - chi_dia,    R2' = Dr (chi_para + chi_dia),    R2* = R2 + R2',    magnitude = m0 exp(-TE R2*)

As mutual information asks for no certain values, neither the field strength nor the weighting of the image matters; as
everything happens in the scanner's coordinates, neither does the order of the axes or the obliqueness of the grid. Left
and right share their labels. The template has no vessels: where a vein crosses a region, the median of a map there says
more than the mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.utils import convert_to_tensor
from torch import Tensor

from custom_transforms import keys
from custom_transforms.elastix import deform
from custom_transforms.phantom.regions import label_regions
from custom_transforms.phantom.template import load_template
from custom_transforms.phantom.tissue import paint_tissue, tissue_table
from custom_transforms.physics import relaxivity_at
from custom_transforms.registration import LEAST_WEIGHT, from_itk, smooth_image, to_itk
from custom_transforms.relaxometry import combine_echoes
from custom_transforms.transforms.base import image_name, with_meta_of
from custom_transforms.transforms.geometry import check_same_grid, voxel_size_from_affine

STRUCTURE = (keys.R2STAR, keys.R2PRIME, keys.MAGNITUDE)
"""Images that show the outline of the brain, the best one first: one of them joins chi_total."""

LEAST_CORRELATION = 0.4
"""Of each image with the template: simulated heads reach 0.5 to 0.9, heads that face another way at most 0.35."""

LEAST_OVERLAP = 0.8
"""Share of the mask that the template must cover."""

LEAST_BRAIN_ML = 150.0
"""Volume of the mask below which no registration is tried."""

_WORKING_MM = 1.0  # voxels are put together to about this size, that of the template
_MARGIN_MM = 10.0  # around the brain
_CUT = 0.005  # share of the values at either end: vessels and noise at the rim are far beyond all else
_BLOCK_MM = 5.0  # over which images are averaged before they are compared
_RIM = 0.9  # of a block that must be brain: else the outline of the mask would be the contrast
_ECHO_TIME_S = 0.015  # of the template's magnitude


class Atlas(NamedTuple):
    """Regions of an image, and how well the template fits.

    Attributes:
        labels: (1, X, Y, Z), uint8, indices of ``REGIONS``, 0 outside the mask, with the affine of the mask.
        correlation: of each image with the deformed template inside the mask.
        overlap: share of the mask that the deformed template covers.
    """

    labels: Tensor
    correlation: dict[str, float]
    overlap: float

    @property
    def fits(self) -> bool:
        """Whether the regions can be trusted."""
        return min(self.correlation.values()) >= LEAST_CORRELATION and self.overlap >= LEAST_OVERLAP


def register_atlas(images: Mapping[str, Tensor], mask: Tensor, *, affine: Tensor | None = None) -> Atlas:
    """Find the regions of a brain by registration of the template.

    Args:
        images: the first of r2star, r2prime (1/s) and magnitude (one channel an echo, any unit) that there is, and
            chi_total, or chi_para and chi_dia (ppm), if there is; (1, X, Y, Z) each. Others are not looked at.
        mask: (1, X, Y, Z), 1 in the brain.
        affine: (4, 4), voxel indices to the scanner's coordinates (RAS+) in mm; None for that of the mask.

    Returns:
        The labels on the grid of the mask, and how well they fit; the same input gives the same labels.

    Raises:
        ValueError: no image of use, one on another grid or without content, too little brain, or elastix fails.
    """
    if affine is None:
        if not isinstance(mask, MetaTensor):
            raise ValueError("expected a mask with an affine, or affine, got neither; pass affine")
        affine = mask.affine
    affine = torch.as_tensor(affine).double().cpu()
    inside = (convert_to_tensor(mask, track_meta=False).cpu() > 0.5).float()
    _check_brain(inside, affine)
    contrasts = _contrasts(images, mask, inside > 0)
    fixed, near, grid = _prepare(contrasts, inside, affine)
    template, painted = load_template(), {name: _painted()[name] for name in fixed}
    deformation = deform([*fixed.values()], near, grid, [*painted.values()], template.mask, template.affine)
    labels = deformation.warp(label_regions(), template.affine, affine, inside.shape[1:])[None].round() * inside
    covered = deformation.warp(template.mask, template.affine, grid, near.shape)[near > 0]
    warped = {name: deformation.warp(x, template.affine, grid, near.shape) for name, x in painted.items()}
    return Atlas(
        with_meta_of(labels.to(torch.uint8), mask).to(mask.device),
        {name: _correlation(fixed[name], warped[name], near, voxel_size_from_affine(grid)) for name in fixed},
        float(covered.mean()),
    )


def _check_brain(inside: Tensor, affine: Tensor) -> None:
    volume_ml = float(inside.sum()) * float(voxel_size_from_affine(affine).prod()) / 1000
    if volume_ml < LEAST_BRAIN_ML:
        raise ValueError(
            f"the mask holds {volume_ml:.0f} ml of brain; regions are found in {LEAST_BRAIN_ML:.0f} or more"
        )


def _contrasts(images: Mapping[str, Tensor], mask: Tensor, inside: Tensor) -> dict[str, Tensor]:
    """Choose and check the images that are registered, (1, X, Y, Z) each."""
    structure = next((name for name in STRUCTURE if name in images), None)
    if structure is None:
        raise ValueError(f"expected one of {', '.join(STRUCTURE)} to register, got {', '.join(images) or 'nothing'}")
    chosen = {structure: images[structure]}
    if keys.CHI_TOTAL in images:
        chosen = {keys.CHI_TOTAL: images[keys.CHI_TOTAL], **chosen}
    elif keys.CHI_PARA in images and keys.CHI_DIA in images:
        chosen = {keys.CHI_TOTAL: images[keys.CHI_PARA] - images[keys.CHI_DIA], **chosen}
    for name, image in chosen.items():
        check_same_grid(image_name(name, image), image, image_name(keys.MASK, mask), mask)
        values = convert_to_tensor(image, track_meta=False).float().cpu()
        values = combine_echoes(values) if name == keys.MAGNITUDE else values
        within = values[inside]
        if not within.isfinite().all() or within.min() == within.max():
            raise ValueError(
                f"{image_name(name, image)} is constant, NaN or infinite inside the mask; give another one"
            )
        chosen[name] = values.where(inside, 0.0)
    return chosen


def _prepare(
    contrasts: Mapping[str, Tensor], inside: Tensor, affine: Tensor
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Put voxels together to the working size, around the brain alone; give images and mask, (x, y, z), and affine."""
    size_mm, occupied = voxel_size_from_affine(affine), inside[0].nonzero()
    steps = (_WORKING_MM / size_mm).round().long().clamp(min=1)
    margin = (_MARGIN_MM / size_mm).ceil().long()
    low = (occupied.amin(0) - margin).clamp(min=0)
    high = torch.minimum(occupied.amax(0) + 1 + margin, torch.tensor(inside.shape[1:]))
    box = (slice(None), *(slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True)))
    grid = affine.clone()
    grid[:3, :3] *= steps
    grid[:3, 3] += affine[:3, :3] @ (low + (steps - 1) / 2).double()
    weight = F.avg_pool3d(inside[box], steps.tolist())
    near = (weight > 0.5).float()[0]
    means = {name: (F.avg_pool3d(x[box], steps.tolist()) / weight.clamp(min=0.5))[0] for name, x in contrasts.items()}
    return {name: _condition(name, values, near, grid) for name, values in means.items()}, near, grid


def _condition(name: str, values: Tensor, mask: Tensor, affine: Tensor) -> Tensor:
    """Take the coil's sensitivity out of a magnitude (X, Y, Z), and cut the extreme values of every image."""
    if name == keys.MAGNITUDE:
        smooth, weight = (from_itk(smooth_image(to_itk(part, affine))) for part in (values * mask, mask))
        smooth = smooth / weight.clamp(min=LEAST_WEIGHT)
        values = values / smooth.clamp(min=LEAST_WEIGHT * float(smooth.max()))
    within = values[mask > 0].sort().values
    last = len(within) - 1
    return values.clamp(float(within[round(_CUT * last)]), float(within[round((1 - _CUT) * last)])) * mask


@lru_cache(maxsize=1)
def _painted() -> dict[str, Tensor]:
    """Give the template as each image, (X, Y, Z)."""
    template = load_template()
    para, dia, r2, m0 = paint_tissue(template, label_regions(), tissue_table())
    r2prime = relaxivity_at(3.0) * (para + dia)
    images = {
        keys.CHI_TOTAL: para - dia,
        keys.R2PRIME: r2prime,
        keys.R2STAR: r2 + r2prime,
        keys.MAGNITUDE: m0 * torch.exp(-_ECHO_TIME_S * (r2 + r2prime)),
    }
    mask = template.mask.float()
    return {name: _condition(name, values, mask, template.affine) for name, values in images.items()}


def _correlation(a: Tensor, b: Tensor, mask: Tensor, size_mm: Tensor) -> float:
    """Give the correlation of images (X, Y, Z) inside a mask, averaged over blocks, as noise would lower it."""
    block = [max(1, min(round(_BLOCK_MM / size), n)) for size, n in zip(size_mm.tolist(), mask.shape, strict=True)]
    a, b, weight = (F.avg_pool3d(x[None], block) for x in (a * mask, b * mask, mask))
    return float(torch.corrcoef(torch.stack([a[weight > _RIM], b[weight > _RIM]]).double())[0, 1].nan_to_num())
