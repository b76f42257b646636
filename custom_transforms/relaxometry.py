r"""Fits of a multi-echo signal, voxel by voxel, and the standard deviations that noise leaves in them.

    s(t) = s0 exp(-R t) exp(i 2 pi gamma_bar B0 f t) + n,    n complex Gaussian, SD sigma in each channel

R is R2* for gradient echoes and R2 for spin echoes, f the field in ppm of B0. The phase is that of a combined coil
signal: it is zero at t = 0. The echo axis is the fourth from the end, so that a batch axis may lead or be absent.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .physics import field_ppm_to_phase_rad, phase_rad_to_field_ppm

_FAINTEST = 1e-4  # of the brightest echo: bounds logarithms and weights, an order below the noise of any scanner
_PHASE_SD_OF_NOISE_RAD = math.pi / math.sqrt(3)  # uniform on a turn
_LOG_SD_OF_NOISE = math.pi / math.sqrt(24)  # logarithm of a Rayleigh variable


def combine_echoes(magnitude: Tensor) -> Tensor:
    """Give the root of the sum of squares over echoes, (1, X, Y, Z), of magnitudes (echoes, X, Y, Z), same unit."""
    return magnitude.square().sum(dim=0, keepdim=True).sqrt()


def check_echo_times(echo_times_s: Sequence[float]) -> None:
    """Refuse echo times that do not allow a fit.

    Raises:
        ValueError: fewer than two, not positive, or not increasing.
    """
    times = [0.0, *map(float, echo_times_s)]
    if len(times) < 3 or any(later <= earlier for earlier, later in pairwise(times)):
        raise ValueError(f"echo_times_s must be two or more increasing positive times in s, got {times[1:]}")


def _times(echo_times_s: Sequence[float], echoes: Tensor) -> Tensor:
    check_echo_times(echo_times_s)
    if echoes.ndim < 4 or echoes.shape[-4] != len(echo_times_s):
        raise ValueError(
            f"expected echoes of shape (..., {len(echo_times_s)}, X, Y, Z), one for each of echo_times_s, "
            f"got {tuple(echoes.shape)}"
        )
    dtype = torch.float64 if echoes.dtype in (torch.float64, torch.complex128) else torch.float32
    return torch.tensor(echo_times_s, dtype=dtype, device=echoes.device).reshape(-1, 1, 1, 1)


def _weighted_line(t: Tensor, y: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fit y = mean_y + slope (t - mean_t) over the echo axis."""
    tiny = torch.finfo(y.dtype).tiny
    total = weights.sum(-4, keepdim=True).clamp(min=tiny)
    mean_t = (weights * t).sum(-4, keepdim=True) / total
    mean_y = (weights * y).sum(-4, keepdim=True) / total
    centred = weights * (t - mean_t)
    slope = (centred * y).sum(-4, keepdim=True) / (centred * (t - mean_t)).sum(-4, keepdim=True).clamp(min=tiny)
    return slope, mean_t, mean_y


def fit_r2star(magnitude: Tensor, echo_times_s: Sequence[float], *, reweightings: int = 3) -> tuple[Tensor, Tensor]:
    r"""Fit a mono-exponential decay by a weighted straight line through the logarithm.

        min over R, s0 of  sum_j w_j (log s_j - log s0 + R t_j)^2,    w_j = s_j^2, the inverse variance of log s_j

    Then the weights are taken from the fitted decay and the line is fitted again: noise no longer chooses its own
    weights, and late echoes on the noise floor no longer flatten the line. Without weights R2* saturates there.

    Args:
        magnitude: (..., E, X, Y, Z), E echoes, any unit.
        echo_times_s: the E echo times in s.
        reweightings: how often the weights are taken from the fit.

    Returns:
        R >= 0 in 1/s and s0 in the magnitude's unit, each (..., 1, X, Y, Z); both 0 where there is no signal.

    Raises:
        ValueError: echo times that do not increase or do not match the echoes.

    References:
        Gudbjartsson and Patz 1995, doi:10.1002/mrm.1910340618 (noise of magnitudes, whose floor this avoids).
    """
    t = _times(echo_times_s, magnitude)
    magnitude = magnitude.to(t.dtype)
    peak = magnitude.amax(-4, keepdim=True)
    relative = magnitude / torch.where(peak > 0, peak, 1.0)
    log_signal = relative.clamp(min=_FAINTEST).log()
    slope, mean_t, mean_log = _weighted_line(t, log_signal, relative.square())
    for _ in range(reweightings):
        decay = (slope.clamp(max=0) * (t - t[0])).exp()
        slope, mean_t, mean_log = _weighted_line(t, log_signal, decay.clamp(min=_FAINTEST).square())
    rate = (-slope).clamp(min=0)
    return rate, peak * (mean_log + rate * mean_t).exp()


def fit_r2(magnitude: Tensor, echo_times_s: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Fit R2 (1/s) and s0 to spin-echo magnitudes: the mono-exponential fit of :func:`fit_r2star`."""
    return fit_r2star(magnitude, echo_times_s)


def r2prime_from_r2star(r2star_per_s: Tensor, r2_per_s: Tensor) -> Tensor:
    """Give R2' = max(R2* - R2, 0) in 1/s, any shape."""
    return (r2star_per_s - r2_per_s).clamp(min=0)


def _coarse_field(echoes: Tensor, t: Tensor, b0_tesla: float, sign: int) -> Tensor:
    """Give the field from the phase gained between echoes of the shortest spacing, averaged as phasors."""
    spacing = t[1:] - t[:-1]
    shortest = spacing.min()
    pairs = (spacing < 1.001 * shortest).flatten()
    gained = (echoes[..., 1:, :, :, :] * echoes[..., :-1, :, :, :].conj())[..., pairs, :, :, :].sum(-4, keepdim=True)
    return phase_rad_to_field_ppm(gained.angle(), float(shortest), b0_tesla, sign=sign)


def fit_field(
    echoes: Tensor,
    echo_times_s: Sequence[float],
    *,
    b0_tesla: float,
    sign: int = 1,
    reference_ppm: Tensor | None = None,
) -> Tensor:
    r"""Fit the field to the phase of the echoes by a line through the origin.

        f = sign sum_j w_j t_j phi_j / sum_j w_j t_j^2 / (2 pi gamma_bar B0),    w_j = |s_j|^2

    The phase is unwrapped along time only, about a first estimate from the phase gained from echo to echo. That is
    right for |f| < 1 / (2 dTE gamma_bar B0) with the shortest echo spacing dTE: 0.65 ppm for 6 ms at 3 T. For larger
    fields give ``reference_ppm`` from a spatial unwrapping; the phase is then unwrapped about it.

    Args:
        echoes: (..., E, X, Y, Z) complex; from magnitude and phase: ``torch.polar(magnitude, phase)``.
        echo_times_s: the E echo times in s.
        b0_tesla: main field in T.
        sign: +1 where phase grows with the field, else -1.
        reference_ppm: (..., 1, X, Y, Z) estimate within 1 / (2 TE gamma_bar B0) of the field for every echo, or None.

    Returns:
        Field in ppm of B0, (..., 1, X, Y, Z); 0 where there is no signal.

    Raises:
        ValueError: echoes that are not complex, echo times that do not increase or do not match them, a wrong sign.
    """
    if not echoes.is_complex():
        raise ValueError(f"expected complex echoes, got {echoes.dtype}; use torch.polar(magnitude, phase)")
    t = _times(echo_times_s, echoes)
    if reference_ppm is None:
        reference_ppm = _coarse_field(echoes, t, b0_tesla, sign)
    expected = field_ppm_to_phase_rad(reference_ppm, 1.0, b0_tesla, sign=sign) * t
    residual = (echoes * torch.polar(torch.ones_like(expected), -expected)).angle()
    weighted = echoes.real.square().add_(echoes.imag.square()).mul_(t)
    moment = (weighted * t).sum(-4, keepdim=True).clamp(min=torch.finfo(t.dtype).tiny)
    slope = (weighted * residual).sum(-4, keepdim=True) / moment
    correction = phase_rad_to_field_ppm(slope, 1.0, b0_tesla, sign=sign)
    return reference_ppm + correction


def r2star_sd(rate_per_s: Tensor, s0: Tensor, echo_times_s: Sequence[float], noise_sd: Tensor) -> Tensor:
    r"""Give the standard deviation of :func:`fit_r2star` and :func:`fit_r2` (the Cramer-Rao bound).

        SD = sigma / sqrt(sum_j s_j^2 (t_j - t_mean)^2),    t_mean = sum_j s_j^2 t_j / sum_j s_j^2

    It saturates where the second echo is noise: at the scatter of log s_2 there over the first echo spacing.

    Args:
        rate_per_s: R2* or R2 in 1/s, (..., 1, X, Y, Z).
        s0: signal at echo time 0, same shape.
        echo_times_s: echo times in s.
        noise_sd: sigma of one channel, in the unit of s0, broadcast against the maps.

    Returns:
        SD in 1/s, same shape as the maps.
    """
    middle = sum(echo_times_s) / len(echo_times_s)  # moments about it lose few digits to cancellation
    sums = [torch.zeros_like(rate_per_s) for _ in range(3)]
    for time in echo_times_s:
        power = (s0 * (-time * rate_per_s).exp()).square_()
        for order, moment in enumerate(sums):
            moment.add_(power, alpha=(time - middle) ** order)
    tiny = torch.finfo(rate_per_s.dtype).tiny
    spread = sums[2] - sums[1].square() / sums[0].clamp(min=tiny)
    saturated = _LOG_SD_OF_NOISE / (echo_times_s[1] - echo_times_s[0])
    return (noise_sd / spread.clamp(min=tiny).sqrt()).clamp(max=saturated)


def field_sd(
    r2star_per_s: Tensor, s0: Tensor, echo_times_s: Sequence[float], noise_sd: Tensor, *, b0_tesla: float
) -> Tensor:
    r"""Give the standard deviation of :func:`fit_field` in ppm (the Cramer-Rao bound).

        SD = sigma / sqrt(sum_j t_j^2 s_j^2) / (2 pi gamma_bar B0)

    It saturates where the phases are those of pure noise. The arguments and the result are those of :func:`r2star_sd`.
    """
    moment = torch.zeros_like(r2star_per_s)
    for time in echo_times_s:
        moment.add_((s0 * (-time * r2star_per_s).exp()).square_(), alpha=time**2)
    saturated = _PHASE_SD_OF_NOISE_RAD / math.sqrt(sum(time**2 for time in echo_times_s))
    slope_sd = (noise_sd / moment.clamp(min=torch.finfo(moment.dtype).tiny).sqrt()).clamp(max=saturated)
    return phase_rad_to_field_ppm(slope_sd, 1.0, b0_tesla)
