"""Normalisation constants of a network, from its training set: mean and standard deviation of every map, in ppm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from custom_transforms.keys import CHI_DIA, CHI_PARA, CHI_TOTAL, IMAGE, LABEL, LOCAL_FIELD, R2PRIME


class MapStatistics(NamedTuple):
    """Mean and standard deviation of a map inside the masks of a data set, ppm."""

    mean_ppm: float
    std_ppm: float


def dataset_statistics(dataset: Iterable[Mapping[str, Tensor]], count: int) -> dict[str, MapStatistics]:
    """Measure the maps of a training set, over all voxels inside the masks.

    The constants of :class:`custom_transforms.networks.ChiSepNet` are, in a config,
    ``$[@statistics[name].mean_ppm for name in ('chi_total', 'local_field', 'r2prime')]`` and so on.

    Args:
        dataset: gives dictionaries with image (3, X, Y, Z) and label (2, X, Y, Z) in ppm, or batches of them.
        count: how many of its items are measured; all, if it has fewer.

    Returns:
        local_field, r2prime, chi_para, chi_dia and chi_total = chi_para - chi_dia, by name.

    Raises:
        ValueError: no item was measured, or the masks are empty.
    """
    names = (LOCAL_FIELD, R2PRIME, CHI_PARA, CHI_DIA, CHI_TOTAL)
    voxels = 0
    total, squares = torch.zeros(2, len(names), dtype=torch.float64)
    for item in islice(dataset, count):
        values = _inside(item)
        voxels += values.shape[1]
        total += values.sum(dim=1).cpu()
        squares += values.square().sum(dim=1).cpu()
    if voxels == 0:
        raise ValueError(f"expected voxels inside the masks of the first {count} items, got none; check data and count")
    mean = total / voxels
    std = (squares / voxels - mean.square()).clamp(min=0).sqrt()
    return {name: MapStatistics(*pair) for name, *pair in zip(names, mean.tolist(), std.tolist(), strict=True)}


def _inside(item: Mapping[str, Tensor]) -> Tensor:
    """Give the five maps of an item inside its mask, (5, voxels), float64."""
    maps = (item[key].movedim(-4, 0).flatten(1).double() for key in (IMAGE, LABEL))
    (field, r2prime, mask), (para, dia) = maps
    return torch.stack([field, r2prime, para, dia, para - dia])[:, mask > 0]
