"""What a result was made from, and by what: the content of reconstruction.json."""

from __future__ import annotations

import hashlib
import json
import platform
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from torch import nn

from custom_transforms.bundle_path import bundle_path
from custom_transforms.classical import ChiSeparation, TVSusceptibility
from custom_transforms.transforms.geometry import b0_direction_from_affine, unit_vector, voxel_size_from_affine


def file_sha256(path: str | Path) -> str:
    """Give the SHA-256 of a file in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Give the versions of this project and of what it computes with."""
    metadata = json.loads((bundle_path() / "configs" / "metadata.json").read_text(encoding="utf-8"))
    return {
        "chisep": str(metadata["version"]),
        "monai": monai.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def hardware(device: torch.device | str) -> str:
    """Name the machine by its hardware."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    name = names[0].split(":")[1].strip() if names else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"


def peak_memory_gib() -> float:
    """Give the most memory that this process has held so far, GiB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count that of the parent before the start, too
        kib = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(kib.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30  # bytes on macOS


def describe_convergence(network: nn.Module) -> dict[str, Any] | None:
    """Give the iterations and the last residuals of an iterative method, and whether it converged.

    Args:
        network: after a call.

    Returns:
        Nothing for other methods.
    """
    for module in network.modules():
        if isinstance(module, (ChiSeparation, TVSusceptibility)) and (record := module.convergence):
            rule, last = module.rule, record[-1]
            return {**last._asdict(), "tolerance": rule.tolerance, "converged": rule.is_met(last)}
    return None


def describe_geometry(field: MetaTensor, b0_direction: Sequence[float] | None) -> dict[str, Any]:
    """Give the geometry that a reconstruction uses.

    Args:
        field: (1, X, Y, Z) with its affine.
        b0_direction: (3,) in voxel axes, or None for that of the affine.

    Returns:
        Shape, voxel size in mm, B0 direction in voxel axes and where it comes from.
    """
    direction = b0_direction_from_affine(field.affine) if b0_direction is None else unit_vector(b0_direction)
    return {
        "shape": list(field.shape[1:]),
        "voxel_size_mm": [round(v, 6) for v in voxel_size_from_affine(field.affine).tolist()],
        "b0_direction_voxel_axes": [round(b, 6) for b in direction.tolist()],
        "b0_direction_from": "affine" if b0_direction is None else "user",
    }


def describe_files(files: Mapping[str, str]) -> dict[str, Any]:
    """Give the path, as it was typed, and the SHA-256 of each input file."""
    return {key: {"path": path, "sha256": file_sha256(path)} for key, path in files.items()}


def describe_weights(config: ConfigParser) -> list[dict[str, str]]:
    """Give the name, in the bundle, and the SHA-256 of each weights file of a variant.

    Args:
        config: inference.json of the variant. Its own weights are ``weights``, False for a conventional method; those
            of a frozen network inside it have a name that ends so, such as ``qsmnet_weights``.

    Raises:
        FileNotFoundError: the bundle lacks one.
    """
    names = [name for name in config[""] if name.endswith("weights")]  # "" is the whole of it
    paths = [Path(path) for path in map(config.get_parsed_content, names) if path]
    absent = [path for path in paths if not path.is_file()]
    if absent:
        raise FileNotFoundError(
            f"variant {config['variant']} has no weights at {absent[0]}; train them, or install a release that has them"
        )
    root = config["bundle_root"]
    return [{"path": path.relative_to(root).as_posix(), "sha256": file_sha256(path)} for path in paths]
