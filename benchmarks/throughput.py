"""Phantoms a second, training steps a second and whole-volume inference, with the bundle's own configuration.

Usage: python benchmarks/throughput.py [--device cpu|cuda] [--volume 128] [--batch 2] [--brain 160,200,160] [--float32]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from monai.bundle import ConfigParser
from timing import median_seconds, peak_memory_mib

from custom_transforms import keys
from custom_transforms.bundle_path import bundle_path
from custom_transforms.provenance import hardware


def configuration(device: torch.device, volume: int, batch: int, *, float32: bool) -> ConfigParser:
    """Read train.json for this device; ``float32`` keeps the backbones out of bfloat16."""
    parser = ConfigParser()
    parser.read_config(bundle_path() / "configs" / "train.json")
    parser.update({"bundle_root": str(bundle_path()), "device": f"$torch.device('{device}')"})
    parser.update({"volume_shape": [volume] * 3, "batch_size": batch})
    if float32:
        parser["amp"] = False
    return parser


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--volume", type=int, default=128)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--brain", default="160,200,160")
    parser.add_argument("--float32", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    config = configuration(device, arguments.volume, arguments.batch, float32=arguments.float32)
    network, loss, optimizer = (config.get_parsed_content(name) for name in ("network", "loss", "optimizer"))
    shapes, anatomy, data = (config.get_parsed_content(name) for name in ("shapes", "anatomy", "train#simulated"))
    generator = torch.Generator(device).manual_seed(0)
    batch = data.batch(generator)

    def step() -> None:
        optimizer.zero_grad()
        loss(network(batch[keys.IMAGE], *(batch[name] for name in keys.GEOMETRY)), batch[keys.LABEL]).backward()
        optimizer.step()

    def timed(function: Callable[[], object]) -> float:
        return median_seconds(function, device, repeats=arguments.repeats)

    phantoms = {
        name: timed(partial(phantom, arguments.batch, generator))
        for name, phantom in (("random shapes", shapes), ("warped anatomy", anatomy))
    }
    simulate = timed(lambda: data.batch(generator))
    network.train()
    train = timed(step)
    network.eval()
    brain = torch.rand(1, 3, *map(int, arguments.brain.split(",")), device=device)
    with torch.inference_mode():
        infer = timed(lambda: network(brain))
    precision = "bfloat16" if config.get_parsed_content("amp") else "float32"
    print(f"{hardware(device)}, torch {torch.__version__}, backbones in {precision}, {time.strftime('%Y-%m-%d')}\n")
    print("| what | value |\n|---|---|")
    for name, seconds in phantoms.items():
        print(f"| {name}, {arguments.volume}^3 | {arguments.batch / seconds:.2f} volumes/s |")
    print(f"| either, measured, {arguments.volume}^3 | {arguments.batch / simulate:.2f} volumes/s |")
    print(f"| training step, {arguments.batch} x {arguments.volume}^3 | {1 / train:.3f} steps/s |")
    print(f"| inference, {arguments.brain} | {infer:.2f} s |")
    print(f"| peak memory | {peak_memory_mib(device):.0f} MiB |")


if __name__ == "__main__":
    main()
