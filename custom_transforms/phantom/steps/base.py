"""What every step of a simulation is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from custom_transforms.phantom.random_draws import Draws

Maps = dict[str, Tensor]
"""Maps (B, 1, X, Y, Z) under the names of :mod:`custom_transforms.keys`, and their geometry (B, 3)."""


class Step(ABC):
    """Changes the maps of a batch."""

    @abstractmethod
    def __call__(self, maps: Maps, draws: Draws) -> Maps:
        """Give new maps; those passed in are left alone."""


class Imperfection(Step):
    """A step that only some of the volumes get.

    Args:
        probability: chance that a volume gets it.

    Raises:
        ValueError: a probability outside 0 to 1.
    """

    def __init__(self, *, probability: float = 1.0) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be from 0 to 1, got {probability}")
        self.probability = probability

    def chosen(self, draws: Draws) -> Tensor:
        """Draw which volumes get it, (B, 1, 1, 1, 1) bool."""
        return column(draws.uniform(0.0, 1.0) < self.probability)


def column(values: Tensor) -> Tensor:
    """Shape one value for each volume, (B,), to be broadcast against maps: (B, 1, 1, 1, 1)."""
    return values.reshape(-1, 1, 1, 1, 1)
