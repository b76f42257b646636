"""`chisep export`: the network of a variant as one file that runs without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from custom_transforms.checks import InputError, user_input
from custom_transforms.deploy.onnx import export_onnx
from custom_transforms.deploy.torchscript import export_torchscript
from custom_transforms.variants import DEFAULT


def export(
    *,
    format: Literal["torchscript", "onnx"],
    output: str,
    variant: str = DEFAULT,
    shape: tuple[float, float, float] | None = None,
) -> None:
    """Write a network as TorchScript or ONNX, geometry as inputs, metadata and inference config inside.

    Args:
        format: torchscript, one file for every grid, or onnx, one file for one grid.
        output: file to write, which ends in .ts or .onnx; a file of that name is replaced.
        variant: a network, one of the files in bundle/configs/variants that has weights.
        shape: grid X,Y,Z of the images, for onnx alone.
    """
    path = Path(output)
    if path.is_dir():
        raise InputError(f"--output {output} is a folder; name a file")
    if (format == "onnx") != (shape is not None):
        raise InputError(
            f"--format {format} takes every grid; leave out --shape"
            if format == "torchscript"
            else "--format onnx needs --shape X,Y,Z, the one grid of the file"
        )
    with user_input():
        if shape is None:
            export_torchscript(variant, path)
        else:
            export_onnx(variant, path, shape=shape)
    print(path)
