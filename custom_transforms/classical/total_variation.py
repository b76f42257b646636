r"""Dipole inversion by total variation: everywhere alike, or but for the edges of another image (MEDI).

    minimise over q, zero outside the mask,   1/2 |w (f - D q)|^2 + lambda |M grad q|_1

with f the local field, w its precision, and the gradient in 1/mm (voxel differences, one by one). Plain total variation
has M = 1; in MEDI M = 0 on the edges of the magnitude, so that what is an edge there may be one in q.

References:
    Bilgic 2015, doi:10.1002/mrm.25029 (total variation by ADMM); Liu 2012, doi:10.1016/j.neuroimage.2011.08.082 (MEDI).
"""

import torch
from torch import Tensor, nn

from custom_transforms.keys import magnitude_of, split_image
from custom_transforms.physics.closed_form import tikhonov_inversion
from custom_transforms.physics.dipole import default_geometry, kernel_for
from custom_transforms.physics.zero import zero_mean

from .admm import FIELD_PENALTY, Penalties, Problem, gradient_penalty, minimise
from .brain_box import BrainBox
from .convergence import Progress, Residual, StoppingRule
from .differences import planes
from .morphology import noise_precision, smoothness

_VOXEL_PENALTY = 0.01


class TVSusceptibility(nn.Module):
    """chi_total by total variation, with zero mean in the mask.

    A fourth channel of the image, if there is one, is the magnitude and gives w. Without it w = 1.

    Args:
        regularisation: lambda > 0, ppm mm.
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
        regularisation: float = 2e-5,
        padding: float = 0.125,
        tolerance: float = 1e-3,
        iterations: int = 200,
        progress: Progress | None = None,
    ) -> None:
        super().__init__()
        if not regularisation > 0:
            raise ValueError(f"regularisation must be positive, got {regularisation}; 2e-5 ppm mm is usual at 1 mm")
        self.regularisation = regularisation
        self.padding = padding
        self.rule = StoppingRule(tolerance, iterations)
        self.progress = progress
        self.convergence: list[Residual] = []

    def _smooth(self, image: Tensor, voxel_size_mm: Tensor) -> list[Tensor]:
        """Give M for the three axes."""
        return smoothness(None, image[:, 2:3], voxel_size_mm, edge_share=0.0)

    @torch.no_grad()
    def forward(
        self,
        image: Tensor,
        voxel_size_mm: Tensor | None = None,
        b0_direction: Tensor | None = None,
        relaxivity_weights: Tensor | None = None,
    ) -> Tensor:
        """Invert the local field of ``image`` (B, 3 or 4, X, Y, Z); gives chi_total in ppm, (B, 1, X, Y, Z)."""
        image = image.float()
        voxel_size_mm, b0_direction = default_geometry(image, voxel_size_mm, b0_direction)
        box = BrainBox.around(image[:, 2:3], padding=self.padding)
        image = box.cut(image)
        field, _, mask = split_image(image)
        problem = Problem(
            field=field * mask,
            precision=noise_precision(magnitude_of(image), mask),
            kernel=kernel_for(box.grid, voxel_size_mm, b0_direction),
            signs=(1.0,),
            variation=[self.regularisation * share for share in self._smooth(image, voxel_size_mm)],
            prox=lambda q, part: planes(mask, part) * q,
        )
        penalties = Penalties(
            field=FIELD_PENALTY, gradient=gradient_penalty(self.regularisation, voxel_size_mm), voxel=_VOXEL_PENALTY
        )
        start = mask * tikhonov_inversion(field * mask, voxel_size_mm, b0_direction, regularisation=0.002, padding=0.0)
        q, self.convergence = minimise(
            problem, penalties=penalties, start=start, rule=self.rule, progress=self.progress
        )
        return box.restore(zero_mean(q, mask))


class MEDISusceptibility(TVSusceptibility):
    """chi_total by total variation but for the edges of the magnitude, with zero mean in the mask.

    A fourth channel of the image, if there is one, is the magnitude and gives w and M. Without it w = 1, and the edges
    are those of the second channel, R2'/Dr or R2*/Dr.

    Args:
        regularisation: lambda > 0, ppm mm.
        edge_share: share of the differences that are edges.
        padding: relative margin against wrap-around.
        tolerance: see :class:`StoppingRule`.
        iterations: see :class:`StoppingRule`.
        progress: see :data:`custom_transforms.classical.convergence.Progress`.

    Attributes:
        convergence: the residuals of the last call.
    """

    def __init__(
        self,
        *,
        regularisation: float = 2e-5,
        edge_share: float = 0.05,
        padding: float = 0.125,
        tolerance: float = 1e-3,
        iterations: int = 200,
        progress: Progress | None = None,
    ) -> None:
        super().__init__(
            regularisation=regularisation,
            padding=padding,
            tolerance=tolerance,
            iterations=iterations,
            progress=progress,
        )
        self.edge_share = edge_share

    def _smooth(self, image: Tensor, voxel_size_mm: Tensor) -> list[Tensor]:
        magnitude = magnitude_of(image)
        guide = image[:, 1:2] if magnitude is None else magnitude
        return smoothness(guide, image[:, 2:3], voxel_size_mm, edge_share=self.edge_share)
