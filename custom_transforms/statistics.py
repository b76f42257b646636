"""Normalisation constants of a network, from its training set: mean and standard deviation of every map, in ppm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from custom_transforms.keys import (
    CHI_DIA,
    CHI_PARA,
    CHI_TOTAL,
    IMAGE,
    LABEL,
    LOCAL_FIELD,
    R2PRIME,
    RATE,
    RELAXIVITY_WEIGHTS,
    split_image,
)
from custom_transforms.networks.frozen import own_modules
from custom_transforms.networks.z_score import ZScore
from custom_transforms.physics import combine_sources

_MEASURED = 16  # volumes or batches


class MapStatistics(NamedTuple):
    """Mean and standard deviation of a map inside the masks of a data set, ppm."""

    mean_ppm: float
    std_ppm: float


def set_normalisation(network: nn.Module, dataset: Iterable[Mapping[str, Tensor]]) -> None:
    """Measure the training set and give every :class:`ZScore` of a network its constants.

    A network without one is left alone, and so is what is :class:`custom_transforms.networks.Frozen`. The constants
    are stored with the weights.

    Args:
        network: changed in place.
        dataset: see :func:`dataset_statistics`; its first 16 items are measured.

    Raises:
        ValueError: see :func:`dataset_statistics`.
    """
    scales = [module for module in own_modules(network).values() if isinstance(module, ZScore)]
    if scales:
        statistics = dataset_statistics(dataset, _MEASURED)
        for scale in scales:
            scale.set_constants(statistics)


def dataset_statistics(
    dataset: Iterable[Mapping[str, Tensor] | list[Mapping[str, Tensor]]], count: int
) -> dict[str, MapStatistics]:
    """Measure the maps of a training set, over all voxels inside the masks.

    Args:
        dataset: gives dictionaries with image (3, X, Y, Z) and label (2, X, Y, Z) in ppm and, unless Dr is single,
            relaxivity_weights (2,); or batches of them; or lists of patches.
        count: how many of its items are measured; all, if it has fewer.

    Returns:
        By name: local_field; rate, the second channel of the image; chi_para, chi_dia, and what follows from them,
        chi_total = chi_para - chi_dia and r2prime, R2'/Dr.

    Raises:
        ValueError: no item was measured, or the masks are empty.
    """
    names = (LOCAL_FIELD, RATE, CHI_PARA, CHI_DIA, CHI_TOTAL, R2PRIME)
    voxels = 0
    total, squares = torch.zeros(2, len(names), dtype=torch.float64)
    for item in islice(dataset, count):
        for volume in item if isinstance(item, list) else [item]:
            values = _inside(volume)
            voxels += values.shape[1]
            total += values.sum(dim=1).cpu()
            squares += values.square().sum(dim=1).cpu()
    if voxels == 0:
        raise ValueError(f"expected voxels inside the masks of the first {count} items, got none; check data and count")
    mean = total / voxels
    std = (squares / voxels - mean.square()).clamp(min=0).sqrt()
    return {name: MapStatistics(*pair) for name, *pair in zip(names, mean.tolist(), std.tolist(), strict=True)}


def _inside(item: Mapping[str, Tensor]) -> Tensor:
    """Give the six maps of an item, or of a batch, inside its mask, (6, voxels), float64."""
    image, label = (item[key].double().reshape(-1, *item[key].shape[-4:]) for key in (IMAGE, LABEL))
    weights = item.get(RELAXIVITY_WEIGHTS)
    q, r2prime = combine_sources(label, None if weights is None else weights.reshape(-1, 2))
    field, rate, mask = split_image(image)
    maps = torch.cat([field, rate, label, q, r2prime], dim=1)
    return maps.movedim(1, 0).flatten(1)[:, mask.flatten() > 0]
