"""Training step of a network: as the bundle runs it, and as a plain float32 loop, in one run.

By default that of the published recipe: QSMnet at its published width (22.6 M parameters), the batch 12 patches of
64^3, the loss and the optimiser those of configs/variants/qsmnet.json. ``--variant unrolled`` is the default network.
"Plain" is float32 without TF32, the default memory layout and no compilation; what is added then is what the bundle
adds, one thing at a time. The data are there already in all rows.

Usage: python benchmarks/recipe.py [--device cpu|cuda] [--patches 12] [--size 64] [--channels 32,64,128,256,512]
       python benchmarks/recipe.py --variant unrolled --patches 2 --size 128 --channels 16,32,64
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import torch
from monai.bundle import ConfigParser
from timing import median_seconds, peak_memory_mib
from torch import Tensor

from custom_transforms import keys
from custom_transforms.bundle_path import bundle_path
from custom_transforms.losses import SourceLoss
from custom_transforms.provenance import hardware
from custom_transforms.variants import variant_path


@dataclass(frozen=True)
class Way:
    """How a step is run.

    Args:
        name: for the table.
        tf32: matrix units round float32 to TF32.
        amp: backbone in bfloat16.
        channels_last: memory layout of the weights.
        compile: torch.compile the network.
    """

    name: str
    tf32: bool = False
    amp: bool = False
    channels_last: bool = False
    compile: bool = False


WAYS = (
    Way("plain float32"),
    Way("TF32", tf32=True),
    Way("bfloat16", tf32=True, amp=True),
    Way("bfloat16, channels_last_3d", tf32=True, amp=True, channels_last=True),
    Way("bfloat16, channels_last_3d, compiled", tf32=True, amp=True, channels_last=True, compile=True),
)


def step_seconds(
    way: Way, variant: str, batch: dict[str, Tensor], channels: list[int], device: torch.device
) -> tuple[float, int]:
    """Give the median time of a training step in seconds, and the number of parameters."""
    config = ConfigParser()
    config.read_config([bundle_path() / "configs" / "train.json", variant_path(variant)])
    config.update(
        {"bundle_root": str(bundle_path()), "device": f"$torch.device('{device}')", "amp": way.amp}
        | {"compile": way.compile, "channels": channels}
    )
    if not way.channels_last:
        config["network"] = "$@network_def.to(@device)"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = way.tf32
    network, loss, optimizer = (config.get_parsed_content(name) for name in ("network", "loss", "optimizer"))
    network.train()
    # the published losses compare with the measurements, too
    target = batch[keys.LABEL] if isinstance(loss, SourceLoss) else batch

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(network(batch[keys.IMAGE], *(batch[name] for name in keys.GEOMETRY)), target).backward()
        optimizer.step()

    count = sum(parameter.numel() for parameter in network.parameters())
    return median_seconds(step, device), count


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--variant", default="qsmnet")
    parser.add_argument("--patches", type=int, default=12)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--channels", default="32,64,128,256,512")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    shape = (arguments.patches, 3, *(arguments.size,) * 3)
    image = 0.01 * torch.randn(shape, device=device)
    image[:, 2] = 1
    label = 0.05 * torch.rand(arguments.patches, 2, *shape[2:], device=device)
    geometry = (torch.ones(arguments.patches, 3), torch.tensor([[0.0, 0.0, 1.0]]).expand(arguments.patches, 3))
    names = (keys.VOXEL_SIZE_MM, keys.B0_DIRECTION)
    batch = {keys.IMAGE: image, keys.LABEL: label, keys.RELAXIVITY_WEIGHTS: torch.ones(arguments.patches, 2)}
    batch |= dict(zip(names, geometry, strict=True))
    channels = [int(number) for number in arguments.channels.split(",")]
    rows = [(way.name, *step_seconds(way, arguments.variant, batch, channels, device)) for way in WAYS]
    print(f"{hardware(device)}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    print(f"{arguments.variant}, {arguments.patches} x {arguments.size}^3, {rows[0][2] / 1e6:.1f} M parameters\n")
    print("| training step | ms | patches/s | times plain |\n|---|---|---|---|")
    for name, seconds, _ in rows:
        rate = arguments.patches / seconds
        print(f"| {name} | {1000 * seconds:.1f} | {rate:.1f} | {rows[0][1] / seconds:.2f} |")
    print(f"\npeak memory {peak_memory_mib(device):.0f} MiB")


if __name__ == "__main__":
    main()
