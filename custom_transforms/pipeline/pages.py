"""What people look at: the report of a scan, and the tables of regions of a scan and of a cohort."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.utils import convert_to_tensor
from torch import Tensor

from custom_transforms import keys
from custom_transforms.atlas import register_atlas
from custom_transforms.physics import relaxivity_weights
from custom_transforms.pipeline.derivatives import REGIONS, REPORT, WORK, scan_path, write_map
from custom_transforms.report.html import write_report
from custom_transforms.report.html_maps import APPEARANCES, FIELD_RESIDUAL, RATE_RESIDUAL, MapForReport
from custom_transforms.report.html_regions import RegionRow
from custom_transforms.report.html_residuals import field_residual, rate_residual
from custom_transforms.report.normative import RegionValue, cohort_table, region_table, write_tsv
from custom_transforms.separation import SD_MAPS
from custom_transforms.transforms.geometry import voxel_size_from_affine

_SHOWN = (
    keys.MAGNITUDE,
    keys.CHI_PARA,
    keys.CHI_DIA,
    keys.CHI_TOTAL,
    *SD_MAPS,
    keys.LOCAL_FIELD,
    keys.TOTAL_FIELD,
    keys.R2PRIME,
    keys.R2STAR,
    keys.R2,
    keys.FIELD_QUALITY,
)
"""Order of the maps in the report: the answer first, then what it comes from."""


def _values(image: MetaTensor) -> Tensor:
    return image.as_tensor().float()


def _residuals(maps: Mapping[str, MetaTensor], record: Mapping[str, Any]) -> dict[str, MapForReport]:
    """Give what the separation leaves unexplained of the field, and of R2' if that was measured."""
    separation, mask = record["separation"], _values(maps[keys.MASK])
    if not {keys.CHI_PARA, keys.CHI_DIA} <= maps.keys():
        return {}
    para, dia = _values(maps[keys.CHI_PARA]), _values(maps[keys.CHI_DIA])
    direction = torch.tensor(separation["geometry"]["b0_direction_voxel_axes"])
    voxel_size = voxel_size_from_affine(maps[keys.MASK].affine)
    field = field_residual(_values(maps[keys.LOCAL_FIELD]), para - dia, mask, voxel_size, direction)
    shown = {FIELD_RESIDUAL: MapForReport.named(FIELD_RESIDUAL, field[0].numpy())}
    if keys.R2PRIME in maps and separation["r2prime"] == "measured":
        settings = separation["settings"]
        dr, *weights = relaxivity_weights(settings["relaxivity_para_per_s_ppm"], settings["relaxivity_dia_per_s_ppm"])
        rate = rate_residual(
            _values(maps[keys.R2PRIME]),
            para,
            dia,
            mask,
            relaxivity_per_s_ppm=dr,
            relaxivity_weights=torch.tensor(weights),
        )
        shown[RATE_RESIDUAL] = MapForReport.named(RATE_RESIDUAL, rate[0].numpy())
    return shown


def write_regions(dataset: Path, name: str, maps: Mapping[str, MetaTensor]) -> tuple[list[RegionRow], str, list[str]]:
    """Find the regions of a scan, and write their labels and values.

    Args:
        dataset: folder of the derivative.
        name: of the scan.
        maps: (1, X, Y, Z) by key, with their affine; mask among them.

    Returns:
        The rows of the report, how the regions were found, and warnings.
    """
    try:
        atlas = register_atlas(maps, maps[keys.MASK])
    except ValueError as error:  # such as a slab; the maps are as good without regions
        return [], "", [f"no table of regions: {error}"]
    fit = ", ".join(f"{APPEARANCES[key].title} {value:.2f}" for key, value in atlas.correlation.items())
    covers = f"{atlas.overlap:.0%} of the mask"
    if not atlas.fits:
        found = f"the template fits badly, with correlations of {fit}, and covers {covers}"
        return [], "", [f"no table of regions: {found}; look whether the image is oriented as its header says"]
    note = f"The template was registered by elastix; correlation with it: {fit}; it covers {covers}."
    labels = MetaTensor(convert_to_tensor(atlas.labels, track_meta=False), affine=maps[keys.MASK].affine)
    rows = region_table(maps, labels)
    write_map(dataset, name, keys.REGIONS, labels, {"Method": note})
    write_tsv(scan_path(dataset, name, REGIONS), rows)
    return [_row(value) for value in rows], note, []


def _row(value: RegionValue) -> RegionRow:
    norm_mean, norm_sd, z = (x if math.isfinite(x) else None for x in (value.norm_mean, value.norm_sd, value.z))
    return RegionRow(
        region=value.region.replace("_", " "),
        quantity=APPEARANCES[value.quantity].title,
        unit=value.unit,
        value=value.mean,
        norm_mean=norm_mean,
        norm_sd=norm_sd,
        z=z,
        volume_mm3=value.volume_mm3,
    )


def write_cohort_regions(dataset: Path) -> None:
    """Put the tables of all scans of a dataset below one another."""
    tables = sorted(path for path in dataset.rglob(f"*{REGIONS}") if path.parent != dataset and WORK not in path.parts)
    if tables:
        cohort_table(tables, dataset / REGIONS)


def write_scan_report(
    dataset: Path,
    name: str,
    maps: Mapping[str, MetaTensor],
    record: Mapping[str, Any],
    rows: Sequence[RegionRow],
    regions_note: str = "",
) -> None:
    """Write the report of a scan.

    Args:
        dataset: folder of the derivative.
        name: of the scan.
        maps: (1, X, Y, Z) by key, with their affine; mask among them.
        record: of the scan.
        rows: values of regions.
        regions_note: how the regions were found.
    """
    mask = maps[keys.MASK]
    shown = {key: MapForReport.named(key, _values(maps[key])[0].numpy()) for key in _SHOWN if key in maps}
    path = scan_path(dataset, name, REPORT)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_report(
        path,
        title=name,
        maps=shown,
        mask=_values(mask)[0].numpy(),
        affine=mask.affine.numpy(),
        measured=record["measured"],
        provenance={key: value for key, value in record.items() if key not in ("name", "measured", "warnings")},
        warnings=record["warnings"],
        residuals=_residuals(maps, record),
        regions=rows,
        regions_note=regions_note,
    )
