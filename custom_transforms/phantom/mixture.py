"""Several phantoms in turns, by chance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from custom_transforms.phantom.datasets import Phantom


class PhantomMixture:
    """Draws a phantom for every batch.

    Args:
        phantoms: (batch, generator) to tissue maps, such as :class:`RandomShapes` and :class:`WarpedAnatomy`.
        weights: how often each is drawn, relative to the others.

    Raises:
        ValueError: there is not one weight for each phantom, or the weights are negative or all zero.
    """

    def __init__(self, *, phantoms: Sequence[Phantom], weights: Sequence[float]) -> None:
        if len(phantoms) != len(weights):
            raise ValueError(
                f"weights must hold one number for each phantom, got {len(weights)} for {len(phantoms)} phantoms"
            )
        if not phantoms or min(weights) < 0 or max(weights) <= 0:
            raise ValueError(f"weights must be zero or more, and one of them positive, got {list(weights)}")
        self.phantoms = list(phantoms)
        self.weights = list(weights)

    def __call__(self, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Make a batch of one of the phantoms.

        Args:
            batch: number of volumes.
            generator: source of all randomness, on the phantoms' device.

        Returns:
            Its tissue maps.
        """
        weights = torch.tensor(self.weights, dtype=torch.float64, device=generator.device)
        drawn = torch.multinomial(weights, 1, generator=generator)
        return self.phantoms[int(drawn)](batch, generator)
