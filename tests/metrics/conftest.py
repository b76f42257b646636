"""What the tests of the metrics share: random maps, and a plain loop over volumes and sources."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

Maps = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Score = Callable[[np.ndarray, np.ndarray, np.ndarray], float]


@pytest.fixture
def maps() -> Maps:
    """Prediction and truth (3, 2, 9, 8, 11) in ppm, and mask (3, 1, 9, 8, 11)."""
    generator = torch.Generator().manual_seed(0)
    truth = 0.1 * torch.rand(3, 2, 9, 8, 11, generator=generator)
    pred = truth + 0.02 * torch.randn(truth.shape, generator=generator) + 0.01
    mask = (torch.rand(3, 1, 9, 8, 11, generator=generator) > 0.3).float()
    return pred, truth, mask


@pytest.fixture
def by_volume() -> Callable[[Score, Maps], np.ndarray]:
    """Apply a NumPy score (pred, truth, mask) -> float to every volume and source."""

    def apply(score: Score, maps: Maps) -> np.ndarray:
        pred, truth, mask = (x.double().numpy() for x in maps)
        result = np.empty(pred.shape[:2])
        for b, c in np.ndindex(*result.shape):
            result[b, c] = score(pred[b, c], truth[b, c], mask[b, 0] > 0)
        return result

    return apply
