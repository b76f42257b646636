"""Measurements of random maps, and small networks, for the tests of this folder."""

from collections.abc import Callable

import pytest
import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from custom_transforms.bundle_path import bundle_path
from custom_transforms.networks import ChiSepNet, Frozen, GradientUnrolledChiSepNet, UnrolledChiSepNet
from custom_transforms.physics import tikhonov_inversion


class Susceptibility(nn.Module):
    """A stand-in for QSMnet: a little gain that would be trained if it were not frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(
        self,
        image: Tensor,
        voxel_size_mm: Tensor | None = None,
        b0_direction: Tensor | None = None,
        relaxivity_weights: Tensor | None = None,
    ) -> Tensor:
        return self.gain * tikhonov_inversion(image[:, 0:1], voxel_size_mm, b0_direction)


class Backbone(nn.Module):
    """Two convolutions at half resolution and back: odd sizes fail without padding."""

    def __init__(self, in_channels: int, out_channels: int = 2) -> None:
        super().__init__()
        self.down = nn.Conv3d(in_channels, 4, 2, stride=2)
        self.up = nn.ConvTranspose3d(4, out_channels, 2, stride=2)
        self.skip = nn.Conv3d(in_channels, out_channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return self.skip(features) + self.up(torch.relu(self.down(features)))


@pytest.fixture
def unrolled() -> Callable[..., UnrolledChiSepNet]:
    def make(**options: object) -> UnrolledChiSepNet:
        torch.manual_seed(0)
        return UnrolledChiSepNet(backbone=Backbone(5), **{"iterations": 2, "size_divisor": 2, **options})

    return make


@pytest.fixture
def dynunet() -> UnrolledChiSepNet:
    """The bundle's own network, made small."""
    config = ConfigParser.load_config_file(bundle_path() / "configs" / "train.json")
    config |= {"channels": [4, 4, 8], "iterations": 2, "amp": False}
    torch.manual_seed(0)
    network: UnrolledChiSepNet = ConfigParser(config).get_parsed_content("network_def")
    return network


@pytest.fixture
def direct() -> Callable[..., ChiSepNet]:
    def make(**options: object) -> ChiSepNet:
        torch.manual_seed(0)
        frozen = Frozen(Susceptibility())
        return ChiSepNet(backbone=Backbone(3), susceptibility=frozen, **{"size_divisor": 2, **options})

    return make


@pytest.fixture
def gradient() -> Callable[..., GradientUnrolledChiSepNet]:
    def make(**options: object) -> GradientUnrolledChiSepNet:
        torch.manual_seed(0)
        options = {"susceptibility": Frozen(Susceptibility()), "iterations": 3, "size_divisor": 2} | options
        return GradientUnrolledChiSepNet(**{"backbone": Backbone(2), **options})

    return make


@pytest.fixture
def backbone() -> Callable[..., nn.Module]:
    def make(in_channels: int, out_channels: int) -> nn.Module:
        torch.manual_seed(0)
        return Backbone(in_channels, out_channels)

    return make


@pytest.fixture
def measure() -> Callable[..., Tensor]:
    """Random local field, R2'/Dr and mask, (B, 3, X, Y, Z), of typical sizes."""

    def make(batch: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        field = 0.02 * torch.randn(batch, 1, *shape, generator=generator)
        r2prime = 0.1 * torch.rand(batch, 1, *shape, generator=generator)
        mask = (torch.rand(batch, 1, *shape, generator=generator) > 0.2).float()
        return torch.cat([field * mask, r2prime * mask, mask], dim=1)

    return make
