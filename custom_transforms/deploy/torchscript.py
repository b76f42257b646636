"""A network as one TorchScript file, which runs without this package.

The network is scripted, not traced, so that one file takes every grid and geometry: the dipole kernel is built in its
graph from what it is called with, and a geometry that the network refuses is refused by the file too. The call is that
of every method,

    file(image, voxel_size_mm, b0_direction, relaxivity_weights) -> chi

with None, or nothing, for 1 mm isotropic voxels, B0 along +z and a single Dr. Inside are metadata.json and
inference.json, where MONAI's ``load_net_with_metadata`` and MONAI Deploy look for them.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import save_net_with_metadata
from torch import nn

from custom_transforms.bundle_path import bundle_path
from custom_transforms.checks import InputError
from custom_transforms.output import staged_folder
from custom_transforms.provenance import describe_weights
from custom_transforms.variants import inference_config, is_learned, variant_path

_CHANNELS = ("network_data_format", "inputs", "image", "channel_def")


def export_network(name: str) -> nn.Module:
    """Load the network of a variant for an export: in eval mode, float32, without gradients, on the CPU.

    Args:
        name: of the variant.

    Raises:
        ValueError: there is no such variant, or it has no network.
        FileNotFoundError: it has no weights.
    """
    if not is_learned(name):
        raise InputError(
            f"variant {name!r} is a conventional method without weights; export a network, or install chisep"
        )
    config = inference_config(name)
    describe_weights(config)  # what is missing is said here, in one line
    config.update({"amp": False})
    return config.get_parsed_content("network").float().eval().requires_grad_(False)


def stacked_config(name: str) -> dict[str, Any]:
    """Give inference.json of a variant with its patch stacked on it, without what only its training uses.

    Raises:
        ValueError: there is no such variant.
    """
    inference = bundle_path() / "configs" / "inference.json"
    merged = ConfigParser.load_config_files([inference, variant_path(name)])
    used = set(ConfigParser.load_config_file(inference))
    while more := set(re.findall(r"@(\w+)", json.dumps([merged[key] for key in used]))) & merged.keys() - used:
        used |= more
    return {key: value for key, value in merged.items() if key in used}


def variant_metadata(name: str) -> dict[str, Any]:
    """Give metadata.json with the name of a variant and the channels that it reads.

    Raises:
        ValueError: there is no such variant.
    """
    metadata = ConfigParser.load_config_file(bundle_path() / "configs" / "metadata.json")
    config = inference_config(name)
    metadata["variant"] = name
    if config["rate"] == "r2star":
        channels: Any = metadata
        for key in _CHANNELS:
            channels = channels[key]
        channels["1"] = channels["1"].replace("R2'", "R2*")
        metadata["image_classes"] = metadata["image_classes"].replace("R2'", "R2*")
    return metadata


def _strip_source_paths(path: Path, stripped: Path) -> None:
    """Copy a TorchScript file without its records for debuggers, which name the folders of the sources."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(stripped, "w", zipfile.ZIP_STORED) as target:
        for record in source.infolist():
            if not record.filename.endswith(".debug_pkl"):
                target.writestr(record, source.read(record))


def export_torchscript(name: str, path: Path) -> None:
    """Write the network of a variant as a TorchScript file, complete or not at all.

    Args:
        name: of the variant.
        path: file to write, which ends in .ts; its folder is made if need be, and a file of that name is replaced.

    Raises:
        ValueError: there is no such variant, it has no network, or the suffix is another.
        FileNotFoundError: it has no weights.
    """
    if path.suffix != ".ts":
        raise InputError(f"a TorchScript file must end in .ts, got {path.name!r}")
    scripted = torch.jit.script(export_network(name))
    extra = {"inference.json": json.dumps(stacked_config(name)).encode()}
    with staged_folder(path.parent) as stage:
        raw = stage / "raw" / path.name
        raw.parent.mkdir()
        save_net_with_metadata(scripted, str(raw), meta_values=variant_metadata(name), more_extra_files=extra)
        _strip_source_paths(raw, stage / path.name)
        raw.unlink()
