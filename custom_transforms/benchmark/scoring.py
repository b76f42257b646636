"""The metrics of one reconstruction: of voxels, of regions, of lesions. All of them look at the mask alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from custom_transforms.keys import CHI_DIA, CHI_PARA
from custom_transforms.metrics import (
    deep_grey_linearity,
    fit_line,
    hfen_percent,
    leakage,
    lesion_fit,
    nrmse_percent,
    psnr_db,
    region_means,
    ssim,
    xsim,
)
from custom_transforms.report.scores import DETAIL_COLUMNS, MAIN_COLUMNS

DEEP_GREY = (
    "caudate",
    "putamen",
    "pallidum_external",
    "pallidum_internal",
    "accumbens",
    "thalamus",
    "pulvinar",
    "subthalamic_nucleus",
    "substantia_nigra",
    "red_nucleus",
    "dentate_nucleus",
)
"""Names in dseg.tsv of the nuclei that the deep grey linearity is of."""

LESIONS = ("haemorrhage", "calcification")
"""Names in dseg.tsv of the lesions of chi_para and of chi_dia."""

METRICS = (*MAIN_COLUMNS, *DETAIL_COLUMNS)
"""Names of all metrics; wall time and peak memory are the worker's."""

_ABSENT = -1
_NO_REGIONS = ("background", *LESIONS)
_VOXELWISE = {"nrmse": nrmse_percent, "psnr": psnr_db, "leakage": leakage}
_STRUCTURAL = {"ssim": ssim, "xsim": xsim, "hfen": hfen_percent}


class Scores(NamedTuple):
    """What is measured of a reconstruction.

    Attributes:
        metrics: by the names of METRICS, without those that the data do not allow.
        region_means: for chi_para and chi_dia pairs of truth and estimate in ppm, one for each region.
    """

    metrics: dict[str, float]
    region_means: dict[str, list[list[float]]]


def score(estimate: Tensor, truth: Tensor, mask: Tensor, regions: Tensor | None, labels: Mapping[str, int]) -> Scores:
    """Score a reconstruction.

    Args:
        estimate: (1, 2, X, Y, Z), chi_para and chi_dia in ppm.
        truth: the same.
        mask: (1, 1, X, Y, Z), 1 in the brain.
        regions: (1, 1, X, Y, Z), integer labels, or None.
        labels: label of each region by its name.

    Returns:
        Its scores.
    """
    inside = mask > 0.5
    estimate, truth = (torch.where(inside, chi.double(), 0.0) for chi in (estimate, truth))
    found = {name: metric(estimate, truth, mask) for name, metric in _STRUCTURAL.items()}
    a, b = (_voxels(chi, inside) for chi in (estimate, truth))  # a third of the voxels, whose places do not matter
    whole = torch.ones_like(a[:, :1])
    found |= {name: metric(a, b, whole) for name, metric in _VOXELWISE.items()}
    metrics = {f"{name}_{source}": value for name, values in found.items() for source, value in _by_source(values)}
    demeaned = _by_source(nrmse_percent(a, b, whole, demean=True))
    metrics |= {f"nrmse_{source}_demeaned": value for source, value in demeaned}
    total, true_total = (chi[:, :1] - chi[:, 1:] for chi in (a, b))
    metrics["nrmse_total_demeaned"] = float(nrmse_percent(total, true_total, whole, demean=True))
    means: dict[str, list[list[float]]] = {}
    if regions is not None:
        more, means = _score_regions(a, b, _voxels(regions, inside), labels)
        metrics |= more | _score_lesions(estimate, truth, torch.where(inside, regions, 0), labels)
    return Scores({name: value for name, value in metrics.items() if math.isfinite(value)}, means)


def _voxels(values: Tensor, inside: Tensor) -> Tensor:
    """Give what is inside (1, 1, X, Y, Z) of a volume (1, C, X, Y, Z), as (1, C, N, 1, 1)."""
    return values[:, :, inside[0, 0]][..., None, None]


def _by_source(values: Tensor) -> list[tuple[str, float]]:
    return list(zip(("para", "dia"), values.flatten().tolist(), strict=True))


def _score_regions(
    estimate: Tensor, truth: Tensor, regions: Tensor, labels: Mapping[str, int]
) -> tuple[dict[str, float], dict[str, list[list[float]]]]:
    """Give the metrics of the regions, and their means."""
    nuclei = [labels[name] for name in DEEP_GREY if name in labels]
    others = [label for name, label in labels.items() if name not in _NO_REGIONS]
    if not others:
        return {}, {}
    x, y = (region_means(chi, regions, labels=others)[0] for chi in (truth, estimate))
    metrics = {f"region_slope_{source}": value for source, value in _by_source(fit_line(x, y).slope)}
    if nuclei:
        linearity = deep_grey_linearity(estimate, truth, regions, labels=nuclei)
        metrics |= {f"linearity_{source}": value for source, value in _by_source(linearity)}
    pairs = torch.stack([x, y], dim=-1)
    return metrics, {source: pairs[i][~x[i].isnan()].tolist() for i, source in enumerate((CHI_PARA, CHI_DIA))}


def _score_lesions(estimate: Tensor, truth: Tensor, regions: Tensor, labels: Mapping[str, int]) -> dict[str, float]:
    """Give the recovery of each source's own lesions."""
    slopes: dict[str, float] = {}
    for i, (source, name) in enumerate(zip(("para", "dia"), LESIONS, strict=True)):
        lesions = regions == labels.get(name, _ABSENT)
        if lesions.any():
            own = slice(i, i + 1)
            slopes[f"lesion_slope_{source}"] = float(lesion_fit(estimate[:, own], truth[:, own], lesions).slope)
    return slopes
