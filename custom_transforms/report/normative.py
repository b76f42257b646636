"""Values of the regions, beside those of healthy people, and their tables as TSV.

    z = (mean - norm_mean) / norm_sd

The norm is the mean and standard deviation over 106 healthy subjects at 3 T. Where a region of the norm is divided in
ours, the parts are also put together (globus pallidus, all white matter). Three regions of the norm are not quite ours:
the cerebral peduncle stands for the corticospinal tract; of the corona radiata there are three parts, whose plain mean
is taken; and the whole thalamus is compared with ours, which is without the pulvinar.

References:
    Min et al. 2024, NMR Biomed 37:e5226, doi:10.1002/nbm.5226
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import convert_to_tensor
from torch import Tensor

from custom_transforms import keys
from custom_transforms.checks import InputError
from custom_transforms.phantom.structures import REGIONS, TRACT_REGIONS
from custom_transforms.transforms.base import image_name
from custom_transforms.transforms.geometry import check_same_grid, voxel_size_from_affine


class Norm(NamedTuple):
    """Mean and standard deviation over healthy subjects in ppb; an SD is NaN where we have none."""

    para: float
    para_sd: float
    dia: float
    dia_sd: float


_NO_SD = math.nan

NORMS = {
    "caudate": Norm(47.7, 7.4, 8.2, 4.9),
    "putamen": Norm(77.1, 20.6, 10.3, 5.9),
    "globus_pallidus": Norm(131.9, 10.4, 12.6, 7.3),
    "accumbens": Norm(45.4, 13.2, 23.4, 5.6),
    "substantia_nigra": Norm(115.7, 14.4, 11.1, 4.5),
    "red_nucleus": Norm(112.0, 14.8, 10.1, 4.1),
    "subthalamic_nucleus": Norm(112.1, 12.1, 15.3, 5.9),
    "pulvinar": Norm(52.1, 11.6, 4.4, 3.2),
    "thalamus": Norm(22.9, 4.1, 20.8, 3.6),
    "corpus_callosum_genu": Norm(17.8, 1.9, 30.8, 2.9),
    "corpus_callosum_body": Norm(14.8, 1.9, 35.1, 2.6),
    "corpus_callosum_splenium": Norm(16.5, 2.6, 42.3, 3.1),
    "corticospinal_tract": Norm(23.5, 2.8, 43.7, 4.1),
    "anterior_limb_internal_capsule": Norm(14.5, 2.2, 41.3, 4.0),
    "posterior_limb_internal_capsule": Norm(8.2, 2.7, 52.2, 3.0),
    "retrolenticular_internal_capsule": Norm(18.0, 2.9, 39.3, 3.3),
    "corona_radiata": Norm(14.0, _NO_SD, 30.3, _NO_SD),
    "posterior_thalamic_radiation": Norm(12.9, 2.5, 41.1, 4.0),
    "superior_longitudinal_fasciculus": Norm(22.6, _NO_SD, 32.7, _NO_SD),
    "all_white_matter": Norm(16.8, _NO_SD, 28.8, _NO_SD),
}
"""What is normal, by the names of regions."""

MERGED = {
    "globus_pallidus": ("pallidum_external", "pallidum_internal"),
    "all_white_matter": ("white_matter", *TRACT_REGIONS),
}
"""Regions that are put together of several."""

UNITS = {
    keys.CHI_PARA: "ppm",
    keys.CHI_DIA: "ppm",
    keys.CHI_TOTAL: "ppm",
    keys.R2PRIME: "1/s",
    keys.R2STAR: "1/s",
    keys.R2: "1/s",
}
"""The maps of the table, and their units."""

MISSING = "n/a"
"""BIDS' word for a value that is not known."""


class RegionValue(NamedTuple):
    """A row of the table: one map in one region.

    Attributes:
        region: name of the region.
        quantity: name of the map.
        unit: of all values but z.
        volume_mm3: of the region.
        mean: over the voxels of the region.
        sd: standard deviation over them.
        median: over them; vessels and errors at the border move it less than the mean.
        norm_mean: mean over healthy subjects; NaN if unknown.
        norm_sd: standard deviation over them; NaN if unknown.
        z: how many of their standard deviations the mean is above theirs; NaN if unknown.
    """

    region: str
    quantity: str
    unit: str
    volume_mm3: float
    mean: float
    sd: float
    median: float
    norm_mean: float
    norm_sd: float
    z: float


def region_table(
    maps: Mapping[str, Tensor], labels: Tensor, *, voxel_size_mm: Sequence[float] | Tensor | None = None
) -> list[RegionValue]:
    """Give mean, SD and median of every map in every region, and where they are known the normal values.

    Args:
        maps: those of :data:`UNITS` that there are, (1, X, Y, Z); others are left out.
        labels: (1, X, Y, Z), indices of ``REGIONS``; 0 outside.
        voxel_size_mm: (3,), or None to take it from the affine of the labels.

    Returns:
        A row for each region that has voxels and each map, in the order of ``REGIONS``, merged regions last.

    Raises:
        ValueError: maps on another grid, or labels without affine and no voxel size.
    """
    if voxel_size_mm is None:
        if not isinstance(labels, MetaTensor):
            raise ValueError("expected labels with an affine, or voxel_size_mm, got neither; pass voxel_size_mm")
        voxel_size_mm = voxel_size_from_affine(labels.affine)
    shown = {key: maps[key] for key in UNITS if key in maps}
    for key, values in shown.items():
        check_same_grid(image_name(key, values), values, image_name(keys.REGIONS, labels), labels)
    voxel_mm3 = math.prod(map(float, voxel_size_mm))
    flat = {key: convert_to_tensor(values, track_meta=False).flatten().cpu() for key, values in shown.items()}
    return [
        _describe(region, key, values[voxels], len(voxels) * voxel_mm3)
        for region, voxels in _voxels(convert_to_tensor(labels, track_meta=False).flatten().cpu())
        for key, values in flat.items()
    ]


def _voxels(labels: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Give the name of every region, the merged ones too, and the places of its voxels."""
    inside = labels.nonzero()[:, 0]
    order = inside[labels[inside].argsort(stable=True)]
    counts = labels[inside].long().bincount(minlength=len(REGIONS)).tolist()
    parts = dict(zip(REGIONS, order.split(counts), strict=True))
    parts |= {name: torch.cat([parts[part] for part in those]) for name, those in MERGED.items()}
    yield from ((name, voxels) for name, voxels in parts.items() if len(voxels))


def _describe(region: str, key: str, values: Tensor, volume_mm3: float) -> RegionValue:
    values = values.double()
    mean, sd, median = float(values.mean()), float(values.std(correction=0)), float(np.median(values.numpy()))
    norm_mean, norm_sd = _norm_ppm(region, key)
    z = (mean - norm_mean) / norm_sd
    return RegionValue(region, key, UNITS[key], volume_mm3, mean, sd, median, norm_mean, norm_sd, z)


def _norm_ppm(region: str, key: str) -> tuple[float, float]:
    """Give mean and SD over healthy subjects in ppm, NaN where they are not known."""
    norm = NORMS.get(region)
    if norm is None or key not in (keys.CHI_PARA, keys.CHI_DIA):
        return math.nan, math.nan
    mean, sd = norm[:2] if key == keys.CHI_PARA else norm[2:]
    return mean / 1000, sd / 1000


def write_tsv(path: Path, rows: Iterable[RegionValue]) -> None:
    """Write a table as BIDS has them: tabs, a header, n/a for what is not known.

    Args:
        path: file that ends in .tsv; its folder is made if need be.
        rows: what :func:`region_table` gives.
    """
    _write(path, RegionValue._fields, ([_text(value) for value in row] for row in rows))


def cohort_table(tables: Sequence[Path], output: Path) -> None:
    """Put the tables of several subjects below one another, with their names as participant_id and session_id.

    Args:
        tables: files of :func:`write_tsv`, whose names or folders tell the subject, such as sub-01/sub-01_regions.tsv.
        output: file that ends in .tsv; its folder is made if need be.

    Raises:
        InputError: no tables, one without a subject in its path, or one with other columns.
    """
    if not tables:
        raise InputError("there are no tables of regions to put together; give at least one")
    names = [_subject(path) for path in tables]
    rows = [[*name, *row] for name, path in zip(names, tables, strict=True) for row in _read(path)]
    _write(output, ["participant_id", "session_id", *RegionValue._fields], rows)


def _subject(path: Path) -> tuple[str, str]:
    """Give subject and session by the last part of a path that names them."""
    found = [re.findall(rf"{entity}-[0-9A-Za-z]+", "/".join(path.parts)) for entity in ("sub", "ses")]
    if not found[0]:
        raise InputError(f"{path} names no subject; call the file or its folder sub-01 or the like")
    return found[0][-1], found[1][-1] if found[1] else MISSING


def _read(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file, delimiter="\t")) or [[]]
    if tuple(header) != RegionValue._fields:
        raise InputError(f"{path} is no table of regions: its columns are {', '.join(header) or 'none'}; make it anew")
    return rows


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([header, *rows])


def _text(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.6g}" if math.isfinite(value) else MISSING
