r"""Background field removal: the field of all that is outside the brain, taken from the total field.

    total field = local field + background,    the background is harmonic in the brain

Measured on simulated heads with skull, scalp and air, SNR 100, 3 mm and more from the rim, PDF with room for sources in
the brain is nearest to the true local field, and keeps the whole mask; V-SHARP after it takes out what is smooth, but
costs the rim (tests/preprocessing/test_background.py).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import torch
from monai.transforms import Transform
from torch import Tensor

from custom_transforms.classical.convergence import ResidualBar
from custom_transforms.keys import (
    B0_DIRECTION,
    B0_TESLA,
    CHI_TOTAL,
    FIELD_QUALITY,
    LOCAL_FIELD,
    MAGNITUDE,
    MASK,
    NOTES,
    R2PRIME,
    R2STAR,
    TOTAL_FIELD,
    VOXEL_SIZE_MM,
)
from custom_transforms.physics.dipole import DipoleConvolution, convolve
from custom_transforms.physics.smv import smv_kernel
from custom_transforms.preprocessing.pdf import margin_box, project_onto_dipole_fields
from custom_transforms.preprocessing.vsharp import vsharp
from custom_transforms.relaxometry import combine_echoes
from custom_transforms.transforms.base import to_float_tensor, with_meta_of

BackgroundMethod = Literal["pdf", "vsharp", "pdf+vsharp"]

METHODS = ("pdf", "vsharp", "pdf+vsharp")
_LARGEST_BALL_MM = 24.0
_FAINT = 0.1  # as in the quality of the fitted field
POOR_QUALITY = 0.1
"""Fields of a quality below this are not used."""
TYPICAL_R2_PER_S_T = 13.0 / 3.0
"""What is taken off R2* where there is no R2', over B0: 13 1/s at 3 T."""
_REST = 1 / 3  # of the spread of the brain's sources, once a first estimate of them is taken out


def field_weight(
    mask: Tensor, total_field_ppm: Tensor, magnitude: Tensor | None = None, field_quality: Tensor | None = None
) -> Tensor:
    """Say how far to trust the field, voxel by voxel.

        W = quality, or without a map of it M^2 / (M^2 + (0.1 M_median)^2),    0 below ``POOR_QUALITY``

    Only voxels without signal matter: elsewhere noise is not what limits the local field, and weights that go with the
    magnitude made it worse by a percent of its SD.

    Args:
        mask: (1, X, Y, Z), above 0.5 in the brain.
        total_field_ppm: (1, X, Y, Z).
        magnitude: (E, X, Y, Z) in any unit, of which M is the root of the sum of squares. None takes M as even.
        field_quality: (1, X, Y, Z), 0 to 1.

    Returns:
        W, (1, X, Y, Z), 0 to 1, 0 outside the mask and where the field is not finite.
    """
    inside = mask > 0.5
    quality = torch.ones_like(mask)
    if field_quality is not None:
        quality = field_quality.nan_to_num(0.0).clamp(0, 1)
    elif magnitude is not None:
        signal = combine_echoes(magnitude.nan_to_num(0.0, 0.0, 0.0))
        typical = signal[inside & (signal > 0)]
        faint = _FAINT * typical.median() if len(typical) else 1.0
        quality = signal.square() / (signal.square() + faint**2)
    return torch.where(inside & total_field_ppm.isfinite() & (quality >= POOR_QUALITY), quality, 0.0)


def fill(field: Tensor, known: Tensor, mask: Tensor, voxel_size_mm: Tensor) -> Tensor:
    """Give voxels of a mask where a field is not known the mean of the known ones in the smallest ball that has some.

    Where no ball of up to 24 mm has, it is the mean of all: larger ones would need grids beyond the memory.

    Args:
        field: (1, X, Y, Z), any unit.
        known: (1, X, Y, Z), bool.
        mask: (1, X, Y, Z), above 0.5 in the brain.
        voxel_size_mm: (3,) in mm.

    Returns:
        The field, (1, X, Y, Z), finite; 0 outside the mask, and in it if nothing is known.
    """
    missing = (mask > 0.5) & ~known
    filled = torch.where(known, field, 0.0)
    radius = 2 * float(voxel_size_mm.max())
    while bool(missing.any()) and radius < _LARGEST_BALL_MM:
        box = margin_box(mask[None], voxel_size_mm, 2 * radius)
        kernel = smv_kernel(box.grid, voxel_size_mm, radius)
        cut = box.cut(torch.stack([torch.where(known, field, 0.0), known.float()]))
        total, share = box.restore(convolve(cut, kernel, box.grid))
        new = missing & (share > 0.05)
        filled = torch.where(new, total / share.clamp(min=0.05), filled)
        missing, radius = missing & ~new, 2 * radius
    return torch.where(missing, field[known].mean(), filled) if bool(missing.any() & known.any()) else filled


class RemoveBackgroundd(Transform):
    """Write ``local_field`` (ppm, 0 outside the mask) from ``total_field``, ``mask`` and the geometry.

    PDF keeps the mask; V-SHARP reduces it to where the local field is known, and ``mask`` is written anew. Voxels
    without a usable field have no weight and get the field of the sources that PDF found, or the mean around them.

    Where ``r2prime`` is there, or ``r2star``, PDF knows from it where in the brain sources can be. Where ``chi_total``
    is there, a first estimate of the brain's sources, PDF sees what their field leaves of the total field, and their
    field is added again: what it takes away from the local field is a share of the rest alone.

    Args:
        method: "pdf", "vsharp", or "pdf+vsharp", the second on what the first left.
        interior: see :func:`custom_transforms.preprocessing.pdf.project_onto_dipole_fields`.
        tolerance: likewise.
        iterations: likewise.
        radii_mm: see :func:`custom_transforms.preprocessing.vsharp.vsharp`.
        threshold: likewise.
        progress: show the iterations on standard error.

    Raises:
        ValueError: another method.
    """

    def __init__(
        self,
        *,
        method: BackgroundMethod = "pdf",
        interior: float = 0.03,
        tolerance: float = 2e-4,
        iterations: int = 100,
        radii_mm: Sequence[float] | None = None,
        threshold: float = 0.05,
        progress: bool = False,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        self.method = method
        self.interior = interior
        self.tolerance = tolerance
        self.iterations = iterations
        self.radii_mm = None if radii_mm is None else tuple(radii_mm)
        self.threshold = threshold
        self.progress = progress

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Remove the background; ``magnitude`` and ``field_quality`` weight the field where they are there."""
        reference = to_float_tensor(data[TOTAL_FIELD])
        field = reference.as_subclass(Tensor).float()
        mask, magnitude, quality = (_plain(data.get(key), field) for key in (MASK, MAGNITUDE, FIELD_QUALITY))
        if mask is None:
            raise ValueError("background removal needs a mask; give one, or run BrainMaskd before")
        voxel_size_mm, direction = (_plain(data[key], field) for key in (VOXEL_SIZE_MM, B0_DIRECTION))
        assert voxel_size_mm is not None and direction is not None
        weight = field_weight(mask, field, magnitude, quality)
        geometry = voxel_size_mm.reshape(3), direction.reshape(3)
        chi = _plain(data.get(CHI_TOTAL), field)
        explained = torch.zeros_like(field) if chi is None else _field_of(mask * chi, *geometry)
        interior = self.interior if chi is None else _REST * self.interior
        local, known = self._remove(field - explained, mask, weight, geometry, _rate(data, field), interior)
        local = local + known * explained
        result = {**data, LOCAL_FIELD: with_meta_of(local, reference)}
        if self.method != "pdf":
            result[MASK] = with_meta_of(known, data[MASK])
        found = _findings(mask, known, weight)
        return {**result, NOTES: [*data.get(NOTES, []), *found]} if found else result

    def _remove(
        self,
        field: Tensor,
        mask: Tensor,
        weight: Tensor,
        geometry: tuple[Tensor, Tensor],
        rate: Tensor | None,
        interior: float,
    ) -> tuple[Tensor, Tensor]:
        """Give the local field and the mask of where it is known."""
        known = (mask > 0.5).float()
        voxel_size_mm, direction = geometry
        if self.method == "vsharp":
            field = fill(field, weight > 0, known, voxel_size_mm)
        else:
            field = project_onto_dipole_fields(
                field,
                known,
                voxel_size_mm,
                direction,
                weight=weight,
                rate=rate,
                interior=interior,
                tolerance=self.tolerance,
                iterations=self.iterations,
                progress=ResidualBar() if self.progress else None,
            )
        if self.method == "pdf":
            return field, known
        return vsharp(field, known, voxel_size_mm, radii_mm=self.radii_mm, threshold=self.threshold)


def _field_of(chi: Tensor, voxel_size_mm: Tensor, direction: Tensor) -> Tensor:
    """Give the field (1, X, Y, Z) of a susceptibility, both in ppm."""
    return DipoleConvolution()(chi[None], voxel_size_mm[None], direction[None])[0]


def _rate(data: Mapping[Hashable, Any], like: Tensor) -> Tensor | None:
    """Give R2', or what R2* less a typical R2 says of it, (1, X, Y, Z) in 1/s; None if neither is there."""
    r2prime, r2star = (_plain(data.get(key), like) for key in (R2PRIME, R2STAR))
    if r2prime is not None or r2star is None:
        return r2prime
    return (r2star - TYPICAL_R2_PER_S_T * float(data.get(B0_TESLA, 3.0))).clamp(min=0.0)


def _plain(value: Any, like: Tensor) -> Tensor | None:
    return None if value is None else to_float_tensor(value).as_subclass(Tensor).to(like.device, torch.float32)


def _findings(mask: Tensor, known: Tensor, weight: Tensor) -> list[str]:
    """Say what a reader of the local field should know."""
    inside = mask > 0.5
    notes = []
    poor = 100 * float((inside & (weight == 0)).sum() / inside.sum())
    if poor >= 0.1:
        notes.append(f"background removal: {poor:.1f} % of the mask has no usable field; it was filled in")
    lost = 100 * (1 - float(known.sum() / inside.sum()))
    if lost >= 0.1:
        notes.append(f"background removal by V-SHARP took {lost:.1f} % of the mask away, at its rim")
    return notes
