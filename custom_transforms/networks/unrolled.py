r"""Unrolled chi-sepnet: proximal steps of the physics, each followed by a learned prior.

    (q, R)   <- prox_i(q, R)              decoupled data term, one dipole operator on q; lambda_i and mu_i are learned
    q        <- q + c                     the offset that the field leaves free, from chi_para, chi_dia >= 0
    chi      <- (R, q) to (chi_para, chi_dia)
    chi      <- m (chi + g_i P_i(chi, field, R2'/Dr, m))      g_i is learned and starts small

from q = 0 and R = R2'/Dr. Physics runs in float32 in ppm on a padded whole volume at its own voxel size and B0
direction, so the network knows no fixed resolution or head position; the prior P_i is an injected MONAI network.

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


class UnrolledChiSepNet(nn.Module):
    """Local field and R2' to chi_para and chi_dia by alternating physics and learned priors.

    In eval mode the result is clamped to its physical range, >= 0. In train mode it is not, so that every voxel keeps
    its gradient, and with ``deep_supervision`` the result is (B, iterations, 2, X, Y, Z): one estimate an iteration.

    Args:
        backbone: prior, a network from 5 channels (chi_para, chi_dia, local field, R2'/Dr, mask) to 2.
        iterations: number of unrolled steps.
        shared: use one backbone for all steps instead of a copy for each.
        size_divisor: the backbone's total stride; images are padded to a multiple of it.
        padding: relative zero margin of the dipole convolution.
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
        shared: bool = False,
        size_divisor: int = 4,
        padding: float = 0.25,
        initial_regularisation: float = 0.03,
        mixed_precision: bool = False,
        deep_supervision: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        prior = Backbone(backbone, mixed_precision=mixed_precision, checkpointing=checkpointing)
        self.priors = nn.ModuleList(prior if shared else copy.deepcopy(prior) for _ in range(iterations))
        self.size_divisor = size_divisor
        self.dipole = DipoleConvolution(padding=padding)
        self.log_regularisation = nn.Parameter(torch.full((iterations,), initial_regularisation).log())
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
            regularisation = self.log_regularisation[i].exp()
            step = self.logit_r2prime_step[i].sigmoid()
            q, r2prime = proximal_step(q, r2prime, measured, kernel, grid, regularisation, step)
            q = q + mask * feasible_offset(q, r2prime, mask, relaxivity_weights)
            chi = separate_sources(q, r2prime, relaxivity_weights)
            features = torch.cat([chi, measured], dim=1) / scale
            chi = mask * (chi + self.prior_gain[i] * scale[:2] * prior(features))
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
