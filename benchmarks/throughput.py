"""Phantoms a second, training steps a second and whole-volume inference, with the bundle's own configuration.

Usage: python benchmarks/throughput.py [--device cpu|cuda] [--volume 128] [--batch 2] [--brain 160,200,160] [--amp]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from monai.bundle import ConfigParser
from timing import median_seconds, peak_memory_mib

from custom_transforms import keys
from custom_transforms.bundle_path import bundle_path
from custom_transforms.phantom import RandomShapes, SimulatedBatches
from custom_transforms.provenance import hardware


def configuration(device: torch.device, *, amp: bool) -> ConfigParser:
    """Read train.json for this device; ``amp`` runs the backbones in bfloat16."""
    parser = ConfigParser()
    parser.read_config(bundle_path() / "configs" / "train.json")
    parser["bundle_root"] = str(bundle_path())
    parser["device"] = f"$torch.device('{device}')"
    parser["amp"] = amp
    return parser


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--volume", type=int, default=128)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--brain", default="160,200,160")
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    shape = (arguments.volume,) * 3
    config = configuration(device, amp=arguments.amp)
    network, loss, optimizer = (config.get_parsed_content(name) for name in ("network", "loss", "optimizer"))
    phantom = RandomShapes(shape=shape, device=device)
    data = SimulatedBatches(phantom=phantom, batch_size=arguments.batch, length=1, seed=0, device=device)
    generator = torch.Generator(device).manual_seed(0)
    batch = data.batch(generator)

    def step() -> None:
        optimizer.zero_grad()
        loss(network(batch[keys.IMAGE], *(batch[name] for name in keys.GEOMETRY)), batch[keys.LABEL]).backward()
        optimizer.step()

    def timed(function: Callable[[], object]) -> float:
        return median_seconds(function, device, repeats=arguments.repeats)

    shapes = timed(lambda: phantom(arguments.batch, generator))
    simulate = timed(lambda: data.batch(generator))
    network.train()
    train = timed(step)
    network.eval()
    brain = torch.rand(1, 3, *map(int, arguments.brain.split(",")), device=device)
    with torch.inference_mode():
        infer = timed(lambda: network(brain))
    precision = "bfloat16" if arguments.amp else "float32"
    print(f"{hardware(device)}, torch {torch.__version__}, backbones in {precision}, {time.strftime('%Y-%m-%d')}\n")
    print("| what | value |\n|---|---|")
    print(f"| random shapes, {arguments.volume}^3 | {arguments.batch / shapes:.2f} volumes/s |")
    print(f"| with field and noise, {arguments.volume}^3 | {arguments.batch / simulate:.2f} volumes/s |")
    print(f"| training step, {arguments.batch} x {arguments.volume}^3 | {1 / train:.3f} steps/s |")
    print(f"| inference, {arguments.brain} | {infer:.2f} s |")
    print(f"| peak memory | {peak_memory_mib(device):.0f} MiB |")


if __name__ == "__main__":
    main()
