"""Unit conversions between what a scanner gives and what the networks see (ppm).

    field_ppm = sign * phase / (2 pi TE gamma_bar B0)        phase in rad, TE in s, B0 in T
    field_ppm = field_hz / (gamma_bar B0)                    gamma_bar = 42.577 MHz/T
    r2prime_ppm = R2' / Dr                                   R2' in 1/s, Dr (relaxivity) in 1/s/ppm

The sign of the phase depends on the vendor and is always explicit: +1 where phase grows with the field.
"""

import math

from torch import Tensor

GAMMA_BAR_MHZ_PER_TESLA = 42.577
"""Gyromagnetic ratio of hydrogen over 2 pi."""

RELAXIVITY_3T_PER_S_PPM = 137.0
"""Empirical R2' relaxivity at 3 T in 1/s/ppm (Shin 2021, doi:10.1016/j.neuroimage.2021.118371)."""


def hz_per_ppm(b0_tesla: float) -> float:
    """Give the frequency in Hz of 1 ppm of the main field.

    Raises:
        ValueError: the field strength is not positive.
    """
    if not b0_tesla > 0:
        raise ValueError(f"b0_tesla must be positive, got {b0_tesla}; give the scanner's field strength, e.g. 3.0")
    return GAMMA_BAR_MHZ_PER_TESLA * b0_tesla


def field_hz_to_ppm(field_hz: Tensor, b0_tesla: float) -> Tensor:
    """Convert a field map from Hz to ppm of B0 (any shape)."""
    return field_hz / hz_per_ppm(b0_tesla)


def field_ppm_to_hz(field_ppm: Tensor, b0_tesla: float) -> Tensor:
    """Convert a field map from ppm of B0 to Hz (any shape)."""
    return field_ppm * hz_per_ppm(b0_tesla)


def _rad_per_ppm(echo_time_s: float, b0_tesla: float, sign: int) -> float:
    if not echo_time_s > 0:
        raise ValueError(f"echo_time_s must be positive, got {echo_time_s}; give the echo time in seconds")
    if sign not in (1, -1):
        raise ValueError(f"sign must be +1 or -1, got {sign}; it says whether phase grows or falls with the field")
    return sign * 2 * math.pi * echo_time_s * hz_per_ppm(b0_tesla)


def phase_rad_to_field_ppm(phase_rad: Tensor, echo_time_s: float, b0_tesla: float, *, sign: int = 1) -> Tensor:
    """Convert an unwrapped phase in rad at one echo time to a field in ppm of B0 (any shape)."""
    return phase_rad / _rad_per_ppm(echo_time_s, b0_tesla, sign)


def field_ppm_to_phase_rad(field_ppm: Tensor, echo_time_s: float, b0_tesla: float, *, sign: int = 1) -> Tensor:
    """Convert a field in ppm of B0 to the unwrapped phase in rad at one echo time (any shape)."""
    return field_ppm * _rad_per_ppm(echo_time_s, b0_tesla, sign)


def relaxivity_at(b0_tesla: float, relaxivity_3t_per_s_ppm: float = RELAXIVITY_3T_PER_S_PPM) -> float:
    """Scale a relaxivity known at 3 T linearly to another field strength, in 1/s/ppm."""
    return relaxivity_3t_per_s_ppm * hz_per_ppm(b0_tesla) / hz_per_ppm(3.0)


def r2prime_per_s_to_ppm(r2prime_per_s: Tensor, relaxivity_per_s_ppm: float) -> Tensor:
    """Scale R2' (or R2*, or R2) by the relaxivity Dr: 1/s to ppm (any shape).

    Raises:
        ValueError: the relaxivity is not positive.
    """
    if not relaxivity_per_s_ppm > 0:
        raise ValueError(f"the relaxivity must be positive, got {relaxivity_per_s_ppm}; e.g. 137 1/s/ppm at 3 T")
    return r2prime_per_s / relaxivity_per_s_ppm


def r2prime_ppm_to_per_s(r2prime_ppm: Tensor, relaxivity_per_s_ppm: float) -> Tensor:
    """Undo :func:`r2prime_per_s_to_ppm`: ppm to 1/s (any shape)."""
    return r2prime_ppm * relaxivity_per_s_ppm


def relaxivity_weights(para_per_s_ppm: float, dia_per_s_ppm: float) -> tuple[float, float, float]:
    """Split two relaxivities into their mean Dr and the weights of the two sources.

        R2' / Dr = w_para chi_para + w_dia chi_dia,   Dr = (Dr_para + Dr_dia) / 2,   w = Dr_source / Dr

    Args:
        para_per_s_ppm: relaxivity of paramagnetic sources in 1/s/ppm.
        dia_per_s_ppm: relaxivity of diamagnetic sources in 1/s/ppm.

    Returns:
        (Dr in 1/s/ppm, w_para, w_dia).

    Raises:
        ValueError: a relaxivity is not positive.
    """
    if not (para_per_s_ppm > 0 and dia_per_s_ppm > 0):
        raise ValueError(
            f"relaxivities must be positive, got {para_per_s_ppm} and {dia_per_s_ppm}; e.g. 137 1/s/ppm at 3 T"
        )
    mean = (para_per_s_ppm + dia_per_s_ppm) / 2
    return mean, para_per_s_ppm / mean, dia_per_s_ppm / mean
