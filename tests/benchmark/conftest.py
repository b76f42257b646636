"""Results that were not measured, and a small measured head as a data set."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from custom_transforms.benchmark.measurement import Result, keep
from custom_transforms.benchmark.scoring import METRICS
from custom_transforms.keys import CHI_DIA, CHI_PARA
from custom_transforms.simulate import simulate

SLICE = np.pad(np.full((2, 6, 7), 0.05), ((0, 0), (1, 1), (1, 1)))


@pytest.fixture
def make_result(tmp_path: Path) -> Callable[..., Result]:
    """Keep a result whose metrics all have one value, but for those named; give it as it is read again."""

    def make(
        variant: str,
        value: float,
        *,
        case: str = "sub-01",
        rate: str = "r2prime",
        mean_relaxivity: bool = False,
        without: tuple[str, ...] = (),
    ) -> Result:
        means = [[0.01, 0.01 * value], [0.05, 0.05 * value]]
        result = {
            "case": case,
            "variant": variant,
            "rate": rate,
            "mean_relaxivity": mean_relaxivity,
            "hardware": "an abacus",
            "metrics": {name: value for name in METRICS if name not in without},
            "region_means": {CHI_PARA: means, CHI_DIA: means},
        }
        path = tmp_path / "kept" / f"{case}-{variant}.json"
        keep(path, result, {"truth": SLICE, "estimate": value * SLICE, "aspect": 1.5}, {})
        return Result.load(path)

    return make


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One coarse head with lesions, measured with two relaxivities."""
    folder = tmp_path_factory.mktemp("benchmark") / "dataset"
    simulate(
        output=str(folder),
        voxel_size=(5.0, 5.0, 5.0),
        seed=3,
        lesions=8,
        b0_tesla=2.9,
        relaxivity_para=130.0,
        relaxivity_dia=110.0,
    )
    return folder
