"""Do the standard deviations hold what they say? Coverage of the intervals on anatomical heads that were never used.

The seeds of the heads, from 7000, belong to this script: neither training nor calibration takes them. The first table
has the share of the voxels whose truth lies within 1 and 1.96 standard deviations of the maps, nominally 68.27 and
95 %, and the rank correlation of standard deviation and error; the second one bins the voxels of all heads by their
standard deviation and compares its root mean square in each bin with that of the error.

Usage: python benchmarks/calibration.py [--device cpu|cuda] [--seeds 7000,7001] [--only NAME] [--head FILE]
"""

from __future__ import annotations

import argparse
import time

import torch
from accuracy import CONDITIONS, Condition, simulated_subject
from torch import Tensor

from custom_transforms import keys
from custom_transforms.metrics import coverage_percent, rank_correlation, reliability
from custom_transforms.networks.uncertainty import INTERVALS
from custom_transforms.provenance import hardware
from custom_transforms.variants import DEFAULT, inference_config

FIRST_SEED = 7000
EVERY = 10  # of the voxels go into the second table


def uncertain_network(device: torch.device, head: str | None) -> torch.nn.Module:
    """Build the default network with its head, in eval mode."""
    config = inference_config(DEFAULT, device=device, uncertainty=True)
    if head is not None:
        config.update({"uncertainty_weights": head})
    network: torch.nn.Module = config.get_parsed_content("network").eval()
    return network


def separate(condition: Condition, network: torch.nn.Module, device: torch.device, seed: int) -> list[Tensor]:
    """Measure a head; give the maps, their standard deviations, the truth, (1, 2, X, Y, Z) in ppm, and the mask."""
    batch = simulated_subject(condition, device, seed)
    with torch.inference_mode():
        pred = network(batch[keys.IMAGE], *(batch[name] for name in keys.GEOMETRY))
    return [*pred.split(2, dim=1), batch[keys.LABEL], batch[keys.MASK]]


def cells(heads: list[list[Tensor]]) -> list[str]:
    """Give the cells of a condition's row, para / dia, means over its heads."""
    columns = [[coverage_percent(*head, factor=factor) for head in heads] for factor in INTERVALS.values()]
    found = [torch.cat(values).mean(dim=0).tolist() for values in columns]
    correlation = [rank_correlation(sd, (chi - truth).abs(), mask) for chi, sd, truth, mask in heads]
    rows = [f"{para:.1f} / {dia:.1f}" for para, dia in found]
    para, dia = torch.cat(correlation).mean(dim=0).tolist()
    return [*rows, f"{para:.2f} / {dia:.2f}"]


def some_voxels(head: list[Tensor]) -> Tensor:
    """Give maps, standard deviations and truth at some voxels of the mask, (3, 2, voxels), on the CPU."""
    *maps, mask = head
    return torch.stack(maps)[:, 0, :, mask[0, 0] > 0.5][..., ::EVERY].cpu()


def print_reliability(voxels: Tensor) -> None:
    """Print the second table for voxels (3, 2, N)."""
    chi, sd, truth = voxels[:, None, ..., None, None]
    print("\n| tenth of the voxels | chi_para SD | error | chi_dia SD | error |\n|---|---|---|---|---|")
    for number, pairs in enumerate(reliability(chi, sd, truth, torch.ones_like(chi[:, :1])).tolist(), start=1):
        print(f"| {number} | {' | '.join(f'{value:.4f}' for pair in pairs for value in pair)} |")


def main() -> None:
    """Print two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seeds", default=f"{FIRST_SEED},{FIRST_SEED + 1}")
    parser.add_argument("--only", choices=CONDITIONS)
    parser.add_argument("--head", help="weights of another head")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    if min(seeds) < FIRST_SEED:
        parser.error(f"--seeds: expected {FIRST_SEED} or more, as others may have been trained on; got {min(seeds)}")
    device = torch.device(arguments.device)
    network = uncertain_network(device, arguments.head)
    print(f"{hardware(device)}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}\n")
    print("| chi_para / chi_dia | within 1 SD, % | within 1.96 SD, % | rank correlation of SD and error |")
    print("|---|---|---|---|")
    voxels = []
    for name in [arguments.only] if arguments.only else CONDITIONS:
        heads = [separate(CONDITIONS[name], network, device, seed) for seed in seeds]
        voxels += [some_voxels(head) for head in heads]
        print(f"| {name} | {' | '.join(cells(heads))} |", flush=True)
    print_reliability(torch.cat(voxels, dim=-1))


if __name__ == "__main__":
    main()
