r"""Error measures of susceptibility maps, as functions and as Ignite metrics.

NRMSE = 100 |a - b| / |b|  over the mask, in percent
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite import distributed as idist
from ignite.metrics import Metric
from torch import Tensor


def nrmse_percent(pred: Tensor, truth: Tensor, mask: Tensor, *, demean: bool = False) -> Tensor:
    """Normalised root mean square error in the mask, for every volume and channel.

    Args:
        pred: (B, C, X, Y, Z) in any unit.
        truth: (B, C, X, Y, Z) in the same unit.
        mask: (B, 1, X, Y, Z).
        demean: subtract the mean in the mask from both first.

    Returns:
        (B, C) in percent.
    """
    m = mask > 0.5
    pred, truth = torch.where(m, pred, 0.0), torch.where(m, truth, 0.0)
    if demean:
        volume = m.sum(dim=(2, 3, 4), keepdim=True).clamp(min=1)
        pred, truth = (x - m * x.sum(dim=(2, 3, 4), keepdim=True) / volume for x in (pred, truth))
    return 100 * (pred - truth).flatten(2).norm(dim=2) / truth.flatten(2).norm(dim=2)


class NRMSE(Metric):
    """Mean NRMSE over volumes and sources, in percent.

    Args:
        output_transform: engine output to (pred, truth, mask), (B, C, X, Y, Z) each.
        source: channel to look at; the mean over the channels if None.
        demean: see :func:`nrmse_percent`.
    """

    def __init__(
        self, output_transform: Callable[[Any], Any] = lambda x: x, *, source: int | None = None, demean: bool = False
    ) -> None:
        self.source = source
        self.demean = demean
        super().__init__(output_transform=output_transform)

    def reset(self) -> None:
        """Forget all volumes."""
        self._values: list[Tensor] = []

    def update(self, output: tuple[Tensor, Tensor, Tensor]) -> None:
        """Add the volumes of one batch."""
        pred, truth, mask = (x.detach().float() for x in output)
        values = nrmse_percent(pred, truth, mask, demean=self.demean)
        self._values.append(values if self.source is None else values[:, self.source])

    def compute(self) -> float:
        """Give the mean over all volumes so far, on all ranks in distributed training."""
        if not self._values:
            raise ValueError("NRMSE needs at least one volume before compute()")
        values = torch.cat([v.flatten() for v in self._values])
        total, count = (idist.all_reduce(float(x)) for x in (values.sum(), len(values)))
        return float(total) / float(count)
