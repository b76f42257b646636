r"""Does the field have the right sign? Deep grey matter and veins, where R2* is highest, are paramagnetic.

    chi = TKD(local field),    d = median of chi where R2* is highest - median of chi in the mask

With the wrong sign of the phase d is negative. It is tested against its own noise: the scatter of chi where R2* is
highest, with neighbouring voxels counted as one sample.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from monai.transforms import Transform
from torch import Tensor

from custom_transforms.classical import TKDSusceptibility
from custom_transforms.keys import (
    B0_DIRECTION,
    ECHO_TIMES_S,
    LOCAL_FIELD,
    MAGNITUDE,
    MASK,
    NOTES,
    R2STAR,
    TOTAL_FIELD,
    VENDOR,
    VOXEL_SIZE_MM,
)
from custom_transforms.phantom.filters import gaussian_smooth
from custom_transforms.preprocessing.phase import phase_sign
from custom_transforms.relaxometry import combine_echoes, fit_r2star
from custom_transforms.transforms.base import to_float_tensor, with_meta_of

PhaseSign = Literal["auto", 1, -1]

_VOXEL_MM = 2.0  # on which the test is made
_RIM_MM = 5.0  # left out: field and R2* are least certain there
_HIGHEST = 0.015  # share of the mask with the highest R2*
_FEWEST = 20  # voxels for a test
_CLUSTER = 8.0  # voxels that make one independent sample
_DECIDED_SD = 4.0
_LEAST_PPM = {True: 0.015, False: 0.03}  # with R2* and, as proton density shows in it, with one magnitude
_BIAS_MM = 15.0  # over which the sensitivity of the coil varies
_THRESHOLD = 0.2  # of TKD: less streaking than detail is wanted here
_SD_PER_MAD = 1.4826
_MEDIAN_SD = math.sqrt(math.pi / 2)  # of the median of n normal samples, times sqrt(n)


@dataclass(frozen=True)
class SignTest:
    """What :func:`check_sign` found.

    Attributes:
        difference_ppm: d.
        noise_ppm: SD of d.
        voxels: number of those with the highest R2*.
        least_ppm: smaller differences tell nothing.
    """

    difference_ppm: float
    noise_ppm: float
    voxels: int
    least_ppm: float = _LEAST_PPM[True]

    @property
    def sign(self) -> int:
        """+1 if the field's sign is right, -1 if it is wrong, 0 if that cannot be told."""
        if self.voxels < _FEWEST or abs(self.difference_ppm) < max(_DECIDED_SD * self.noise_ppm, self.least_ppm):
            return 0
        return 1 if self.difference_ppm > 0 else -1


def _pool(maps: Tensor, mask: Tensor, factors: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Average maps (C, X, Y, Z) over the voxels of the mask; give the coarse mask, too."""
    margin = [-n % f for n, f in zip(mask.shape[-3:], factors, strict=True)]
    pad = (0, margin[2], 0, margin[1], 0, margin[0])
    share = F.avg_pool3d(F.pad(mask, pad)[None], tuple(factors))[0]
    pooled = F.avg_pool3d(F.pad(maps * mask, pad)[None], tuple(factors))[0]
    return pooled / share.clamp(min=torch.finfo(share.dtype).eps), (share > 0.5).to(maps.dtype)


def _erode(mask: Tensor, voxel_size_mm: Sequence[float]) -> Tensor:
    """Take the rim away, or as much of it as leaves something."""
    for rim_mm in (_RIM_MM, _RIM_MM / 2):
        reach = [round(rim_mm / v) for v in voxel_size_mm]
        outside = F.pad(1 - mask, [r for n in reversed(reach) for r in (n, n)], value=1.0)
        core = 1 - F.max_pool3d(outside[None], [2 * n + 1 for n in reach], stride=1)[0]
        if float(core.sum()) * _HIGHEST >= _FEWEST:
            return core > 0.5
    return mask > 0.5


def _darkness(magnitude: Tensor, mask: Tensor, voxel_size_mm: Sequence[float]) -> Tensor:
    """Stand in for R2* without one: -log of the magnitude, less what varies as slowly as a coil's sensitivity."""
    log = magnitude.clamp(min=1e-4 * float(magnitude.max())).log() * mask
    sigma = _BIAS_MM / (sum(voxel_size_mm) / 3)
    slow, share = gaussian_smooth(torch.cat([log, mask]), sigma_voxels=sigma).split(1)
    return slow / share.clamp(min=1e-6) - log


def check_sign(
    local_field: Tensor,
    mask: Tensor,
    voxel_size_mm: Tensor,
    b0_direction: Tensor,
    *,
    r2star: Tensor | None = None,
    magnitude: Tensor | None = None,
    echo_times_s: Sequence[float] = (),
) -> SignTest:
    """Test the sign of a local field, as the head of the module says.

    Args:
        local_field: (1, X, Y, Z), ppm.
        mask: (1, X, Y, Z), above 0.5 inside.
        voxel_size_mm: (3,) in mm.
        b0_direction: (3,), unit vector in voxel axes.
        r2star: (1, X, Y, Z) in 1/s; without it R2* is fitted to the magnitudes, or one magnitude stands in for it.
        magnitude: (E, X, Y, Z), any unit.
        echo_times_s: echo times of the magnitudes in s.

    Returns:
        The finding.

    Raises:
        ValueError: neither R2* nor a magnitude is there.
    """
    if r2star is None and magnitude is None:
        raise ValueError("the test of the sign needs r2star or magnitude; give one of them or an explicit sign")
    factors = [max(1, round(_VOXEL_MM / float(v))) for v in voxel_size_mm]
    inside = (mask > 0.5).to(local_field.dtype)
    contrast = r2star if r2star is not None else magnitude
    maps, coarse = _pool(torch.cat([local_field, contrast]).nan_to_num(), inside, factors)  # type: ignore[list-item]
    size_mm = [float(v) * f for v, f in zip(voxel_size_mm, factors, strict=True)]
    field, contrast = maps[:1], maps[1:]
    several = len(contrast) > 1 and len(contrast) == len(echo_times_s)
    if r2star is None:
        contrast = fit_r2star(contrast, echo_times_s)[0] if several else combine_echoes(contrast)
        contrast = contrast if several else _darkness(contrast, coarse, size_mm)
    image = torch.cat([field, torch.zeros_like(field), coarse])[None]
    size = torch.tensor([size_mm], dtype=field.dtype, device=field.device)
    chi = TKDSusceptibility(threshold=_THRESHOLD)(image, size, b0_direction.reshape(1, 3))[0]
    core = _erode(coarse, size_mm)
    return _compare(chi[core], contrast[core], _LEAST_PPM[several or r2star is not None])


def _compare(chi: Tensor, contrast: Tensor, least_ppm: float) -> SignTest:
    if chi.numel() == 0:
        return SignTest(0.0, math.inf, 0)
    count = max(1, round(_HIGHEST * chi.numel()))
    highest = chi[contrast.topk(count).indices]
    scatter = _SD_PER_MAD * float((highest - highest.median()).abs().median())
    noise = _MEDIAN_SD * scatter / math.sqrt(max(1.0, count / _CLUSTER))
    return SignTest(float(highest.median() - chi.median()), noise, count, least_ppm)


class CheckPhaseSignd(Transform):
    """Give ``total_field`` and ``local_field`` the right sign.

    They come with the sign of the vendor's entry in :data:`custom_transforms.preprocessing.phase.PHASE_SIGN`. An
    explicit sign replaces that entry. With "auto" both are inverted if :func:`check_sign` finds them inverted; where it
    finds nothing, the entry stays. What was done, and a test that disagrees with an explicit sign, are notes.

    Args:
        sign: "auto", or +1 where the phase grows with the field, or -1.
    """

    def __init__(self, *, sign: PhaseSign = "auto") -> None:
        if sign not in ("auto", 1, -1):
            raise ValueError(f"the sign of the phase must be auto, 1 or -1, got {sign!r}")
        self.sign = sign

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check the sign with ``mask``, the geometry, and ``r2star`` or ``magnitude``."""
        table = phase_sign(data.get(VENDOR))
        tested = self._test(data)
        agrees = table * tested.sign  # the sign of the phase by the test, 0 if it does not tell
        chosen = self.sign if self.sign != "auto" else agrees or table
        note = _note(data.get(VENDOR), tested, table=table, agrees=agrees, chosen=chosen, explicit=self.sign != "auto")
        result = dict(data)
        for key in (TOTAL_FIELD, LOCAL_FIELD):
            if chosen != table and data.get(key) is not None:
                field = to_float_tensor(data[key])
                result[key] = with_meta_of(-field.as_subclass(Tensor), field)
        result[NOTES] = [*data.get(NOTES, []), *([note] if note else [])]
        return result

    def _test(self, data: Mapping[Hashable, Any]) -> SignTest:
        field, mask, r2star, magnitude = (
            None if data.get(key) is None else to_float_tensor(data[key]).as_subclass(Tensor)
            for key in (LOCAL_FIELD, MASK, R2STAR, MAGNITUDE)
        )
        if field is None or mask is None or (r2star is None and magnitude is None):
            return SignTest(0.0, math.inf, 0)
        voxel, b0 = (torch.as_tensor(data[key]).as_subclass(Tensor) for key in (VOXEL_SIZE_MM, B0_DIRECTION))
        times = data.get(ECHO_TIMES_S, ())
        return check_sign(field, mask, voxel, b0, r2star=r2star, magnitude=magnitude, echo_times_s=times)


def _note(vendor: str | None, tested: SignTest, *, table: int, agrees: int, chosen: int, explicit: bool) -> str | None:
    found = f"where R2* is highest chi is {tested.difference_ppm:+.3f} +- {tested.noise_ppm:.3f} ppm"
    found = found if tested.voxels >= _FEWEST else "too little of the brain is there, or neither R2* nor magnitude"
    if explicit:
        return None if agrees in (0, chosen) else (
            f"a phase sign of {chosen:+d} was given, but {found} with that of {table:+d}: the maps look inverted"
        )  # fmt: skip
    known = f"{table:+d} for {vendor}" if vendor else f"{table:+d} for an unknown vendor"
    if agrees == 0:
        return f"the sign of the phase could not be tested ({found}); it was taken to be {known}"
    if chosen != table:
        return (
            f"the field was inverted: {found} with the usual phase sign, {known}; to keep it give --phase_sign {table}"
        )
    return None
