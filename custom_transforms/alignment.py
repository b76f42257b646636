"""The orientations of a head on one grid, that of the first.

    x_i = T x,    T = (R, t)

takes a point x of the head, in the scanner's coordinates (mm) of the first orientation, to where it lies in another.
There B0 = z, which is R^T z in the first. With the affine T A, where A is its own, the first grid leads to the scan of
the other orientation: B0 follows from such an affine as from any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from monai.data import MetaTensor
from torch import Tensor

from custom_transforms import keys
from custom_transforms.phantom.brain import AFFINE
from custom_transforms.registration import register, resample, rotation_deg
from custom_transforms.transforms.geometry import b0_direction_from_affine, voxel_size_from_affine

_COVERED = 0.5  # of a voxel by the mask


def masked_resample(
    maps: Tensor, mask: Tensor, affine: Tensor, target_affine: Tensor, shape: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Bring maps to another grid as averages over their mask, <m x> / <m>, so that its edge keeps its values.

    Args:
        maps: (C, X, Y, Z), any unit.
        mask: (1, X, Y, Z), 0 or 1.
        affine: (4, 4) of their grid.
        target_affine: (4, 4) of the new grid in the same coordinates.
        shape: the new grid.

    Returns:
        The maps where the mask covers more than half a voxel, else 0, (C, *shape); and where that is, (1, *shape), 0
        or 1.
    """
    *sampled, coverage = (resample(v, affine, target_affine, shape) for v in torch.cat([maps * mask, mask]))
    covered = coverage > _COVERED
    return torch.stack(sampled) / coverage.clamp(min=_COVERED) * covered, covered[None].float()


def to_first_grid(scans: Sequence[Mapping[str, MetaTensor]], motions: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    """Bring the orientations of a head to the grid of the first one.

    Args:
        scans: for each orientation maps (1, X, Y, Z) and their mask, with their affine; grids may differ.
        motions: T of each, (4, 4); that of the first is the identity.

    Returns:
        For each orientation its maps, zero outside the mask that all have in common; that mask; the affine T A, which
        leads to the orientation's own scan; and voxel_size_mm and b0_direction of it.

    Raises:
        ValueError: the masks have nothing in common.
    """
    x, y, z = scans[0][keys.MASK].shape[1:]
    grid, aligned = torch.as_tensor(scans[0][keys.MASK].affine).double(), []
    for scan, motion in zip(scans, motions, strict=True):
        affine, mask = motion @ grid, scan[keys.MASK]
        names = [name for name in scan if name != keys.MASK]
        stacked = torch.cat([scan[name].as_tensor() for name in names])
        maps, covered = masked_resample(stacked, mask.as_tensor(), torch.as_tensor(mask.affine), affine, (x, y, z))
        geometry = {
            keys.VOXEL_SIZE_MM: voxel_size_from_affine(affine),
            keys.B0_DIRECTION: b0_direction_from_affine(affine),
        }
        aligned.append({**dict(zip(names, maps.split(1), strict=True)), keys.MASK: covered, AFFINE: affine, **geometry})
    common = torch.stack([scan[keys.MASK] for scan in aligned]).amin(dim=0)
    if not common.any():
        raise ValueError("the masks of the head orientations have no voxel in common; look at what was registered")
    return [
        {name: values * common if values.ndim == common.ndim else values for name, values in scan.items()}
        | {keys.MASK: common}
        for scan in aligned
    ]


class Alignment(NamedTuple):
    """The orientations of a head on the grid of the first one.

    Attributes:
        scans: what :func:`to_first_grid` gives for each.
        motions: T of each, (4, 4) float64.
        correlations: of each image with the first one, in the common mask.
    """

    scans: list[dict[str, Tensor]]
    motions: list[Tensor]
    correlations: list[float]

    @property
    def b0_directions(self) -> Tensor:
        """Unit vectors of B0 in the voxel axes of the common grid, (N, 3)."""
        return torch.stack([scan[keys.B0_DIRECTION] for scan in self.scans])

    def describe(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Say how each orientation, by its name, lies to the first one."""
        return {
            name: {
                "rotation_deg": round(rotation_deg(motion), 3),
                "b0_direction_voxel_axes": [round(b, 6) for b in direction.tolist()],
                "correlation": round(correlation, 4),
                "motion": motion.tolist(),
            }
            for name, direction, motion, correlation in zip(
                names, self.b0_directions, self.motions, self.correlations, strict=True
            )
        }


def align(scans: Sequence[Mapping[str, MetaTensor]], image: str) -> Alignment:
    """Register the orientations of a head to the first one and bring them to its grid.

    Args:
        scans: for each orientation maps (1, X, Y, Z) and their mask, with their affine; grids may differ.
        image: key of the map to register with.

    Raises:
        ValueError: images or masks have nothing in common.
    """
    first, *others = scans
    found = [register(first[image], first[keys.MASK], scan[image], scan[keys.MASK]) for scan in others]
    motions = [torch.eye(4, dtype=torch.float64), *found]
    aligned = to_first_grid(scans, motions)
    inside = aligned[0][keys.MASK] > 0
    values = torch.stack([scan[image][inside] for scan in aligned])
    return Alignment(aligned, motions, torch.corrcoef(values)[0].tolist())
