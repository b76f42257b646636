r"""The unrolled chi-sepnet of the thesis: gradient steps, each followed by the same learned prior.

    x <- P(x + alpha Phi' m (y - Phi x)),    x = [chi_para; chi_dia],    y = [local field; R2'/Dr; chi_total]

from x = 0. chi_total comes from an injected susceptibility model (QSMnet), and Phi acts in ppm and float32: the gain of
a step, 1 - alpha (2 to 26/9), is -7 to -10.6 at alpha = 4. P z-scores what it gets and gives. Its weights are the same
in all iterations, but not the running statistics of its normalisation layers: those that a batch norm would share
between iterations would fit none of them in eval mode.

References:
    Kim 2023 (unrolled chi-sepnet-R2'); Lai 2020, doi:10.1007/978-3-030-59713-9_13 (LPCNN, shared alpha from 4).
"""

import copy

import torch
from torch import Tensor, nn

from custom_transforms.keys import CHI_DIA, CHI_PARA, split_image
from custom_transforms.networks.z_score import ZScoredBackbone
from custom_transforms.physics.source_model import SourceModel


def tied_copies(module: nn.Module, count: int) -> list[nn.Module]:
    """Give a module and copies of it that share its parameters; buffers are each copy's own."""
    shared = {id(parameter): parameter for parameter in module.parameters()}
    return [module, *(copy.deepcopy(module, dict(shared)) for _ in range(count - 1))]


class GradientUnrolledChiSepNet(nn.Module):
    """Local field and R2' to chi_para and chi_dia by gradient steps with one learned prior.

    The result is clamped to >= 0 in eval mode.

    Args:
        backbone: prior, a network from 2 channels (chi_para, chi_dia) to 2.
        susceptibility: a method (image, voxel_size_mm, b0_direction) to chi_total (B, 1, X, Y, Z) in ppm; None leaves
            this row of y and Phi out.
        iterations: number of unrolled steps.
        initial_step: alpha before training.
        size_divisor: the backbone's total stride; images are padded to a multiple of it.
        padding: relative zero margin of the dipole convolution.
        mixed_precision: run the backbone in bfloat16 (the physics stays in float32).
        checkpointing: recompute the backbone's activations in the backward pass to save memory.

    Raises:
        ValueError: no iteration.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        susceptibility: nn.Module | None,
        iterations: int = 10,
        initial_step: float = 4.0,
        size_divisor: int = 16,
        padding: float = 0.25,
        mixed_precision: bool = False,
        checkpointing: bool = True,
    ) -> None:
        super().__init__()
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        prior = ZScoredBackbone(
            backbone,
            inputs=[CHI_PARA, CHI_DIA],
            outputs=[CHI_PARA, CHI_DIA],
            size_divisor=size_divisor,
            mixed_precision=mixed_precision,
            checkpointing=checkpointing,
        )
        self.priors = nn.ModuleList(tied_copies(prior, iterations))
        self.susceptibility = susceptibility
        self.model = SourceModel(padding=padding, susceptibility_row=susceptibility is not None)
        self.step = nn.Parameter(torch.tensor(float(initial_step)))

    def iterate(
        self,
        image: Tensor,
        voxel_size_mm: Tensor | None = None,
        b0_direction: Tensor | None = None,
        relaxivity_weights: Tensor | None = None,
    ) -> list[Tensor]:
        """Give the estimate after every iteration, not clamped: a list of (B, 2, X, Y, Z) in ppm.

        The arguments are those of :meth:`forward`.
        """
        image = image.float()
        field, r2prime, mask = split_image(image)
        rows = [field, r2prime]
        if self.susceptibility is not None:
            rows.append(self.susceptibility(image, voxel_size_mm, b0_direction))
        measured = torch.cat(rows, dim=1)
        geometry = (voxel_size_mm, b0_direction, relaxivity_weights)
        chi = torch.zeros_like(image[:, :2])
        estimates: list[Tensor] = []
        for prior in self.priors:
            residual = mask * (measured - self.model(chi, *geometry))
            chi = prior(chi + self.step * self.model.adjoint(residual, *geometry), mask)
            estimates.append(chi)
        return estimates

    def forward(
        self,
        image: Tensor,
        voxel_size_mm: Tensor | None = None,
        b0_direction: Tensor | None = None,
        relaxivity_weights: Tensor | None = None,
    ) -> Tensor:
        """Separate the sources.

        Args:
            image: (B, 3, X, Y, Z) local field (ppm), R2'/Dr (ppm), mask; :func:`custom_transforms.keys.split_image`.
            voxel_size_mm: (B, 3) in mm, or None for 1 mm; the susceptibility model may accept less.
            b0_direction: (B, 3) unit vectors in voxel axes, or None for +z; likewise.
            relaxivity_weights: (B, 2), or None for a single Dr.

        Returns:
            chi_para and chi_dia in ppm, (B, 2, X, Y, Z).
        """
        chi = self.iterate(image, voxel_size_mm, b0_direction, relaxivity_weights)[-1]
        return chi if self.training else chi.clamp(min=0.0)
