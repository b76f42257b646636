"""The network of a variant as PyTorch module, TorchScript file and ONNX file: time of a call, and how far they differ.

Usage: python benchmarks/exports.py [--variant unrolled] [--shape 96,112,96] [--repeats 5]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from monai.utils import optional_import
from timing import median_seconds
from torch import Tensor

from custom_transforms.deploy.onnx import export_onnx
from custom_transforms.deploy.torchscript import export_network, export_torchscript
from custom_transforms.keys import GEOMETRY, IMAGE
from custom_transforms.networks import ChiSepNet, QsmNet
from custom_transforms.provenance import hardware

onnxruntime, _ = optional_import("onnxruntime")

Method = Callable[[], Tensor]


def inputs(shape: tuple[int, int, int], *, oblique: bool) -> tuple[Tensor, ...]:
    """Give an image of random values in a typical range, and an oblique, anisotropic geometry or 1 mm axial."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, *shape, generator=generator) * torch.tensor([0.02, 0.1, 1.0])[:, None, None, None]
    image[:, 2] = 1.0
    if not oblique:
        return image, torch.ones(1, 3), torch.tensor([[0.0, 0.0, 1.0]]), torch.ones(1, 2)
    direction = torch.nn.functional.normalize(torch.tensor([[0.2, -0.4, 0.9]]), dim=1)
    return image, torch.tensor([[0.9, 1.2, 2.0]]), direction, torch.ones(1, 2)


def onnx_method(path: Path, values: tuple[Tensor, ...]) -> Method:
    """Give a call of an ONNX file on the CPU, with as many threads as PyTorch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    named = {name: value.numpy() for name, value in zip((IMAGE, *GEOMETRY), values, strict=True)}
    return lambda: torch.from_numpy(session.run(None, named)[0])


def methods(variant: str, shape: tuple[int, int, int], folder: Path) -> dict[str, tuple[Method, float]]:
    """Give the ways to call a variant, and the size of each file in MiB."""
    network = export_network(variant)
    direct = any(isinstance(module, (ChiSepNet, QsmNet)) for module in network.modules())
    values = inputs(shape, oblique=not direct)
    script, graph = folder / f"{variant}.ts", folder / f"{variant}.onnx"
    export_torchscript(variant, script)
    export_onnx(variant, graph, shape=shape)
    scripted = torch.jit.load(script)
    return {
        "module": (lambda: network(*values), 0.0),
        "TorchScript": (lambda: scripted(*values), script.stat().st_size / 2**20),
        "onnxruntime": (onnx_method(graph, values), graph.stat().st_size / 2**20),
    }


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="unrolled")
    parser.add_argument("--shape", default="96,112,96")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    x, y, z = map(int, arguments.shape.split(","))
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        ways = methods(arguments.variant, (x, y, z), Path(folder))
        device = torch.device("cpu")
        seconds = {name: median_seconds(way, device, repeats=arguments.repeats) for name, (way, _) in ways.items()}
        maps = {name: way() for name, (way, _) in ways.items()}
    versions = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
    print(f"{hardware('cpu')}, {versions}, float32, {time.strftime('%Y-%m-%d')}\n")
    print(f"| {arguments.variant}, {x} x {y} x {z} | s | MiB of the file | largest difference from the module, ppm |")
    print("|---|---|---|---|")
    for name, (_, size) in ways.items():
        difference = float((maps[name] - maps["module"]).abs().max())
        print(f"| {name} | {seconds[name]:.2f} | {size:.1f} | {difference:.1e} |")


if __name__ == "__main__":
    main()
