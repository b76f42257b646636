r"""Background field removal by projection onto dipole fields (PDF), with room for the brain's own sources.

    minimise over chi, c    1/2 |W (f - D chi - A c)|^2 / sigma^2 + 1/2 |chi / s|^2
    local field = f - D chi_out - A_1 c_1,    A = [A_1 | A_2] = [1, |x|^2 | D r, D r^2]

f is the total field, chi the susceptibility on a grid with a margin around the brain, chi_out its part outside the
mask, W the weight (0 outside the mask) and s the standard deviation of chi: 1 outside and ``interior`` inside. A_1 c_1
is a constant and a multiple of |x|^2, which is no field of anything outside and is left by what is not a field, such as
the phase of a coil.

In the PDF of 2011 the brain has no sources (interior = 0): what dipoles outside can explain is background, and a third
of the local field goes with it, most near the rim. With a weak prior for the brain's own sources, as in total field
inversion, the two compete, and the background takes what costs it less. The scale of s cancels; only ratios matter, and
as chi is white noise that is sampled, they are the same for every voxel size.

R2' says where these sources can be: |chi| <= R2' / Dr, so there are none in fluid. With r = R2' over its median, s in
the brain is ``interior`` times r, and A_2 c_2 is the field of sources that follow r and its square. The smooth field of
the brain's mean susceptibility, which looks like background, then stays with the detail that goes with it. No
number of R2' enters but its shape, so its scale and Dr do not matter.

References:
    Liu 2011, doi:10.1002/nbm.1670 (PDF); Liu 2017, doi:10.1002/mrm.26331 (total field inversion).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from custom_transforms.classical.brain_box import BrainBox
from custom_transforms.classical.convergence import Progress, Residual, StoppingRule
from custom_transforms.physics.dipole import default_geometry, fast_fft_length, kernel_for
from custom_transforms.preprocessing.pdf_model import (
    FieldModel,
    convolve_periodic,
    curvature,
    orthonormalise,
    slice_profile,
)

_SIGMA = 0.003  # of the field over s outside: what the model leaves, not noise alone; with 0.01 the error is larger
_BACKGROUND_COLUMNS = 2
_LEAST, _LARGEST = 0.1, 4.0  # of the rate over its median: fluid is never quite sure, and R2' near air is too large


def margin_box(mask: Tensor, voxel_size_mm: Tensor, margin_mm: float) -> BrainBox:
    """Lay a box around a mask (1, 1, X, Y, Z), on a periodic grid with a margin in mm and fast FFT lengths."""
    box = BrainBox.around(mask, padding=0)
    margin = [math.ceil(margin_mm / float(v)) for v in voxel_size_mm]
    return replace(box, grid=[fast_fft_length(n + m) for n, m in zip(box.shape, margin, strict=True)])


def relative_rate(rate: Tensor, mask: Tensor) -> Tensor:
    """Give r, a rate over its median in the mask, 0 to 4 and 1 where it is not finite; (1, X, Y, Z), 0 outside."""
    inside = mask > 0.5
    known = rate[inside & rate.isfinite()].clamp(min=0)
    median = float(known.median()) if len(known) else 0.0
    if not median > 0:
        return inside.to(rate)
    relative = (rate / median).clamp(0.0, _LARGEST)
    return torch.where(inside, torch.where(rate.isfinite(), relative, 1.0), 0.0)


def _model(
    box: BrainBox,
    brain: Tensor,
    weight: Tensor,
    geometry: tuple[Tensor, Tensor],
    relative: Tensor | None,
    interior: float,
) -> FieldModel:
    """Make the model on the grid of a box, all maps (X, Y, Z) on it."""
    size, direction = geometry
    kernel = kernel_for(box.grid, size, direction)[0, 0] * slice_profile(box.grid, size[0])
    columns = [torch.ones_like(weight), curvature(weight, size[0])]
    spread = torch.full_like(brain, interior)
    if relative is not None:
        columns += [convolve_periodic(relative**power, kernel) for power in (1, 2)]
        spread = interior * relative.clamp(min=_LEAST)
    stacked = torch.stack(columns)
    weight = weight / _SIGMA
    mixing, basis = orthonormalise(stacked, weight)
    spread = torch.where(brain > 0, spread, 1.0)
    return FieldModel(kernel=kernel, spread=spread, weight=weight, columns=stacked, mixing=mixing, basis=basis)


def _solve(model: FieldModel, field: Tensor, rule: StoppingRule, progress: Progress | None) -> Tensor:
    """Minimise by preconditioned conjugate gradients; give chi, (X, Y, Z)."""
    scale = model.preconditioner()
    r = model.gradient(field)
    y, z = torch.zeros_like(r), scale * r
    p, norm = z.clone(), float((r * z).sum())
    start = norm
    for iteration in range(1, rule.iterations + 1):
        if not norm > 0:
            break
        q = model.normal(p)
        step = norm / float((p * q).sum())
        y.add_(p, alpha=step)
        r.sub_(q, alpha=step)
        z = scale * r
        before, norm = norm, float((r * z).sum())
        p.mul_(norm / before).add_(z)
        residual = Residual(iteration, math.sqrt(norm / start), math.sqrt(norm / start))
        if progress is not None:
            progress(residual)
        if rule.is_met(residual):
            break
    return y.mul_(model.spread)


def project_onto_dipole_fields(
    total_field_ppm: Tensor,
    mask: Tensor,
    voxel_size_mm: Tensor,
    b0_direction: Tensor,
    *,
    weight: Tensor | None = None,
    rate: Tensor | None = None,
    interior: float = 0.03,
    margin_mm: float = 10.0,
    tolerance: float = 2e-4,
    iterations: int = 100,
    progress: Progress | None = None,
) -> Tensor:
    """Remove the background field by the equation at the head of this module.

    Args:
        total_field_ppm: (1, X, Y, Z) in ppm of B0; float64 is computed in that, all else in float32. A value that is
            not finite counts as not measured.
        mask: (1, X, Y, Z), above 0.5 in the brain.
        voxel_size_mm: (3,) in mm.
        b0_direction: (3,) unit vector in voxel axes.
        weight: W, (1, X, Y, Z), 0 to 1; 0 where the field was not measured. None is 1.
        rate: R2', (1, X, Y, Z) in any unit, 0 or more; or R2*, less what of it is R2. None: the brain's sources are
            alike everywhere.
        interior: s inside over s outside, at the median of the rate; 0 is the PDF of 2011 but for A_2.
        margin_mm: around the box of the brain, room for sources.
        tolerance: of the relative residual of the normal equations, at which the iteration stops.
        iterations: at most.
        progress: is called with the residual of each iteration.

    Returns:
        The local field in ppm, (1, X, Y, Z), 0 outside the mask. Where the weight is 0 it is that of the sources found
        in the brain.

    Raises:
        ValueError: shapes that differ, an empty mask, weights that are all 0, a negative ``interior``.

    References:
        Liu 2011, doi:10.1002/nbm.1670; Liu 2017, doi:10.1002/mrm.26331.
    """
    if total_field_ppm.shape != mask.shape or total_field_ppm.ndim != 4:
        shapes = f"{tuple(total_field_ppm.shape)} and {tuple(mask.shape)}"
        raise ValueError(f"the total field and its mask must both be (1, X, Y, Z), got {shapes}")
    if interior < 0:
        raise ValueError(f"interior must not be negative, got {interior}; 0.03 is usual, 0 is PDF without sources")
    total = total_field_ppm[None] if total_field_ppm.dtype == torch.float64 else total_field_ppm[None].float()
    inside = (mask[None] > 0.5).to(total)
    voxel_size_mm, b0_direction = default_geometry(total, voxel_size_mm[None], b0_direction[None])
    weight = inside if weight is None else inside * weight[None].to(total)
    weight = weight.where(total.isfinite(), 0.0)
    if not bool((weight > 0).any()):
        raise ValueError("the weight is 0 everywhere in the mask: no voxel has a field; check field and quality map")
    box = margin_box(inside, voxel_size_mm[0], margin_mm)
    relative = None if rate is None else box.cut(relative_rate(rate[None].to(total), inside))[0, 0]
    field, brain, weight = (box.cut(x)[0, 0] for x in (total.nan_to_num(0.0, 0.0, 0.0), inside, weight))
    model = _model(box, brain, weight, (voxel_size_mm, b0_direction), relative, interior)
    local = _local_field(model, field, brain, _solve(model, field, StoppingRule(tolerance, iterations), progress))
    return box.restore(local[None, None])[0]


def _local_field(model: FieldModel, field: Tensor, brain: Tensor, chi: Tensor) -> Tensor:
    """Take the field of the sources outside and the trend out of the total field."""
    own, outside = model.field(chi * brain), model.field(chi * (1 - brain))
    parts = model.parts(field - outside - own)
    own += parts[_BACKGROUND_COLUMNS:].sum(dim=0)
    local = field - outside - parts[:_BACKGROUND_COLUMNS].sum(dim=0)
    return brain * torch.where(model.weight > 0, local, own)
