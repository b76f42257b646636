r"""The source model Phi: two susceptibility maps to what is measured, and its proximal step.

    field = D (chi_para - chi_dia) = D q
    R     = w_para chi_para + w_dia chi_dia,        R = R2' / Dr

with D the dipole convolution and w the relaxivities over the Dr that R2' was divided by (1 and 1 for a single Dr). In
the coordinates (q, R) the two measurements decouple, whatever the weights:

    chi_para = (R + w_dia q) / (w_para + w_dia),    chi_dia = (R - w_para q) / (w_para + w_dia)

so physics needs one dipole operator on q and nothing else. With single Dr, Phi'Phi is diagonal in (q, s), s the sum of
the sources: eigenvalues 2 D^2 on q and 2 on s; with the additional row chi_total = q (Kim 2023, whose Phi stacks
[I -I; I I; D -D]) 2 (1 + D^2) and 2, hence at most 26/9.

References:
    Shin 2021, doi:10.1016/j.neuroimage.2021.118371 (the model).
"""

import torch
from torch import Tensor, nn

from .dipole import DipoleConvolution, convolve


def weight_columns(like: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Give (w_para, w_dia), (B, 1, 1, 1, 1) each, for relaxivity weights (B, 2) or None for a single Dr."""
    if weights is None:
        weights = torch.ones(like.shape[0], 2)
    w = weights.to(like)[:, :, None, None, None]
    return w[:, 0:1], w[:, 1:2]


def combine_sources(chi_ppm: Tensor, relaxivity_weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Give the decoupled coordinates (q, R) of two sources.

    Args:
        chi_ppm: (B, 2, X, Y, Z), chi_para and chi_dia in ppm.
        relaxivity_weights: (B, 2), or None for a single Dr.

    Returns:
        q = chi_para - chi_dia and R = w_para chi_para + w_dia chi_dia, each (B, 1, X, Y, Z) in ppm.
    """
    w_para, w_dia = weight_columns(chi_ppm, relaxivity_weights)
    para, dia = chi_ppm[:, 0:1], chi_ppm[:, 1:2]
    return para - dia, w_para * para + w_dia * dia


def separate_sources(q_ppm: Tensor, r2prime_ppm: Tensor, relaxivity_weights: Tensor | None = None) -> Tensor:
    """Invert :func:`combine_sources`: the closed-form separation, without any constraint.

    Args:
        q_ppm: (B, 1, X, Y, Z) total susceptibility in ppm.
        r2prime_ppm: (B, 1, X, Y, Z) R2'/Dr in ppm.
        relaxivity_weights: (B, 2), or None for a single Dr.

    Returns:
        chi_para and chi_dia in ppm, (B, 2, X, Y, Z); negative where the two inputs contradict each other.
    """
    w_para, w_dia = weight_columns(q_ppm, relaxivity_weights)
    return torch.cat([r2prime_ppm + w_dia * q_ppm, r2prime_ppm - w_para * q_ppm], dim=1) / (w_para + w_dia)


def proximal_step(
    q_ppm: Tensor,
    r2prime_ppm: Tensor,
    measured: Tensor,
    kernel: Tensor,
    grid: list[int],
    regularisation: Tensor,
    r2prime_step: Tensor,
) -> tuple[Tensor, Tensor]:
    r"""Pull (q, R) towards the measurements: one proximal step of the data term.

        q <- q + F^-1 [D / (D^2 + lambda)] F m (f - D q),        R <- R + mu (R_measured - R)

    With m = 1 on the whole grid it is exactly argmin_x |f - D x|^2 + lambda |x - q|^2. With a mask or weights m in
    [0, 1] it is the majorise-minimise step that fills the missing field with D q, and the objective
    |sqrt(m) (f - D x)|^2 + lambda |x - q|^2 cannot increase. Both hold without padding; cropping a padded grid makes
    them approximate, and for lambda of 0.01 or less the objective can then rise.

    Args:
        q_ppm: (B, 1, X, Y, Z) total susceptibility.
        r2prime_ppm: (B, 1, X, Y, Z) current R.
        measured: (B, 3, X, Y, Z) local field (ppm), R2'/Dr (ppm), mask m.
        kernel: (B, 1, X', Y', Z' // 2 + 1) half-spectrum dipole on ``grid``.
        grid: (X', Y', Z') the padded grid.
        regularisation: lambda > 0, dimensionless, a scalar tensor.
        r2prime_step: mu in [0, 1], a scalar tensor.

    Returns:
        The new (q, R).
    """
    field, r2prime_measured, mask = measured[:, 0:1], measured[:, 1:2], measured[:, 2:3]
    residual = mask * (field - convolve(q_ppm, kernel, grid))
    q = q_ppm + convolve(residual, kernel / (kernel * kernel + regularisation), grid)
    return q, r2prime_ppm + r2prime_step * (r2prime_measured - r2prime_ppm)


class SourceModel(nn.Module):
    """The linear operator Phi with forward, adjoint and normal.

    Args:
        padding: relative zero margin of the dipole convolution; see :class:`DipoleConvolution`.
        susceptibility_row: append the row chi_total = chi_para - chi_dia, for inputs that hold a QSM map.
    """

    def __init__(self, *, padding: float = 0.5, susceptibility_row: bool = False) -> None:
        super().__init__()
        self.dipole = DipoleConvolution(padding=padding)
        self.susceptibility_row = susceptibility_row

    def forward(
        self,
        chi_ppm: Tensor,
        voxel_size_mm: Tensor | None = None,
        b0_direction: Tensor | None = None,
        relaxivity_weights: Tensor | None = None,
    ) -> Tensor:
        """Predict the measurements.

        Args:
            chi_ppm: (B, 2, X, Y, Z) chi_para and chi_dia in ppm.
            voxel_size_mm: (B, 3) in mm, or None for 1 mm.
            b0_direction: (B, 3) unit vectors in voxel axes, or None for +z.
            relaxivity_weights: (B, 2), or None for a single Dr.

        Returns:
            [field, R2'/Dr] or [field, R2'/Dr, chi_total] in ppm, (B, 2 or 3, X, Y, Z).
        """
        if chi_ppm.shape[1] != 2:
            raise ValueError(f"chi must have 2 channels, chi_para and chi_dia, got {chi_ppm.shape[1]}")
        q, r2prime = combine_sources(chi_ppm, relaxivity_weights)
        rows = [self.dipole(q, voxel_size_mm, b0_direction), r2prime]
        if self.susceptibility_row:
            rows.append(q)
        return torch.cat(rows, dim=1)

    def adjoint(
        self,
        measured_ppm: Tensor,
        voxel_size_mm: Tensor | None = None,
        b0_direction: Tensor | None = None,
        relaxivity_weights: Tensor | None = None,
    ) -> Tensor:
        """Apply Phi' to [field, R2'/Dr(, chi_total)], (B, 2 or 3, X, Y, Z), giving (B, 2, X, Y, Z)."""
        w_para, w_dia = weight_columns(measured_ppm, relaxivity_weights)
        q = self.dipole(measured_ppm[:, 0:1], voxel_size_mm, b0_direction)
        if self.susceptibility_row:
            q = q + measured_ppm[:, 2:3]
        r2prime = measured_ppm[:, 1:2]
        return torch.cat([w_para * r2prime + q, w_dia * r2prime - q], dim=1)

    def normal(
        self,
        chi_ppm: Tensor,
        voxel_size_mm: Tensor | None = None,
        b0_direction: Tensor | None = None,
        relaxivity_weights: Tensor | None = None,
    ) -> Tensor:
        """Apply Phi'Phi to chi_para and chi_dia, (B, 2, X, Y, Z)."""
        measured = self.forward(chi_ppm, voxel_size_mm, b0_direction, relaxivity_weights)
        return self.adjoint(measured, voxel_size_mm, b0_direction, relaxivity_weights)
