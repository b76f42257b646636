"""The labelled brain: the template's tissue with nuclei, white matter tracts and calcified structures painted in.

A nucleus takes as many of the innermost voxels of its ellipsoid as its volume says; tracts are tubes, or lie within a
distance of nuclei. What is painted later covers what was painted earlier: tissue, tracts, nuclei, calcified structures.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from custom_transforms.phantom.filters import distance_voxels
from custom_transforms.phantom.geometry import Grid, ellipsoid_radius, paint_tube
from custom_transforms.phantom.structures import (
    CHOROID_PLEXUS,
    CHOROID_PLEXUS_TUBE,
    NUCLEI,
    PINEAL_GLAND,
    REGIONS,
    TRACTS,
    Tube,
)
from custom_transforms.phantom.template import Template, load_template

MAX_RADIUS = 1.2  # of an ellipsoid: how far a nucleus may reach to fill its volume
MAX_CSF = 0.7  # a nucleus has less cerebrospinal fluid than this
MIN_GREY_MATTER = 0.4  # in nuclei that are told from white matter by the template


@lru_cache(maxsize=2)
def label_regions(device: str = "cpu") -> Tensor:
    """Label every voxel of the template with its region; both sides share a label.

    Args:
        device: Where the labels are put.

    Returns:
        Indices of `REGIONS`, (X, Y, Z), uint8, on the template's grid; made once per device, not to be modified.
    """
    template = load_template(device)
    middle = template.mask.shape[0] // 2  # the template is symmetric: paint x >= 0 and mirror
    right = {name: getattr(template, name)[middle:] for name in ("gm", "wm", "csf", "mask")}
    affine = template.affine.clone()
    affine[0, 3] += middle
    labels = _label_side(Template(**right, affine=affine))
    return torch.cat([labels.flip(0)[:-1], labels])


def _label_side(side: Template) -> Tensor:
    """Label the side x >= 0."""
    grid = Grid.of(side)
    tissue = torch.stack([side.csf, side.gm, side.wm]).argmax(0) + REGIONS["cerebrospinal_fluid"]
    labels = (tissue * side.mask).to(torch.uint8)
    nuclei = _claim_nuclei(side, grid)
    _paint_tracts(labels, nuclei, grid)
    labels = torch.where(nuclei > 0, nuclei, labels)
    _paint_calcified(labels, grid)
    return labels


def _claim_nuclei(side: Template, grid: Grid) -> Tensor:
    """Let each nucleus in turn take its volume of the innermost free voxels of its ellipsoid."""
    nuclei = torch.zeros_like(side.mask, dtype=torch.uint8)
    for name, ellipsoid in NUCLEI.items():
        box, points = grid.around((ellipsoid.centre_mm,), MAX_RADIUS * ellipsoid.semi_axes_mm[0])
        radius = ellipsoid_radius(ellipsoid, points)
        free = (nuclei[box] == 0) & side.mask[box] & (side.csf[box] < MAX_CSF) & (radius < MAX_RADIUS)
        if ellipsoid.grey_matter_only:
            free &= side.gm[box] > MIN_GREY_MATTER
        if ellipsoid.hollow:
            in_middle = points[0] < ellipsoid.centre_mm[0] - 0.5 * ellipsoid.semi_axes_mm[2]
            free &= (radius > ellipsoid.hollow) & ~in_middle
        innermost = radius[free].sort().values[: int(ellipsoid.volume_mm3)]
        nuclei[box][free & (radius <= innermost[-1])] = REGIONS[name]
    return nuclei


def _paint_tracts(labels: Tensor, nuclei: Tensor, grid: Grid) -> None:
    """Divide the white matter into tracts, in place."""
    white = labels == REGIONS["white_matter"]
    x, y, z = grid.coordinates_mm((slice(None), slice(None), slice(None)))
    lentiform = _near(nuclei, ("putamen", "pallidum_external", "pallidum_internal"))
    medial = _near(nuclei, ("caudate", "thalamus", "pulvinar"))
    capsule = white & (lentiform < 8) & (medial < 8) & (lentiform + medial < 12) & (z > -6) & (z < 22)
    callosum = _corpus_callosum(white, x, y, z)
    masks = {
        "corona_radiata": (distance_voxels(capsule, limit_voxels=13) < 13) & (z > 8),
        "external_capsule": (_near(nuclei, ("putamen",)) < 4) & (medial > 12),
        **{name: _inside(tube, grid) for name, tube in TRACTS.items()},
        "anterior_limb_internal_capsule": capsule & (y >= 0),
        "posterior_limb_internal_capsule": capsule & (y < 0) & (y > -22),
        "retrolenticular_internal_capsule": capsule & (y <= -22),
        "corpus_callosum_genu": callosum & (y >= 14),
        "corpus_callosum_body": callosum & (y < 14) & (y >= -26),
        "corpus_callosum_splenium": callosum & (y < -26),
    }
    for name, mask in masks.items():
        labels[white & mask] = REGIONS[name]


def _corpus_callosum(white: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """White matter at the midline that hangs together with (0, 0, 16 and up) mm, and 12 mm to its side."""
    callosum = torch.zeros_like(white)
    midline = (white & (x <= 3) & (y > -46) & (y < 36) & (z > 3) & (z < 36))[:16]
    seed = midline & ((x == 0) & (y == 0) & (z > 15))[:16]
    grown = _grow(seed, midline, kernel=(3, 3, 3), steps=150)
    callosum[:16] = _grow(grown, white[:16], kernel=(3, 1, 1), steps=12)
    return callosum


def _grow(seed: Tensor, mask: Tensor, *, kernel: tuple[int, int, int], steps: int) -> Tensor:
    """Dilate a seed inside a mask until it fills its component, or for a number of steps."""
    padding = tuple(k // 2 for k in kernel)
    for _ in range(steps):
        grown = (F.max_pool3d(seed[None].float(), kernel, 1, padding)[0] > 0) & mask
        if bool((grown == seed).all()):
            break
        seed = grown
    return seed


def _near(nuclei: Tensor, names: tuple[str, ...]) -> Tensor:
    """Distance to the nearest of some nuclei, mm, at most 13."""
    indices = torch.tensor([REGIONS[name] for name in names], device=nuclei.device)
    return distance_voxels(torch.isin(nuclei, indices), limit_voxels=13)


def _inside(tube: Tube, grid: Grid) -> Tensor:
    coverage = torch.zeros(grid.shape, device=grid.device)
    paint_tube(coverage, tube, grid)
    return coverage > 0.5


def _paint_calcified(labels: Tensor, grid: Grid) -> None:
    """Put the choroid plexus and the pineal gland into the cerebrospinal fluid, in place."""
    fluid = labels == REGIONS["cerebrospinal_fluid"]
    labels[fluid & _inside(CHOROID_PLEXUS_TUBE, grid)] = REGIONS["choroid_plexus"]
    for name, ellipsoid in (("choroid_plexus", CHOROID_PLEXUS), ("pineal_gland", PINEAL_GLAND)):
        box, points = grid.around((ellipsoid.centre_mm,), ellipsoid.semi_axes_mm[0])
        inside = ellipsoid_radius(ellipsoid, points) <= 1
        labels[box][inside & fluid[box]] = REGIONS[name]
