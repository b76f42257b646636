"""A small head with everything that the studies look at, and a network that is known."""

import pytest
import torch
from torch import Tensor, nn

from custom_transforms import keys
from custom_transforms.phantom.brain import AFFINE, MS_LESIONS
from custom_transforms.phantom.structures import REGIONS
from custom_transforms.reproduce.papers_pipelines import MeasuredHead

SHAPE = (28, 26, 24)
CENTRE = torch.tensor([14, 13, 12])


def make_tissue(seed: int = 0) -> dict[str, Tensor]:
    """A ball of white matter with fluid, a nucleus, two haemorrhages and two MS lesions."""
    points = torch.stack(torch.meshgrid(*(torch.arange(n) for n in SHAPE), indexing="ij"), dim=-1)

    def ball(offset: tuple[int, int, int], radius: float) -> Tensor:
        return (points - CENTRE - torch.tensor(offset)).float().norm(dim=-1) <= radius

    mask = ball((0, 0, 0), 10)
    regions = mask * REGIONS["white_matter"]
    regions[ball((0, 0, 7), 2)] = REGIONS["cerebrospinal_fluid"]
    regions[ball((0, 6, 0), 2)] = REGIONS["putamen"]
    para, dia = 0.02 * mask, 0.03 * mask
    lesions = torch.zeros_like(regions)
    for number, (offset, change) in enumerate((((-5, 0, 0), 0.03), ((5, 0, 0), 0.0)), start=1):
        lesions[ball(offset, 2)] = number
        para, dia = para + change * ball(offset, 2), dia - 0.015 * ball(offset, 2)
    for offset, chi in (((0, -6, 0), 0.4), ((0, 0, -6), 0.9)):
        regions[ball(offset, 1.5)] = REGIONS["haemorrhage"]
        para = torch.where(ball(offset, 1.5), chi, para)
    para[regions == REGIONS["putamen"]] = 0.08
    noise = 1 + 0.1 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    affine = torch.eye(4, dtype=torch.float64)
    maps = {keys.CHI_PARA: para * noise, keys.CHI_DIA: dia * noise, keys.R2: 14.0 * mask, keys.PROTON_DENSITY: mask}
    return {
        **{name: values[None].float() for name, values in maps.items()},
        keys.MASK: mask[None].float(),
        keys.REGIONS: regions[None].to(torch.uint8),
        MS_LESIONS: lesions[None].to(torch.uint8),
        keys.VOXEL_SIZE_MM: torch.ones(3),
        keys.B0_DIRECTION: torch.tensor([0.0, 0.0, 1.0]),
        AFFINE: affine,
    }


class Scaled(nn.Module):
    """chi_para is the rate times a parameter, chi_dia is nothing; its chi_total is the field."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.susceptibility = Field()

    def forward(self, image: Tensor, *geometry: Tensor | None) -> Tensor:
        return torch.cat([self.factor * image[:, 1:2], 0 * image[:, 1:2]], dim=1)


class Field(nn.Module):
    def forward(self, image: Tensor, *geometry: Tensor | None) -> Tensor:
        return image[:, :1]


@pytest.fixture(scope="session")
def head() -> MeasuredHead:
    return MeasuredHead(make_tissue(), orientations=4, snr=1e6, seed=0)


@pytest.fixture
def tissue_of():
    """Seed to tissue."""
    return make_tissue


@pytest.fixture
def make_head():
    """(index, orientations) to a head."""
    return lambda index, orientations: MeasuredHead(make_tissue(index), orientations=orientations, snr=100.0, seed=1)


@pytest.fixture
def scaled() -> type[Scaled]:
    return Scaled
