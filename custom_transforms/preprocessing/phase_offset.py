r"""The phase that the echoes have at echo time 0, from the combination of coils, and its removal.

    phi0 = phi_1 - t_1 unwrap(phi_b - phi_a) / (t_b - t_a)

with a, b the successive echoes of the shortest spacing (MCPC-3D-S for any spacing). phi0 is smooth in space, its noise
is not. So phi0 is averaged on coarse voxels as a phasor, unwrapped, and fitted around every coarse voxel by a plane
with the weights of a Gaussian (normalised convolution): at the rim, where neighbours lie on one side only, a plain
Gaussian average would be off by the slope of phi0.

References:
    Eckstein 2018, doi:10.1002/mrm.26963 (MCPC-3D-S).
    Knutsson and Westin 1993, doi:10.1109/CVPR.1993.341081 (normalised convolution).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.transforms import Transform
from torch import Tensor

from custom_transforms.keys import ECHO_TIMES_S, MAGNITUDE, MASK, NOTES, PHASE, VOXEL_SIZE_MM
from custom_transforms.preprocessing.unwrapping import mask_box, phase_gained, unwrap_volume, wrap
from custom_transforms.transforms.base import to_float_tensor, with_meta_of

_COARSE_PER_SMOOTH = 1.5  # coarse voxels in one SD of the Gaussian
_REACH_SD = 3.0
_NEAREST = 1e-6  # sum of relative weights from which a voxel is near enough to the mask
_RIDGE = 1e-3  # of the plane's slope, relative: one neighbour in line leaves it undetermined
_BIPOLAR_RAD = 0.5  # ramp across the mask from which the readout is called bipolar
_BIPOLAR_ECHOES = 3


def _moments(maps: Tensor, sigma_voxels: Sequence[float], powers: Sequence[int]) -> Tensor:
    """Correlate (C, X, Y, Z) with the product over axes of x^power exp(-x^2 / (2 sigma^2)), x in SDs."""
    for axis, (sigma, power) in enumerate(zip(sigma_voxels, powers, strict=True)):
        reach = math.ceil(_REACH_SD * sigma)
        x = torch.arange(-reach, reach + 1, dtype=maps.dtype, device=maps.device) / sigma
        kernel = x**power * (-0.5 * x**2).exp()
        lines = maps.movedim(axis + 1, -1)
        flat = F.conv1d(lines.reshape(-1, 1, lines.shape[-1]), kernel[None, None], padding=reach)
        maps = flat.reshape(lines.shape).movedim(-1, axis + 1)
    return maps


def _sum(p: tuple[int, ...], q: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(p, q, strict=True))


def _fit_planes(values: Tensor, weights: Tensor, sigma_voxels: Sequence[float]) -> Tensor:
    """Fit a plane around every voxel by weighted least squares; give its value there, (1, X, Y, Z)."""
    basis: list[tuple[int, ...]] = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    both = torch.cat([weights, weights * values])
    known: dict[tuple[int, ...], Tensor] = {}
    for powers in {_sum(p, q) for p in basis for q in basis}:
        known[powers] = _moments(both, sigma_voxels, powers)
    near = known[basis[0]][0] > _NEAREST
    rows = [torch.stack([known[_sum(p, q)][0][near] for q in basis], -1) for p in basis]
    normal, right = torch.stack(rows, -2).double(), torch.stack([known[p][1][near] for p in basis], -1).double()
    ridge = torch.diag(torch.tensor([0.0, _RIDGE, _RIDGE, _RIDGE], dtype=torch.float64, device=values.device))
    fitted = torch.zeros_like(values)
    fitted[0, near] = torch.linalg.solve(normal + normal[:, :1, :1] * ridge, right)[:, 0].to(values.dtype)
    return fitted


def _smooth_phase(phasor: Tensor, voxel_size_mm: Sequence[float], smooth_mm: float) -> Tensor:
    """Smooth the angle of a weighted phasor (1, X, Y, Z), complex, 0 where nothing is known; give it unwrapped."""
    shape = phasor.shape[-3:]
    pool = [
        max(1, min(n, round(smooth_mm / _COARSE_PER_SMOOTH / v))) for n, v in zip(shape, voxel_size_mm, strict=True)
    ]
    parts = torch.cat([phasor.real, phasor.imag, phasor.abs()])
    pad = [(p, p - n % -p) for n, p in zip(shape, pool, strict=True)]  # a coarse voxel around, and what fills the last
    padded = F.pad(parts, [margin for ends in reversed(pad) for margin in ends])
    real, imaginary, weight = F.avg_pool3d(padded[None], pool)[0].split(1)
    angle = unwrap_volume(torch.atan2(imaginary, real), weight.sign())
    sigma = [smooth_mm / (v * p) for v, p in zip(voxel_size_mm, pool, strict=True)]
    fitted = _fit_planes(angle, weight / weight.max(), sigma)
    full = F.interpolate(fitted[None], size=padded.shape[-3:], mode="trilinear", align_corners=False)[0]
    return full[:, pool[0] :, pool[1] :, pool[2] :][:, : shape[0], : shape[1], : shape[2]]


def phase_offset(
    magnitude: Tensor,
    phase: Tensor,
    echo_times_s: Sequence[float],
    voxel_size_mm: Sequence[float],
    mask: Tensor,
    *,
    smooth_mm: float = 6.0,
) -> Tensor:
    """Estimate the phase at echo time 0, as the head of the module says.

    Args:
        magnitude: (E, X, Y, Z), two echoes or more, any unit.
        phase: (E, X, Y, Z), wrapped, rad.
        echo_times_s: the E echo times in s.
        voxel_size_mm: (3,) in mm.
        mask: (1, X, Y, Z), above 0.5 inside.
        smooth_mm: SD of the Gaussian in mm.

    Returns:
        phi0 in rad, unwrapped, (1, X, Y, Z); 0 outside the mask.

    Raises:
        ValueError: a single echo, which does not show its offset, or a width that is not positive.
    """
    if len(echo_times_s) < 2 or not smooth_mm > 0:
        raise ValueError(f"the offset needs two echoes and a positive smooth_mm, got {len(echo_times_s)}, {smooth_mm}")
    box = mask_box(mask)
    inside, phase, magnitude = mask[box] > 0.5, phase[box], magnitude[box]
    gained, i = phase_gained(phase, echo_times_s, mask[box])
    raw = phase[:1] - gained * (echo_times_s[0] / (echo_times_s[i + 1] - echo_times_s[i]))
    weight = inside * magnitude[i : i + 1] * magnitude[i + 1 : i + 2]
    weight = weight / weight.max().clamp(min=torch.finfo(weight.dtype).tiny)
    smooth = _smooth_phase(torch.polar(weight, raw), [float(v) for v in voxel_size_mm], smooth_mm)
    offset = torch.zeros_like(mask, dtype=phase.dtype)
    offset[box] = torch.where(inside, smooth, 0.0)
    return offset


def bipolar_ramp(
    magnitude: Tensor, phase: Tensor, echo_times_s: Sequence[float], mask: Tensor
) -> tuple[float, int] | None:
    r"""Look for a difference between odd and even echoes that grows along an axis, as a bipolar readout leaves it.

        c = arg exp(i [phi_3 - phi_2 - (t_3 - t_2) / (t_2 - t_1) unwrap(phi_2 - phi_1)]),    0 in a monopolar readout

    Its mean step from voxel to voxel along an axis, times the voxels that the mask spans, is the ramp.

    Args:
        magnitude: (E, X, Y, Z), any unit.
        phase: (E, X, Y, Z), wrapped, rad.
        echo_times_s: the E echo times in s.
        mask: (1, X, Y, Z), above 0.5 inside.

    Returns:
        The largest ramp in rad and its axis (0, 1, 2); None if there are fewer than three echoes.
    """
    if len(echo_times_s) < _BIPOLAR_ECHOES:
        return None
    first, second, third = echo_times_s[:3]
    gained = unwrap_volume(wrap(phase[1:2] - phase[:1]), mask)
    curvature = phase[2:3] - phase[1:2] - gained * ((third - second) / (second - first))
    signal = torch.polar((mask > 0.5) * magnitude[2:3], curvature)[0]
    ramps = []
    for axis in range(3):
        n = signal.shape[axis]
        step = (signal.narrow(axis, 1, n - 1) * signal.narrow(axis, 0, n - 1).conj()).sum().angle()
        occupied = (mask[0] > 0.5).movedim(axis, 0).reshape(n, -1).any(dim=1).nonzero()
        ramps.append(abs(float(step)) * float(occupied.max() - occupied.min()))
    return max(ramps), ramps.index(max(ramps))


class RemovePhaseOffsetd(Transform):
    """Subtract :func:`phase_offset` from all echoes of ``phase``, and say if the readout looks bipolar.

    A single echo stays as it is: its offset cannot be told from its field.

    Args:
        smooth_mm: see :func:`phase_offset`.
    """

    def __init__(self, *, smooth_mm: float = 6.0) -> None:
        self.smooth_mm = smooth_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Remove the offset with ``magnitude``, ``echo_times_s``, ``voxel_size_mm`` and ``mask``."""
        phase = to_float_tensor(data[PHASE])
        plain, magnitude, mask = (to_float_tensor(data[k]).as_subclass(Tensor) for k in (PHASE, MAGNITUDE, MASK))
        times, notes = data[ECHO_TIMES_S], list(data.get(NOTES, []))
        if len(times) < 2:
            note = "there is one echo: the phase offset of the coils could not be removed and adds to the field"
            return {**data, NOTES: [*notes, note]}
        offset = phase_offset(magnitude, plain, times, data[VOXEL_SIZE_MM], mask, smooth_mm=self.smooth_mm)
        found = bipolar_ramp(magnitude, plain, times, mask)
        if found is not None and found[0] > _BIPOLAR_RAD:
            notes.append(
                f"odd and even echoes differ by a phase that changes by {found[0]:.1f} rad across the mask along axis "
                f"{found[1] + 1}, as in a bipolar readout, and it was not corrected; it lowers the quality of the field"
            )
        return {**data, PHASE: with_meta_of(wrap(plain - offset), phase), NOTES: notes}
