r"""Unrolled chi-sepnet: proximal steps of the physics, each followed by a learned prior.

    (q, R)       <- prox_i(q, R), several times    decoupled data term, one dipole operator on q; lambda, mu learned
    q            <- q + c                          the offset that the field leaves free, from chi_para, chi_dia >= 0
    chi          <- (R, q) to (chi_para, chi_dia)
    (d, u, a)     = P_i(chi, field, R2'/Dr, m)     correction of chi; in each voxel a guess of the offset and its weight
    chi          <- chi + g_i d                    g_i is learned and starts small
    q            <- q + g_i <u>_a                  the mean of the guesses over the mask, weighted by exp(a)
    chi          <- m chi

from q = 0 and R = R2'/Dr. The field does not tell the mean of q; what fluid tells of it shall move all voxels, which
the offset does and no convolution could. Physics runs in float32 in ppm on a padded whole volume at its own voxel size
and B0 direction, so the network knows no fixed resolution or head position; the prior P_i is an injected MONAI network.

References:
    Kim 2023 (unrolled chi-sepnet-R2'), here with a proximal instead of a gradient step; Lai 2020,
    doi:10.1007/978-3-030-59713-9_13 (LPCNN); Kim 2025, doi:10.48550/arXiv.2409.14030 (chi-sepnet).
"""

import copy

import torch
from torch import Tensor, nn

from custom_transforms.keys import split_image
from custom_transforms.networks.backbone import Backbone, pad_to_multiple
from custom_transforms.physics.dipole import DipoleConvolution, default_geometry, kernel_for
from custom_transforms.physics.source_model import combine_sources, proximal_step, separate_sources
from custom_transforms.physics.zero import feasible_offset


def voted_offset(guess: Tensor, log_weight: Tensor, mask: Tensor) -> Tensor:
    """Average guesses (B, 1, X, Y, Z) over the mask, each with weight exp(log_weight): (B, 1, 1, 1, 1)."""
    weight = mask * log_weight.clamp(-8.0, 8.0).exp()
    total = weight.sum(dim=(1, 2, 3, 4), keepdim=True)
    return (weight * guess).sum(dim=(1, 2, 3, 4), keepdim=True) / total.clamp(min=1e-6)


class UnrolledChiSepNet(nn.Module):
    """Local field and R2' to chi_para and chi_dia by alternating physics and learned priors.

    In eval mode the result is clamped to its physical range, >= 0. In train mode it is not, so that every voxel keeps
    its gradient, and with ``deep_supervision`` the result is (B, iterations, 2, X, Y, Z): one estimate an iteration.

    Args:
        backbone: prior, a network from 5 channels (chi_para, chi_dia, local field, R2'/Dr, mask) to 4: corrections of
            chi_para and chi_dia, offset of chi_total and its weight; or to the first 2, for no learned offset.
        iterations: number of unrolled steps.
        physics_steps: proximal steps in each of them; with a mask one alone is not the exact solution.
        shared: use one backbone for all steps instead of a copy for each.
        size_divisor: the backbone's total stride; images are padded to a multiple of it.
        padding: relative zero margin of the dipole convolution.
        fluid_ppm: R2'/Dr from which on voxels hardly count for the zero of chi_total; see :func:`feasible_offset`.
        initial_regularisation: lambda at the first step; it is learned for each step.
        mixed_precision: run the backbone in bfloat16 (the physics stays in float32).
        deep_supervision: return all iterations in train mode.
        checkpointing: recompute the backbone's activations in the backward pass to save memory.
    """

    scale_ppm: Tensor

    def __init__(
        self,
        *,
        backbone: nn.Module,
        iterations: int = 4,
        physics_steps: int = 1,
        shared: bool = False,
        size_divisor: int = 4,
        padding: float = 0.25,
        fluid_ppm: float = 0.05,
        initial_regularisation: float = 0.03,
        mixed_precision: bool = False,
        deep_supervision: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if min(iterations, physics_steps) < 1:
            raise ValueError(f"iterations and physics_steps must be at least 1, got {iterations} and {physics_steps}")
        prior = Backbone(backbone, mixed_precision=mixed_precision, checkpointing=checkpointing)
        self.priors = nn.ModuleList(prior if shared else copy.deepcopy(prior) for _ in range(iterations))
        self.size_divisor = size_divisor
        self.fluid_ppm = fluid_ppm
        self.dipole = DipoleConvolution(padding=padding)
        self.log_regularisation = nn.Parameter(torch.full((iterations, physics_steps), initial_regularisation).log())
        self.logit_r2prime_step = nn.Parameter(torch.zeros(iterations))
        self.prior_gain = nn.Parameter(torch.full((iterations,), 0.1))
        # typical magnitudes in ppm, so that the backbone sees numbers of order one
        self.register_buffer("scale_ppm", torch.tensor([0.05, 0.05, 0.01, 0.05, 1.0]), persistent=False)
        self.deep_supervision = deep_supervision

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
        x, y, z = image.shape[-3], image.shape[-2], image.shape[-1]
        measured = pad_to_multiple(image.float(), self.size_divisor)
        voxel_size_mm, b0_direction = default_geometry(measured, voxel_size_mm, b0_direction)
        grid = self.dipole.grid(measured)
        kernel = kernel_for(grid, voxel_size_mm, b0_direction)
        _, r2prime, mask = split_image(measured)
        scale = self.scale_ppm[:, None, None, None]
        q = torch.zeros_like(r2prime)
        estimates: list[Tensor] = []
        for i, prior in enumerate(self.priors):
            step = self.logit_r2prime_step[i].sigmoid()
            for regularisation in self.log_regularisation[i].exp():
                q, r2prime = proximal_step(q, r2prime, measured, kernel, grid, regularisation, step)
            q = q + mask * feasible_offset(q, r2prime, mask, relaxivity_weights, self.fluid_ppm)
            chi = separate_sources(q, r2prime, relaxivity_weights)
            features = torch.cat([chi, measured], dim=1) / scale
            update = prior(features)
            chi = chi + self.prior_gain[i] * scale[:2] * update[:, :2]
            if update.shape[1] > 2:
                offset = self.prior_gain[i] * scale[0] * voted_offset(update[:, 2:3], update[:, 3:4], mask)
                chi = chi + separate_sources(offset, torch.zeros_like(offset), relaxivity_weights)
            chi = mask * chi
            q, r2prime = combine_sources(chi, relaxivity_weights)
            estimates.append(chi[..., :x, :y, :z])
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
            voxel_size_mm: (B, 3) in mm, or None for 1 mm.
            b0_direction: (B, 3) unit vectors in voxel axes, or None for +z.
            relaxivity_weights: (B, 2), see :func:`custom_transforms.physics.relaxivity_weights`, or None.

        Returns:
            chi_para and chi_dia in ppm, (B, 2, X, Y, Z); in train mode with deep supervision
            (B, iterations, 2, X, Y, Z).
        """
        estimates = self.iterate(image, voxel_size_mm, b0_direction, relaxivity_weights)
        if not self.training:
            return estimates[-1].clamp(min=0.0)
        return torch.stack(estimates, dim=1) if self.deep_supervision else estimates[-1]
