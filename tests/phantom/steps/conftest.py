"""A small batch of tissue, and of its exact maps, that the steps change."""

import pytest
import torch
from torch import Tensor

from custom_transforms import keys
from custom_transforms.phantom import RandomShapes
from custom_transforms.phantom.random_draws import Draws
from custom_transforms.phantom.steps import ExactMaps, Maps


@pytest.fixture
def draws() -> Draws:
    return Draws(2, torch.Generator().manual_seed(7), torch.device("cpu"))


@pytest.fixture
def tissue() -> Maps:
    """Two volumes of odd size with unlike voxels, B0 oblique."""
    maps = RandomShapes(shape=(27, 24, 22))(2, torch.Generator().manual_seed(0))
    return {
        **maps,
        keys.VOXEL_SIZE_MM: torch.tensor([[1.0, 1.0, 1.0], [0.8, 0.8, 2.0]]),
        keys.B0_DIRECTION: torch.tensor([[0.0, 0.0, 1.0], [0.6, 0.0, 0.8]]),
        keys.RELAXIVITY_WEIGHTS: torch.tensor([[1.0, 1.0], [1.1, 0.9]]),
    }


@pytest.fixture
def exact(tissue: Maps, draws: Draws) -> Maps:
    return ExactMaps()(tissue, draws)


@pytest.fixture
def ball() -> Tensor:
    """A ball of radius 15 voxels in the middle of (2, 1, 40, 40, 40), 0 and 1."""
    axes = torch.meshgrid(*[torch.arange(40.0) - 19.5] * 3, indexing="ij")
    return (torch.stack(axes).norm(dim=0) < 15).float().expand(2, 1, 40, 40, 40)
