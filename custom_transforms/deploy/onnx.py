"""A network as one ONNX file for one grid, with the values of the geometry as inputs.

    pred = file(image, voxel_size_mm, b0_direction, relaxivity_weights)

All shapes are fixed: image (1, 3, X, Y, Z), voxel_size_mm and b0_direction (1, 3), relaxivity_weights (1, 2), pred
(1, 2, X, Y, Z), float32. A smaller head is padded with zeros by whoever calls the file. The dipole kernel is built in
the graph, and Fourier transforms are its DFT operators. A graph cannot raise errors: where the module would refuse the
geometry, all of pred is NaN. What a file accepts is written in its metadata.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from monai.utils import optional_import
from torch import Tensor, nn

from custom_transforms.checks import InputError
from custom_transforms.deploy.torchscript import export_network, stacked_config, variant_metadata
from custom_transforms.keys import GEOMETRY, IMAGE, PRED
from custom_transforms.networks import ChiSepNet, QsmNet
from custom_transforms.networks.direct import direction_fits, relaxivity_fits, voxel_size_fits
from custom_transforms.output import staged_folder
from custom_transforms.physics.dipole import geometry_is_valid

OPSET = 20
"""Version of the ONNX operators: the first whose DFT takes its axis as an input."""

MIN_VOXELS = 8
"""Shortest axis of a grid."""


class _Refusing(nn.Module):
    """NaN instead of maps where the network would raise an error."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        direct = [module for module in network.modules() if isinstance(module, (ChiSepNet, QsmNet))]
        self.trained_mm = sorted({module.trained_voxel_size_mm for module in direct})
        self.single_relaxivity = any(isinstance(module, ChiSepNet) for module in direct)

    def accepted(self) -> dict[str, str]:
        """Describe the values that do not give NaN."""
        voxels = [f"{mm:g} mm isotropic, 2 % off at most" for mm in self.trained_mm]
        return {
            "voxel_size_mm": " and ".join(voxels) or "any",
            "b0_direction": "along z, 1 degree off at most" if self.trained_mm else "any unit vector in voxel axes",
            "relaxivity_weights": "1, 1" if self.single_relaxivity else "any",
        }

    def forward(self, image: Tensor, voxel_size_mm: Tensor, b0_direction: Tensor, relaxivity_weights: Tensor) -> Tensor:
        chi = self.network(image, voxel_size_mm, b0_direction, relaxivity_weights)
        positive, unit = geometry_is_valid(voxel_size_mm, b0_direction)
        usable = positive & unit
        for trained_mm in self.trained_mm:
            usable = usable & voxel_size_fits(trained_mm, voxel_size_mm) & direction_fits(b0_direction)
        if self.single_relaxivity:
            usable = usable & relaxivity_fits(relaxivity_weights)
        return torch.where(usable, chi, torch.nan)


def check_shape(shape: Sequence[float]) -> tuple[int, int, int]:
    """Give a grid (X, Y, Z) as whole numbers.

    Raises:
        ValueError: not three whole numbers of at least :data:`MIN_VOXELS`.
    """
    if len(shape) != 3 or any(n != int(n) or n < MIN_VOXELS for n in shape):
        got = ",".join(f"{n:g}" for n in shape)
        raise InputError(f"the shape must be three whole numbers from {MIN_VOXELS} on, such as 160,192,160; got {got}")
    x, y, z = (int(n) for n in shape)
    return x, y, z


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Leave out that torchvision, which has no part here, is not installed, and what the exporter itself deprecates."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)


def _export(network: nn.Module, grid: tuple[int, int, int]) -> torch.onnx.ONNXProgram:
    """Give the graph of a network, without notes on its sources, which name folders of the machine."""
    example = torch.zeros(1, 3, *grid), torch.ones(1, 3), torch.tensor([[0.0, 0.0, 1.0]]), torch.ones(1, 2)
    names = [IMAGE, *GEOMETRY]
    with _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            network, example, input_names=names, output_names=[PRED], opset_version=OPSET, dynamo=True, verbose=False
        )
    assert program is not None  # as no file was given
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
    return program


def write_onnx(
    network: nn.Module, path: Path, *, shape: Sequence[float], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a network as an ONNX file, checked, complete or not at all.

    Args:
        network: with the call of every method, in eval mode, on the CPU.
        path: file to write, which ends in .onnx; its folder is made if need be, and a file of that name is replaced.
        shape: grid (X, Y, Z) of the images.
        metadata: what to store besides what the file accepts.

    Raises:
        ValueError: the shape or the suffix is no good, or the packages for ONNX are not installed.
    """
    grid = check_shape(shape)
    if path.suffix != ".onnx":
        raise InputError(f"an ONNX file must end in .onnx, got {path.name!r}")
    onnx, has_onnx = optional_import("onnx")
    if not has_onnx or not optional_import("onnxscript")[1]:
        raise InputError("an ONNX export needs the packages onnx and onnxscript; pip install 'chisep[onnx]'")
    refusing = _Refusing(network).eval()
    program = _export(refusing, grid)
    program.model.metadata_props.update({"shape": json.dumps(grid), **refusing.accepted(), **(metadata or {})})
    with staged_folder(path.parent) as stage:
        program.save(stage / path.name, external_data=False)
        onnx.checker.check_model(stage / path.name, full_check=True)


def export_onnx(name: str, path: Path, *, shape: Sequence[float]) -> None:
    """Write the network of a variant as an ONNX file for one grid, with metadata.json and inference.json inside.

    Args:
        name: of the variant.
        path: file to write, which ends in .onnx.
        shape: grid (X, Y, Z) of the images.

    Raises:
        ValueError: there is no such variant, it has no network, or see :func:`write_onnx`.
        FileNotFoundError: it has no weights.
    """
    metadata = {
        "variant": name,
        "metadata.json": json.dumps(variant_metadata(name)),
        "inference.json": json.dumps(stacked_config(name)),
    }
    write_onnx(export_network(name), path, shape=shape, metadata=metadata)
