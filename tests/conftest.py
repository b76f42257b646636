"""What all tests share: the grid of geometries, the tolerances with their reasons, the rule for CUDA tests."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType

import pytest
import torch

TOLERANCE: Mapping[str, float] = MappingProxyType(
    {
        "float64": 1e-12,  # algebraic identities: a few thousand roundings of 1e-16
        "float32": 1e-5,  # relative to the norm: FFTs and sums over a volume, each rounded at 6e-8
    }
)

SHAPES = {"even": (8, 6, 10), "odd": (7, 9, 5), "mixed": (8, 5, 6)}
VOXEL_SIZES_MM = {"isotropic": ((1.0, 1.0, 1.0), (0.8, 0.8, 0.8)), "anisotropic": ((0.9, 1.2, 2.0), (2.0, 0.7, 1.0))}
B0_DIRECTIONS = {"axial": ((0.0, 0.0, 1.0), (0.0, 0.0, 1.0)), "oblique": ((0.2, -0.4, 0.9), (0.6, 0.3, -0.5))}


@dataclass(frozen=True)
class Case:
    """One geometry; in a batch of two, the two samples differ.

    Attributes:
        shape: (X, Y, Z).
        voxel_size_mm: (B, 3), float64.
        b0_direction: (B, 3), unit vectors in voxel axes, float64.
        batch: B.
    """

    shape: tuple[int, int, int]
    voxel_size_mm: torch.Tensor
    b0_direction: torch.Tensor
    batch: int


def make_case(shape: str, voxel_size: str, b0: str, batch: int) -> Case:
    direction = torch.tensor(B0_DIRECTIONS[b0][:batch], dtype=torch.float64)
    return Case(
        shape=SHAPES[shape],
        voxel_size_mm=torch.tensor(VOXEL_SIZES_MM[voxel_size][:batch], dtype=torch.float64),
        b0_direction=torch.nn.functional.normalize(direction, dim=-1),
        batch=batch,
    )


@pytest.fixture(params=product(SHAPES, VOXEL_SIZES_MM, B0_DIRECTIONS, (1, 2)), ids=lambda p: "-".join(map(str, p)))
def geometry(request: pytest.FixtureRequest) -> Case:
    """Every combination of shape, voxel size, B0 direction and batch."""
    return make_case(*request.param)


@pytest.fixture(scope="session")
def tolerance() -> Mapping[str, float]:
    """Largest relative error, by floating point type."""
    return TOLERANCE


def pytest_configure() -> None:
    torch.set_num_threads(min(2, torch.get_num_threads()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))
