"""What `chisep run` writes: a BIDS derivative, with a sidecar for every map.

dataset_description.json
sub-01/anat/sub-01_desc-para_Chimap.nii.gz       and .json: what it is, its unit, what it was made from
sub-01/report.html, sub-01/run.json, sub-01/regions.tsv
regions.tsv                                      of all subjects
work/                                            what a run that was killed goes on from; removed once a scan is done
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from monai.data import MetaTensor

from custom_transforms import keys
from custom_transforms.data import BIDS_SUFFIXES, bids_path
from custom_transforms.output import save_map, write_json
from custom_transforms.provenance import versions
from custom_transforms.separation import SD_MAPS

RECORD = "run.json"
REPORT = "report.html"
REGIONS = "regions.tsv"
DESCRIPTION = "dataset_description.json"
WORK = "work"

SUFFIXES = {
    **BIDS_SUFFIXES,
    keys.TOTAL_FIELD: "totalfield",
    keys.FIELD_QUALITY: "fieldquality",
    keys.CHI_TOTAL: "Chimap",
    SD_MAPS[0]: "desc-parasd_Chimap",
    SD_MAPS[1]: "desc-diasd_Chimap",
}
"""What the file of each map is called after the name of its scan."""


class MapText(NamedTuple):
    """What a sidecar says of a map."""

    description: str
    units: str


TEXTS = {
    keys.MAGNITUDE: MapText("magnitude of all gradient echoes, root of the sum of squares", "arbitrary"),
    keys.MASK: MapText("where the maps are valid: the brain, less what background removal takes away", "1"),
    keys.TOTAL_FIELD: MapText("field of the head and of all around it, relative to the main field", "ppm"),
    keys.FIELD_QUALITY: MapText("how well the echoes agree on the field, 0 to 1", "1"),
    keys.LOCAL_FIELD: MapText("field of the sources in the mask, the background removed", "ppm"),
    keys.R2STAR: MapText("effective transverse relaxation rate R2*, of the gradient echoes", "1/s"),
    keys.R2: MapText("transverse relaxation rate R2, of the spin echoes", "1/s"),
    keys.R2PRIME: MapText("reversible transverse relaxation rate R2' = max(R2* - R2, 0)", "1/s"),
    keys.CHI_PARA: MapText("paramagnetic susceptibility (iron), a magnitude", "ppm"),
    keys.CHI_DIA: MapText("diamagnetic susceptibility (myelin), a magnitude", "ppm"),
    keys.CHI_TOTAL: MapText("total susceptibility, chi_para - chi_dia", "ppm"),
    SD_MAPS[0]: MapText("standard deviation of the paramagnetic susceptibility", "ppm"),
    SD_MAPS[1]: MapText("standard deviation of the diamagnetic susceptibility", "ppm"),
    keys.REGIONS: MapText("regions of the registered template, names in dseg.tsv", "1"),
}


def split_name(name: str) -> tuple[str, str]:
    """Split the name of a scan, such as "sub-01_ses-02_run-1", into what names its folder and the whole."""
    folders = [part for part in name.split("_") if part.startswith(("sub-", "ses-"))]
    return "_".join(folders), name


def map_path(dataset: Path, name: str, key: str) -> Path:
    """Give the file of a map of a scan.

    Args:
        dataset: folder of the derivative.
        name: of the scan, such as "sub-01_ses-02_run-1".
        key: of :data:`SUFFIXES`.
    """
    folder, name = split_name(name)
    return bids_path(dataset, folder, SUFFIXES[key]).parent / f"{name}_{SUFFIXES[key]}.nii.gz"


def scan_path(dataset: Path, name: str, file: str) -> Path:
    """Give a file about a whole scan: sub-01/report.html, or sub-01/sub-01_run-1_report.html if runs share a folder."""
    folder, name = split_name(name)
    return dataset.joinpath(*folder.split("_"), file if folder == name else f"{name}_{file}")


def write_map(dataset: Path, name: str, key: str, values: MetaTensor, facts: Mapping[str, Any]) -> Path:
    """Write a map and its sidecar.

    Args:
        dataset: folder of the derivative.
        name: of the scan.
        key: of :data:`SUFFIXES`.
        values: (1, X, Y, Z) with its affine.
        facts: what else the sidecar says.

    Returns:
        The file of the map.
    """
    path = map_path(dataset, name, key)
    integers = key in (keys.MASK, keys.REGIONS)
    save_map(path, values.as_tensor().byte() if integers else values.as_tensor(), values.affine)
    write_sidecar(path, key, facts)
    return path


def write_sidecar(path: Path, key: str, facts: Mapping[str, Any]) -> None:
    """Write the JSON file beside a map."""
    text = TEXTS[key]
    sidecar = {"Description": text.description, "Units": text.units, **facts}
    write_json(path.with_suffix("").with_suffix(".json"), sidecar)


def write_description(dataset: Path, source: str) -> None:
    """Write dataset_description.json, unless it is there.

    Args:
        dataset: folder of the derivative.
        source: what the maps are made from.
    """
    path = dataset / DESCRIPTION
    if path.is_file():
        return
    version = versions()["chisep"]
    description = {
        "Name": "Magnetic susceptibility sources",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "chisep", "Version": version}],
        "SourceDatasets": [{"URL": source}],
    }
    write_json(path, description)


def read_record(dataset: Path, name: str) -> dict[str, Any] | None:
    """Give the record of a scan that is done, or None."""
    try:
        return dict(json.loads(scan_path(dataset, name, RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
