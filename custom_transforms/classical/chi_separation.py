r"""Chi-separation (Shin 2021): both sources at once, non-negative, smooth but for the edges of the anatomy.

    minimise over chi_para, chi_dia >= 0, zero outside the mask,
        1/2 |w (f - D (chi_para - chi_dia))|^2 + beta/2 |w (R - w_para chi_para - w_dia chi_dia)|^2
        + lambda (|M grad chi_para|_1 + |M grad chi_dia|_1) + kappa/2 |C chi|^2

with f the local field, R = R2'/Dr, w the precision of both, M = 0 on the edges of the magnitude, and C cerebrospinal
fluid, where both sources are zero: that settles the mean of chi_para - chi_dia, which the field does not tell. The
gradient is in 1/mm. A single R2* in the place of R2' needs its R2 taken away first: :class:`ConstantR2Removal`.

References:
    Shin 2021, doi:10.1016/j.neuroimage.2021.118371; Dimov 2022, doi:10.3390/tomography8030127 (R2* alone).
"""

import torch
from torch import Tensor, nn

from custom_transforms.keys import magnitude_of, split_image
from custom_transforms.physics.closed_form import tikhonov_inversion
from custom_transforms.physics.dipole import default_geometry, kernel_for
from custom_transforms.physics.source_model import separate_sources, weight_columns
from custom_transforms.physics.zero import feasible_offset
from custom_transforms.transforms.reference import csf_mask

from .admm import FIELD_PENALTY, Penalties, Problem, gradient_penalty, minimise
from .brain_box import BrainBox
from .convergence import Progress, Residual, StoppingRule
from .differences import WHOLE, planes
from .morphology import noise_precision, smoothness

_VOXEL_PENALTY = 0.03


class ChiSeparation(nn.Module):
    """chi_para and chi_dia by the optimisation at the head of the module.

    A fourth channel of the image, if there is one, is the magnitude. Without it w = 1 and M = 1.

    Args:
        regularisation: lambda > 0, ppm mm.
        r2prime_weight: beta > 0, the variance of the field over that of R2'/Dr.
        csf_weight: kappa >= 0.
        edge_share: share of the differences that are edges of the magnitude.
        padding: relative margin against wrap-around.
        tolerance: see :class:`StoppingRule`.
        iterations: see :class:`StoppingRule`.
        progress: see :data:`custom_transforms.classical.convergence.Progress`.

    Attributes:
        convergence: the residuals of the last call.
    """

    uses_magnitude = True

    def __init__(
        self,
        *,
        regularisation: float = 5e-5,
        r2prime_weight: float = 0.01,
        csf_weight: float = 0.01,
        edge_share: float = 0.2,
        padding: float = 0.125,
        tolerance: float = 1e-3,
        iterations: int = 200,
        progress: Progress | None = None,
    ) -> None:
        super().__init__()
        if not (regularisation > 0 and r2prime_weight > 0 and csf_weight >= 0):
            raise ValueError(
                "regularisation and r2prime_weight must be positive and csf_weight not negative, got "
                f"{regularisation}, {r2prime_weight} and {csf_weight}"
            )
        self.regularisation = regularisation
        self.r2prime_weight = r2prime_weight
        self.csf_weight = csf_weight
        self.edge_share = edge_share
        self.padding = padding
        self.rule = StoppingRule(tolerance, iterations)
        self.progress = progress
        self.convergence: list[Residual] = []

    @torch.no_grad()
    def forward(
        self,
        image: Tensor,
        voxel_size_mm: Tensor | None = None,
        b0_direction: Tensor | None = None,
        relaxivity_weights: Tensor | None = None,
    ) -> Tensor:
        """Separate the sources; arguments and result as for every method (ppm, (B, 3 or 4, ...) to (B, 2, ...))."""
        image = image.float()
        geometry = default_geometry(image, voxel_size_mm, b0_direction)
        box = BrainBox.around(image[:, 2:3], padding=self.padding)
        penalties = Penalties(
            field=FIELD_PENALTY,
            gradient=gradient_penalty(self.regularisation, geometry[0]),
            voxel=_VOXEL_PENALTY,
        )
        problem, start = self._problem(box.cut(image), *geometry, relaxivity_weights)
        chi, self.convergence = minimise(
            problem, penalties=penalties, start=start, rule=self.rule, progress=self.progress
        )
        return box.restore(chi)

    def _problem(
        self,
        image: Tensor,
        voxel_size_mm: Tensor,
        b0_direction: Tensor,
        relaxivity_weights: Tensor | None,
    ) -> tuple[Problem, Tensor]:
        """Set up the problem on the grid of the image, and a first guess."""
        field, r2prime, mask = split_image(image)
        magnitude = magnitude_of(image)
        precision = noise_precision(magnitude, mask)
        smooth = smoothness(magnitude, mask, voxel_size_mm, edge_share=self.edge_share)
        fluid = torch.stack([csf_mask(r, m) for r, m in zip(r2prime, mask, strict=True)])
        prox = SourceProx(
            rho=_VOXEL_PENALTY,
            r2prime_ppm=r2prime,
            precision=self.r2prime_weight * precision,
            ridge=self.csf_weight * fluid,
            mask=mask,
            weights=weight_columns(image, relaxivity_weights),
        )
        problem = Problem(
            field=field * mask,
            precision=precision,
            kernel=kernel_for(list(mask.shape[-3:]), voxel_size_mm, b0_direction),
            signs=(1.0, -1.0),
            variation=[self.regularisation * share for share in smooth],
            prox=prox,
        )
        q = tikhonov_inversion(field * mask, voxel_size_mm, b0_direction, regularisation=0.002, padding=0.0)
        q = q + feasible_offset(q, r2prime, mask, relaxivity_weights)
        return problem, mask * separate_sources(q, r2prime, relaxivity_weights).clamp(min=0.0)


class SourceProx:
    r"""Solves the problem of a voxel, two non-negative numbers, exactly.

        argmin over a, b >= 0 of  p/2 (R - w_a a - w_b b)^2 + k/2 (a^2 + b^2) + rho/2 ((a - a0)^2 + (b - b0)^2)

    As both w are positive, a source that would be negative without the constraint is zero with it, and the other one
    is what it is alone. Either is linear in a0 and b0, so the coefficients are computed once.

    Args:
        rho: > 0.
        r2prime_ppm: R, (B, 1, X, Y, Z).
        precision: p, (B, 1, X, Y, Z).
        ridge: k, (B, 1, X, Y, Z).
        mask: 0 where both shall be zero, (B, 1, X, Y, Z).
        weights: w_a and w_b, (B, 1, 1, 1, 1) each.
    """

    def __init__(
        self,
        *,
        rho: float,
        r2prime_ppm: Tensor,
        precision: Tensor,
        ridge: Tensor,
        mask: Tensor,
        weights: tuple[Tensor, Tensor],
    ) -> None:
        w_a, w_b = weights
        own = ridge + rho
        both = own + precision * (w_a * w_a + w_b * w_b)
        pull = mask * precision * r2prime_ppm
        scale = mask * rho / (own * both)
        self.a_of_a, self.b_of_b = scale * (both - precision * w_a * w_a), scale * (both - precision * w_b * w_b)
        self.cross = -scale * precision * w_a * w_b
        self.a, self.b = w_a * pull / both, w_b * pull / both
        alone_a, alone_b = own + precision * w_a * w_a, own + precision * w_b * w_b
        self.alone_a_of_a, self.alone_b_of_b = mask * rho / alone_a, mask * rho / alone_b
        self.alone_a, self.alone_b = w_a * pull / alone_a, w_b * pull / alone_b

    def __call__(self, chi_ppm: Tensor, part: slice = WHOLE) -> Tensor:
        """Give a and b in planes of the volume, (B, 2, X', Y, Z), for a0 and b0 there, (B, 2, X', Y, Z)."""
        a0, b0 = chi_ppm[:, 0:1], chi_ppm[:, 1:2]
        cross = planes(self.cross, part)
        a = torch.addcmul(planes(self.a, part), planes(self.a_of_a, part), a0).addcmul_(cross, b0)
        b = torch.addcmul(planes(self.b, part), planes(self.b_of_b, part), b0).addcmul_(cross, a0)
        only_a = torch.addcmul(planes(self.alone_a, part), planes(self.alone_a_of_a, part), a0)
        only_b = torch.addcmul(planes(self.alone_b, part), planes(self.alone_b_of_b, part), b0)
        return torch.cat([torch.where(b < 0, only_a, a), torch.where(a < 0, only_b, b)], dim=1).clamp_(min=0.0)


class ConstantR2Removal(nn.Module):
    """R2'/Dr from R2*/Dr alone: one R2 everywhere is taken away.

    Args:
        r2_ppm: R2/Dr, ppm; R2 of 13 1/s at 3 T and Dr of 137 1/s/ppm give 0.095.
    """

    def __init__(self, *, r2_ppm: float) -> None:
        super().__init__()
        if not r2_ppm >= 0:
            raise ValueError(f"r2_ppm must not be negative, got {r2_ppm}; 0.095 is R2 of 13 1/s over Dr of 137 1/s/ppm")
        self.r2_ppm = r2_ppm

    def forward(self, image: Tensor) -> Tensor:
        """Give R2'/Dr >= 0, (B, 1, X, Y, Z) in ppm, of an image (B, 3 or 4, X, Y, Z) whose second channel is R2*/Dr."""
        _, r2star, mask = split_image(image.float())
        return mask * (r2star - self.r2_ppm).clamp(min=0.0)
