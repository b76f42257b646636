"""Means and standard deviations of a data set against numpy, inside the masks only."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from custom_transforms.networks import Frozen, QsmNet
from custom_transforms.networks.z_score import ZScore
from custom_transforms.statistics import dataset_statistics, set_normalisation

NAMES = ("local_field", "rate", "chi_para", "chi_dia", "chi_total", "r2prime")


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
    field, rate, para, dia = np.concatenate(channels, axis=1)
    return dict(zip(NAMES, (field, rate, para, dia, para - dia, para + dia), strict=True))


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


def test_patches_and_two_relaxivities() -> None:
    items = [{**volume(seed), "relaxivity_weights": torch.tensor([1.2, 0.8])} for seed in range(2)]
    statistics = dataset_statistics([items], 1)
    expected = by_numpy(items)
    assert statistics["local_field"].std_ppm == pytest.approx(expected["local_field"].std(), rel=1e-5)
    weighted = 1.2 * expected["chi_para"] + 0.8 * expected["chi_dia"]
    assert statistics["r2prime"].mean_ppm == pytest.approx(weighted.mean(), rel=1e-5)


def test_a_network_gets_its_constants_and_a_frozen_one_keeps_its_own() -> None:
    statistics = dataset_statistics([volume(0)], 1)
    network, frozen = QsmNet(backbone=nn.Identity()), Frozen(QsmNet(backbone=nn.Identity()))
    set_normalisation(nn.ModuleList([network, frozen]), [volume(0)])
    mean, std = statistics["local_field"]
    assert float(network.mapping.inputs.mean_ppm) == pytest.approx(mean)
    assert float(network.mapping.inputs.std_ppm) == pytest.approx(std)
    assert float(network.mapping.outputs.std_ppm) == pytest.approx(statistics["chi_total"].std_ppm)
    assert float(frozen.network.mapping.inputs.std_ppm) == 1
    set_normalisation(nn.Identity(), [])  # measures nothing where nothing is scaled


def test_constants_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="field missing"):
        ZScore(["chi", "field"]).set_constants({"chi": (0.0, 1.0)})
    with pytest.raises(ValueError, match="chi does not vary"):
        ZScore(["chi"]).set_constants({"chi": (0.1, 0.0)})


def test_nothing_to_measure() -> None:
    empty = volume(0)
    empty["image"][2] = 0
    for dataset in ([], [empty]):
        with pytest.raises(ValueError, match="voxels inside the masks"):
            dataset_statistics(dataset, 1)
