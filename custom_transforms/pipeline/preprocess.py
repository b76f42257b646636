"""The stages of preprocess.json on one scan: from its echoes to the maps that separation takes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose
from monai.utils import convert_to_tensor

from custom_transforms import keys
from custom_transforms.bundle_path import bundle_path
from custom_transforms.checks import InputError, user_input
from custom_transforms.output import staged_folder
from custom_transforms.pipeline.derivatives import (
    WORK,
    write_description,
    write_map,
)
from custom_transforms.pipeline.progress import Progress
from custom_transforms.preprocessing import Stage, StageCache
from custom_transforms.raw import find_scans, load_scan
from custom_transforms.relaxometry import combine_echoes
from custom_transforms.transforms import Geometryd

_GRIDS = (keys.MAGNITUDE, keys.TOTAL_FIELD, keys.LOCAL_FIELD, keys.MASK)  # the first that is there has the geometry
_WRITTEN = (keys.TOTAL_FIELD, keys.FIELD_QUALITY, keys.LOCAL_FIELD, keys.R2STAR, keys.R2, keys.R2PRIME)
OWN = "the user's"
MADE = {
    keys.TOTAL_FIELD: "measured, fitted to the phase of the echoes",
    keys.LOCAL_FIELD: "measured, the background removed",
    keys.R2STAR: "measured, fitted to the gradient echoes",
    keys.R2: "measured, fitted to the spin echoes",
    keys.R2PRIME: "measured, R2* - R2",
    keys.MASK: "found in the magnitude",
}


def preprocessing_config(options: Mapping[str, Any]) -> ConfigParser:
    """Give preprocess.json with some of its options changed."""
    parser = ConfigParser()
    parser.read_config(bundle_path() / "configs" / "preprocess.json")
    parser.update({"bundle_root": str(bundle_path()), **options})
    return parser


def stages_of(preprocessing: Compose) -> list[Stage]:
    """Give the stages of a preprocessing."""
    return list(preprocessing.transforms)


def preprocess(
    data: Mapping[Any, Any],
    stages: Sequence[Stage],
    *,
    provided: Collection[str] = (),
    b0_direction: Sequence[float] | None = None,
    cache: StageCache | None = None,
    progress: Progress | None = None,
) -> dict[Any, Any]:
    """Run the stages that have work, in their order.

    Args:
        data: what :func:`custom_transforms.raw.load_scan` gives.
        stages: of preprocess.json.
        provided: keys of the user's own maps, which replace stages.
        b0_direction: (3,) in voxel axes, or None for that of the affine.
        cache: what the stages gave in an earlier run.
        progress: is told which stage runs.

    Returns:
        The data with what the stages write, voxel_size_mm and b0_direction.

    Raises:
        InputError: what a stage refuses.
    """
    cache = cache or StageCache(None)
    grids = [key for key in _GRIDS if key in data]
    if not grids:
        raise InputError("there is no image to start from: give magnitude and phase, or a field and a mask")
    with user_input():
        result = Geometryd(keys=grids[:1], b0_direction=b0_direction)(data)
        for stage in stages:
            if not stage.applies(result, provided):
                continue
            if progress:
                progress.begin(stage.name)
            result, restored = cache.run(stage, result)
            if progress and restored:
                progress.end("from the cache")
    return result


def on_device(data: Mapping[Any, Any], device: torch.device) -> dict[Any, Any]:
    """Bring the tensors of a dictionary to a device."""
    return {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in data.items()}


def write_preprocessed(data: Mapping[Any, Any], dataset: Path, name: str, provided: Collection[str]) -> dict[str, str]:
    """Write the maps that preprocessing made, zero outside the mask.

    Args:
        data: of :func:`preprocess`.
        dataset: folder of the derivative.
        name: of the scan.
        provided: keys of the user's own maps.

    Returns:
        The file of each map by key.
    """
    mask, files = data[keys.MASK], {}
    facts = {"B0Direction": [round(b, 6) for b in data[keys.B0_DIRECTION].tolist()], "B0Tesla": data[keys.B0_TESLA]}
    maps = {keys.MASK: mask, **{key: data[key] * mask for key in _WRITTEN if key in data}}
    if keys.MAGNITUDE in data:
        maps[keys.MAGNITUDE] = combine_echoes(data[keys.MAGNITUDE])
    for key, values in maps.items():
        origin = {"Origin": OWN if key in provided else MADE[key]} if key in MADE else {}
        image = MetaTensor(convert_to_tensor(values, track_meta=False).cpu(), affine=mask.affine)
        files[key] = str(write_map(dataset, name, key, image, {**facts, **origin}))
    return files


def preprocess_folder(
    source: str | None,
    output_dir: str,
    preprocessing: Compose,
    *,
    device: torch.device,
    b0_direction: Sequence[float] | None = None,
) -> list[str]:
    """Preprocess every scan of a folder: the workflow of preprocess.json.

    Args:
        source: BIDS dataset or DICOM folder.
        output_dir: folder of the derivative, which inference.json reads as dataset_dir.
        preprocessing: the stages.
        device: where they run.
        b0_direction: (3,) in voxel axes, or None for that of the affines.

    Returns:
        The names of the scans.

    Raises:
        InputError: no source, no scans, or one that cannot be processed.
    """
    if source is None:
        raise InputError("there is no input; name a BIDS or DICOM folder with --input_dir")
    output = Path(output_dir)
    names = []
    for scan in find_scans(source, output / WORK):
        data = on_device(load_scan(scan), device)
        cache = StageCache(output / WORK / scan.name)
        result = preprocess(data, stages_of(preprocessing), provided=scan.maps, b0_direction=b0_direction, cache=cache)
        with staged_folder(output) as stage:
            write_preprocessed(result, stage, scan.name, scan.maps)
            write_description(stage, str(source))
        names.append(scan.name)
    return names


def require_for_separation(data: Mapping[Any, Any], name: str) -> None:
    """Refuse data without what a separation needs."""
    needs = {
        keys.MASK: "no brain mask; give one with --mask, or a magnitude to find it in",
        keys.LOCAL_FIELD: "no local field; give phase and magnitude to make it of, or a field",
    }
    for key, need in needs.items():
        if key not in data:
            raise InputError(f"{name} has {need}")
