"""Means and standard deviations of a data set against numpy, inside the masks only."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from custom_transforms.networks import ChiSepNet
from custom_transforms.statistics import dataset_statistics

NAMES = ("local_field", "r2prime", "chi_para", "chi_dia", "chi_total")


def volume(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(3, 4, 5, 6, generator=generator) + seed
    image[2] = (torch.rand(4, 5, 6, generator=generator) > 0.5).float()
    return {"image": image, "label": torch.rand(2, 4, 5, 6, generator=generator)}


def by_numpy(items: list[dict[str, Tensor]]) -> dict[str, np.ndarray]:
    inside = [item["image"][2].numpy() > 0 for item in items]
    channels = [
        np.concatenate([item["image"].numpy()[:2], item["label"].numpy()])[:, m]
        for item, m in zip(items, inside, strict=True)
    ]
    field, r2prime, para, dia = np.concatenate(channels, axis=1)
    return dict(zip(NAMES, (field, r2prime, para, dia, para - dia), strict=True))


def test_volumes_and_batches() -> None:
    items = [volume(seed) for seed in range(4)]
    expected = by_numpy(items[:3])
    for dataset, count in ((items, 3), ([{key: torch.stack([i[key] for i in items[:3]]) for key in items[0]}], 9)):
        statistics = dataset_statistics(dataset, count)
        assert tuple(statistics) == NAMES
        for name, (mean, std) in statistics.items():
            assert mean == pytest.approx(expected[name].mean(), rel=1e-5, abs=1e-6)
            assert std == pytest.approx(expected[name].std(), rel=1e-5)
    everything = np.stack([item["image"][0] for item in items[:3]])
    assert statistics["local_field"].mean_ppm != pytest.approx(everything.mean(), rel=1e-3)


def test_they_are_the_constants_of_a_network() -> None:
    statistics = dataset_statistics([volume(0)], 1)
    inputs = [statistics[name] for name in ("chi_total", "local_field", "r2prime")]
    outputs = [statistics[name] for name in ("chi_para", "chi_dia")]
    network = ChiSepNet(
        backbone=nn.Identity(),
        susceptibility=nn.Identity(),
        input_mean_ppm=[s.mean_ppm for s in inputs],
        input_std_ppm=[s.std_ppm for s in inputs],
        output_mean_ppm=[s.mean_ppm for s in outputs],
        output_std_ppm=[s.std_ppm for s in outputs],
    )
    state = network.state_dict()
    assert float(state["input_mean_ppm"].flatten()[1]) == pytest.approx(statistics["local_field"].mean_ppm)
    assert float(state["output_std_ppm"].flatten()[1]) == pytest.approx(statistics["chi_dia"].std_ppm)


def test_nothing_to_measure() -> None:
    empty = volume(0)
    empty["image"][2] = 0
    for dataset in ([], [empty]):
        with pytest.raises(ValueError, match="voxels inside the masks"):
            dataset_statistics(dataset, 1)
