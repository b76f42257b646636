r"""Dipole inversion, then two sources by algebra; with Tikhonov's, the baseline that everything is compared with.

    q = F^-1 [D / (D^2 + lambda)] F f,    chi_para = (R + w_dia q) / (w_para + w_dia),    chi_dia likewise

As D(0) = 0 the field says nothing about the mean of q: a QSM map gets zero mean in the mask, and the pair the offset
that makes it least negative (:mod:`custom_transforms.physics.zero`), which is much the better one.
"""

from torch import Tensor, nn

from custom_transforms.keys import split_image
from custom_transforms.physics.closed_form import tikhonov_inversion
from custom_transforms.physics.source_model import separate_sources
from custom_transforms.physics.zero import feasible_offset, zero_mean


class TikhonovSusceptibility(nn.Module):
    """chi_total by Tikhonov regularised dipole inversion, with zero mean in the mask.

    Args:
        regularisation: lambda > 0, dimensionless.
    """

    def __init__(self, *, regularisation: float = 0.002) -> None:
        super().__init__()
        self.regularisation = regularisation

    def forward(
        self,
        image: Tensor,
        voxel_size_mm: Tensor | None = None,
        b0_direction: Tensor | None = None,
        relaxivity_weights: Tensor | None = None,
    ) -> Tensor:
        """Invert the local field of ``image`` (B, 3, X, Y, Z); gives chi_total in ppm, (B, 1, X, Y, Z)."""
        field, _, mask = split_image(image.float())
        q = tikhonov_inversion(field * mask, voxel_size_mm, b0_direction, regularisation=self.regularisation)
        return zero_mean(q, mask)


class SusceptibilitySeparation(nn.Module):
    """chi_para and chi_dia from the chi_total of any dipole inversion and R2'/Dr, by algebra.

    The result is clamped to >= 0 in eval mode. In train mode it is neither clamped nor shifted, so that
    chi_para - chi_dia is what the inversion gave and a loss of it can train the inversion.

    Args:
        susceptibility: a method to chi_total (B, 1, X, Y, Z) in ppm.
        feasible_zero: shift chi_total so that the sources are least negative; else it stays as it is.
    """

    def __init__(self, *, susceptibility: nn.Module, feasible_zero: bool = True) -> None:
        super().__init__()
        self.susceptibility = susceptibility
        self.feasible_zero = feasible_zero

    def forward(
        self,
        image: Tensor,
        voxel_size_mm: Tensor | None = None,
        b0_direction: Tensor | None = None,
        relaxivity_weights: Tensor | None = None,
    ) -> Tensor:
        """Separate the sources; arguments and result as for every method (ppm, (B, 3, ...) to (B, 2, ...))."""
        q = self.susceptibility(image, voxel_size_mm, b0_direction, relaxivity_weights)
        _, r2prime, mask = split_image(image.float())
        if self.training:
            return mask * separate_sources(q, r2prime, relaxivity_weights)
        if self.feasible_zero:
            q = q + feasible_offset(q, r2prime, mask, relaxivity_weights)
        return mask * separate_sources(q, r2prime, relaxivity_weights).clamp(min=0.0)


class ClosedFormSeparation(SusceptibilitySeparation):
    """chi_para and chi_dia from a Tikhonov chi_total and R2'/Dr.

    Args:
        regularisation: lambda > 0 of the dipole inversion, dimensionless.
        feasible_zero: see :class:`SusceptibilitySeparation`; without it the mean of chi_total in the mask is zero.
    """

    def __init__(self, *, regularisation: float = 0.002, feasible_zero: bool = True) -> None:
        super().__init__(
            susceptibility=TikhonovSusceptibility(regularisation=regularisation), feasible_zero=feasible_zero
        )
        self.eval()
