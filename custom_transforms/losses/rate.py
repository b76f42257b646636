r"""Loss of methods that predict R2' where it is not measured.

loss = w mean m |R_predicted - R| / scale + loss of the sources,    R = w_para chi_para + w_dia chi_dia of the label
"""

from __future__ import annotations

from torch import Tensor, nn

from custom_transforms.keys import IMAGE, LABEL, RELAXIVITY_WEIGHTS, split_image
from custom_transforms.losses.published import Target
from custom_transforms.physics import combine_sources


class PredictedR2PrimeLoss(nn.Module):
    """L1 of the predicted R2'/Dr and, if wanted, a loss of the sources; for ``PredictedR2Prime``.

    Args:
        sources: loss(chi, label) of chi_para and chi_dia; None trains the prediction alone.
        r2prime_weight: weight w of the prediction.
        scale_ppm: R2'/Dr that counts as one.
    """

    def __init__(
        self, *, sources: nn.Module | None = None, r2prime_weight: float = 1.0, scale_ppm: float = 0.05
    ) -> None:
        super().__init__()
        self.sources = sources
        self.r2prime_weight = r2prime_weight
        self.scale_ppm = scale_ppm

    def forward(self, pred: Tensor, target: Target) -> Tensor:
        """Compare.

        Args:
            pred: (B, 3, X, Y, Z) or (B, iterations, 3, X, Y, Z) in ppm: chi_para, chi_dia and R2'/Dr.
            target: what :class:`custom_transforms.losses.PrepareMeasuredBatch` gives.

        Returns:
            Scalar loss.
        """
        chi, r2prime = pred.split([2, 1], dim=-4)
        last = r2prime[:, -1] if r2prime.ndim == 6 else r2prime  # the same in all iterations
        label, mask = target[LABEL], split_image(target[IMAGE])[2]
        _, expected = combine_sources(label, target.get(RELAXIVITY_WEIGHTS))
        loss = self.r2prime_weight * (mask * (last - expected)).abs().mean() / self.scale_ppm
        return loss if self.sources is None else loss + self.sources(chi, label)
