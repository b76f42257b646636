r"""Training losses on both sources.

loss = sum_i w_i ( |chi_i - label| + g |grad chi_i - grad label| ) / scale,    w_i = 1/2 a step back from the last
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SourceLoss(nn.Module):
    """L1 and gradient L1 of chi_para and chi_dia, over one estimate or over those of all iterations.

    Args:
        gradient_weight: g, weight of the gradient term.
        decay: weight of an iteration relative to the next.
        scale_ppm: susceptibility that counts as one.
    """

    def __init__(self, *, gradient_weight: float = 0.5, decay: float = 0.5, scale_ppm: float = 0.05) -> None:
        super().__init__()
        self.gradient_weight = gradient_weight
        self.decay = decay
        self.scale_ppm = scale_ppm

    def forward(self, pred: Tensor, label: Tensor) -> Tensor:
        """Compare with the truth.

        Args:
            pred: (B, 2, X, Y, Z) in ppm, or (B, iterations, 2, X, Y, Z), the last being the result.
            label: (B, 2, X, Y, Z) in ppm.

        Returns:
            Scalar loss, mean over the voxels.
        """
        estimates = pred.unsqueeze(1) if pred.ndim == label.ndim else pred
        count = estimates.shape[1]
        weights = self.decay ** torch.arange(count - 1, -1, -1, device=pred.device, dtype=pred.dtype)
        errors = torch.stack([self._error(estimates[:, i] - label) for i in range(count)])
        return (weights * errors).sum() / weights.sum() / self.scale_ppm

    def _error(self, difference: Tensor) -> Tensor:
        gradients = [difference.diff(dim=axis).abs().mean() for axis in (-3, -2, -1)]
        return difference.abs().mean() + self.gradient_weight * torch.stack(gradients).mean()
