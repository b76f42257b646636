"""The head around a simulated brain: fluid, skull, scalp, face, neck, and the air in and around them.

Its susceptibility makes the background field, its tissue the signal that a brain mask has to leave out. The layers are
shells around the brain's hull, which is the brain closed over its sulci. Cavities, face and neck are ellipsoids in MNI
mm; mean and SD of the voxels of the brain along each axis carry them to the subject.

    chi_background = G * (9.4 ppm in air, -2 ppm in bone, 0 elsewhere),    relative to water

G is a Gaussian with an SD of somewhat less than a voxel. Without it the sharp and strong edges of air make the discrete
dipole convolution ring all over the brain, by more than the field of the brain's own sources. With it, and isotropic
voxels, the field in the brain stays that of the sharp edges, as the mean of a harmonic function about a point is its
value there. So that G leaves the brain out, the layer of fluid gets thicker where voxels are large.

References:
    Schenck 1996, Medical Physics 23:815, doi:10.1118/1.597854 (susceptibility of air and bone)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from custom_transforms import keys
from custom_transforms.phantom.brain import AFFINE
from custom_transforms.phantom.filters import gaussian_smooth, smooth_noise
from custom_transforms.phantom.template import load_template
from custom_transforms.phantom.tissue import TISSUES

CHI_BACKGROUND = "chi_background"  # ppm, relative to water
HEAD_MASK = "head_mask"  # 1 in the head, cavities included, 0 in the air around it
HEAD_TISSUES = "head_tissues"  # uint8, indices of the names below
TISSUE_NAMES = ("air", "brain", "fluid", "bone", "fat", "muscle")

CHI_AIR_PPM = 9.4
AIR, BRAIN, FLUID, BONE, FAT, MUSCLE = range(len(TISSUE_NAMES))
_FLUID = TISSUES["cerebrospinal_fluid"]
_CHI_PPM = (CHI_AIR_PPM, 0.0, 0.0, -2.0, 0.0, 0.0)
_R2_PER_S = (0.0, 0.0, 1000 / _FLUID.t2_ms, 0.0, 20.0, 30.0)
_M0 = (0.0, 0.0, _FLUID.m0, 0.0, 1.0, 0.6)  # white matter is 1

MARGIN_MM = 40.0  # from the brain to the end of the grid
CLOSING_MM = 10.0  # half the width of the sulci that the hull bridges
FLUID_MM, BONE_MM, SCALP_MM = 2.5, 9.0, 15.0  # outer borders of the layers, distances from the hull
FLUID_VOXELS = 2.0  # least thickness of the fluid, as far as LARGEST_FLUID_MM
LARGEST_FLUID_MM = 5.5
EDGE_VOXELS = 0.85  # SD of the Gaussian G, voxels
LEAST_BONE_MM = 3.0  # between a cavity and the fluid
SIZE_SD = 0.10  # of the logarithm of thicknesses and semi-axes
TEXTURE_SD, TEXTURE_MM = 0.10, 6.0  # of the signal of fat and muscle

# Tissue, centre and semi-axes in MNI mm; |x| on both sides
CAVITIES = {
    "nasal_cavity": (AIR, (0.0, 46.0, -34.0), (14.0, 18.0, 16.0)),
    "sphenoid_sinus": (AIR, (0.0, 30.0, -36.0), (10.0, 12.0, 8.0)),
    "frontal_sinus": (AIR, (10.0, 82.0, 2.0), (9.0, 5.0, 9.0)),
    "mastoid_cells": (AIR, (52.0, -26.0, -42.0), (10.0, 12.0, 12.0)),
    "eye": (FLUID, (32.0, 62.0, -38.0), (12.0, 12.0, 12.0)),
}
FACE = ((0.0, 40.0, -50.0), (56.0, 46.0, 56.0))
NECK = ((0.0, -22.0, -60.0), (56.0, 60.0))  # an elliptic cylinder below the centre,
NECK_TAPER_PER_MM = 0.004  # which gets thinner downwards

Axes = list[np.ndarray]


def surround_with_head(brain: Mapping[str, Tensor], *, seed: int) -> dict[str, Tensor]:
    """Build a head around a brain, on a larger grid with the same voxels.

    Args:
        brain: What :class:`AnatomicalBrain` gives, or its maps chi_para, chi_dia, r2, m0, mask and regions,
            (1, X, Y, Z), with voxel_size_mm (3,), b0_direction (3,) and affine (4, 4); axes R, A, S of the head.
        seed: Any non-negative integer; sizes of layers and cavities vary with it by 10 %.

    Returns:
        The brain's maps on the larger grid, zero outside of it; r2 (1/s) and m0 of the whole head; `chi_background`,
        ppm; `head_mask`, 0 or 1; `head_tissues`, uint8, indices of `TISSUE_NAMES`; each (1, X', Y', Z'), on the CPU.
        `voxel_size_mm` and `b0_direction` as they came, `affine` moved to the new first voxel.

    Raises:
        ValueError: The mask is empty.
    """
    voxel_size_mm = brain[keys.VOXEL_SIZE_MM].tolist()
    head, first_voxel = _pad({key: value.cpu() for key, value in brain.items()}, voxel_size_mm)
    affine = head[AFFINE].clone()
    affine[:3, 3] += affine[:3, :3] @ first_voxel.to(affine)
    words = np.random.SeedSequence([seed, *b"head"]).generate_state(2)
    mask = head[keys.MASK][0].numpy() > 0.5
    labels, outline = _label_tissues(mask, voxel_size_mm, np.random.default_rng(words[0]))
    tissues = torch.from_numpy(labels)[None]
    texture = smooth_noise(
        (mask.shape[0], mask.shape[1], mask.shape[2]),
        length_voxels=TEXTURE_MM / min(voxel_size_mm),
        channels=1,
        generator=torch.Generator().manual_seed(int(words[1])),
    )
    outer = tissues >= FAT
    return {
        **head,
        keys.R2: head[keys.R2] + _lookup(_R2_PER_S, tissues),
        keys.PROTON_DENSITY: head[keys.PROTON_DENSITY] + _lookup(_M0, tissues) * (1 + TEXTURE_SD * outer * texture),
        CHI_BACKGROUND: gaussian_smooth(_lookup(_CHI_PPM, tissues), sigma_voxels=EDGE_VOXELS),
        HEAD_MASK: torch.from_numpy(outline)[None].float(),
        HEAD_TISSUES: tissues,
        AFFINE: affine,
    }


def _pad(brain: Mapping[str, Tensor], voxel_size_mm: Sequence[float]) -> tuple[dict[str, Tensor], Tensor]:
    """Pad the maps to `MARGIN_MM` around the mask; also give the new first voxel in old indices, (3,)."""
    occupied = brain[keys.MASK][0].nonzero()
    if not len(occupied):
        raise ValueError("expected a mask with a brain in it, got an empty one")
    margin = torch.tensor([math.ceil(MARGIN_MM / size) for size in voxel_size_mm])
    shape = torch.tensor(brain[keys.MASK].shape[1:])
    before = (margin - occupied.amin(0)).clamp(min=0)
    after = (margin - (shape - 1 - occupied.amax(0))).clamp(min=0)
    pads = torch.stack([before, after], dim=1).flip(0).flatten().tolist()  # the last axis comes first
    return {key: F.pad(value, pads) if value.ndim == 4 else value for key, value in brain.items()}, -before


def _lookup(values: Sequence[float], tissues: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[tissues.int()]


def _label_tissues(
    mask: np.ndarray, voxel_size_mm: Sequence[float], random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Label the tissues, uint8, and mark the head with its cavities, bool, around a brain, all (X, Y, Z)."""
    fluid_mm, bone_mm, scalp_mm = np.cumsum(np.diff([0, FLUID_MM, BONE_MM, SCALP_MM]) * _factors(random, 3))
    fluid_mm = max(fluid_mm, min(FLUID_VOXELS * max(voxel_size_mm), LARGEST_FLUID_MM))
    distance = _distance_from_hull(mask, voxel_size_mm)
    axes = _template_axes(mask)
    outline = (distance <= scalp_mm) | _ellipsoid(axes, *FACE) | _neck(axes)
    tissues = np.where(distance <= scalp_mm, FAT, MUSCLE).astype(np.uint8)
    tissues[distance <= bone_mm] = BONE
    allowed = distance > fluid_mm + LEAST_BONE_MM
    for tissue, centre_mm, semi_axes_mm in CAVITIES.values():
        size = semi_axes_mm * _factors(random, 3)
        for side in (-1, 1) if centre_mm[0] else (1,):
            inside = _ellipsoid(axes, (side * centre_mm[0], *centre_mm[1:]), size)
            tissues[inside & allowed] = tissue
    tissues[distance <= fluid_mm] = FLUID
    tissues[mask] = BRAIN
    tissues[~outline] = AIR
    return tissues, outline


def _factors(random: np.random.Generator, count: int) -> np.ndarray:
    return np.exp(SIZE_SD * random.standard_normal(count))


def _distance_from_hull(mask: np.ndarray, voxel_size_mm: Sequence[float]) -> np.ndarray:
    """Give the distance from the brain closed by `CLOSING_MM`, in mm; 0 inside, (X, Y, Z)."""
    near = distance_transform_edt(~mask, sampling=voxel_size_mm) <= CLOSING_MM
    hull = (distance_transform_edt(near, sampling=voxel_size_mm) > CLOSING_MM) | mask
    return distance_transform_edt(~hull, sampling=voxel_size_mm).astype(np.float32)


def _template_axes(mask: np.ndarray) -> Axes:
    """Give the MNI coordinate of the voxels along each axis, mm: the one that fits mean and SD of the brain's voxels.

    Broadcast against each other they span the grid: (X, 1, 1), (1, Y, 1), (1, 1, Z).
    """
    template = load_template()
    origin_mm, axes = template.origin_mm, []
    for axis in range(3):
        others = tuple(i for i in range(3) if i != axis)
        mean, sd = _mean_and_sd(mask.sum(axis=others))
        mean_mni, sd_mni = _mean_and_sd(template.mask.numpy().sum(axis=others))
        position = (np.arange(mask.shape[axis]) - mean) / sd * sd_mni + mean_mni + origin_mm[axis]
        axes.append(np.expand_dims(position.astype(np.float32), others))
    return axes


def _mean_and_sd(counts: np.ndarray) -> tuple[float, float]:
    index = np.arange(len(counts))
    mean = float(np.average(index, weights=counts))
    return mean, max(float(np.average((index - mean) ** 2, weights=counts)) ** 0.5, 1e-6)


def _ellipsoid(axes: Axes, centre_mm: Sequence[float], semi_axes_mm: Sequence[float]) -> np.ndarray:
    parts = [((x - c) / a) ** 2 for x, c, a in zip(axes, centre_mm, semi_axes_mm, strict=True)]
    return parts[0] + parts[1] + parts[2] <= 1


def _neck(axes: Axes) -> np.ndarray:
    (x, y, z), (x0, y0, z0), (a, b) = axes, *NECK
    taper = np.clip(1 - NECK_TAPER_PER_MM * (z0 - z), 0.1, 1)
    return (((x - x0) / (a * taper)) ** 2 + ((y - y0) / (b * taper)) ** 2 <= 1) & (z <= z0)
