"""Physics of susceptibility source separation: units, dipole convolution, source model, closed and analytic forms.

Imports nothing but torch. The whole model is field = D (chi_para - chi_dia) and R2'/Dr = chi_para + chi_dia; the
conventions are written at the head of each module.
"""

from .analytic import cylinder_field, sphere_field
from .closed_form import tikhonov_inversion
from .dipole import DipoleConvolution, convolve, default_geometry, dipole_kernel, kernel_for
from .source_model import SourceModel, combine_sources, proximal_step, separate_sources
from .units import (
    GAMMA_BAR_MHZ_PER_TESLA,
    RELAXIVITY_3T_PER_S_PPM,
    field_hz_to_ppm,
    field_ppm_to_hz,
    field_ppm_to_phase_rad,
    hz_per_ppm,
    phase_rad_to_field_ppm,
    r2prime_per_s_to_ppm,
    r2prime_ppm_to_per_s,
    relaxivity_at,
    relaxivity_weights,
)
from .zero import feasible_offset, nearest_feasible, zero_mean

__all__ = [
    "GAMMA_BAR_MHZ_PER_TESLA",
    "RELAXIVITY_3T_PER_S_PPM",
    "DipoleConvolution",
    "SourceModel",
    "combine_sources",
    "convolve",
    "cylinder_field",
    "default_geometry",
    "dipole_kernel",
    "feasible_offset",
    "field_hz_to_ppm",
    "field_ppm_to_hz",
    "field_ppm_to_phase_rad",
    "hz_per_ppm",
    "kernel_for",
    "nearest_feasible",
    "phase_rad_to_field_ppm",
    "proximal_step",
    "r2prime_per_s_to_ppm",
    "r2prime_ppm_to_per_s",
    "relaxivity_at",
    "relaxivity_weights",
    "separate_sources",
    "sphere_field",
    "tikhonov_inversion",
    "zero_mean",
]
