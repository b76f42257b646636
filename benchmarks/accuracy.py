"""Errors of the shipped network on anatomical subjects it never saw, beside the closed form, under several conditions.

The closed form gets the lambda that is best against the truth, in each case.

Usage: python benchmarks/accuracy.py [--device cpu|cuda] [--seed 0] [--only NAME]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from custom_transforms import keys
from custom_transforms.bundle_path import bundle_path
from custom_transforms.demo import best_closed_form
from custom_transforms.metrics import nrmse_percent
from custom_transforms.phantom import Acquisition, AnatomicalBrain, SimulatedSubjects
from custom_transforms.provenance import hardware


@dataclass(frozen=True)
class Condition:
    """One way to measure a subject; the subject itself is the same in all of them."""

    snr: float = 100.0
    voxel_size_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    tilt_deg: float = 0.0
    relaxivity_dia_per_s_ppm: float = 137.0
    lesions: int = 0


CONDITIONS = {
    "1 mm, axial, SNR 100": Condition(),
    "SNR 40": Condition(snr=40.0),
    "SNR 300": Condition(snr=300.0),
    "head tilted by 30 degrees": Condition(tilt_deg=30.0),
    "0.8 x 0.8 x 2 mm": Condition(voxel_size_mm=(0.8, 0.8, 2.0)),
    "relaxivities 137 and 110": Condition(relaxivity_dia_per_s_ppm=110.0),
    "20 lesions of 0.1 to 3 ppm": Condition(lesions=20),
}


def shipped_network(device: torch.device) -> torch.nn.Module:
    """Build the network of inference.json with its weights, in eval mode."""
    config = ConfigParser()
    config.read_config(bundle_path() / "configs" / "inference.json")
    config.update({"bundle_root": str(bundle_path()), "device": f"$torch.device('{device}')"})
    network: torch.nn.Module = config.get_parsed_content("network").eval()
    return network


def simulated_subject(condition: Condition, device: torch.device, seed: int) -> dict[str, Tensor]:
    """Give a measured head: image, label, mask and geometry, with a batch axis."""
    acquisition = Acquisition(
        relaxivity_para_per_s_ppm=137.0, relaxivity_dia_per_s_ppm=condition.relaxivity_dia_per_s_ppm
    )
    brain = AnatomicalBrain(
        voxel_size_mm=condition.voxel_size_mm, tilt_deg=condition.tilt_deg, lesions=condition.lesions
    )
    subject = SimulatedSubjects(brain=brain, length=1, seed=seed, snr=condition.snr, acquisition=acquisition)[0]
    return {name: value[None].to(device) for name, value in subject.items()}


def measure(condition: Condition, network: torch.nn.Module, device: torch.device, seed: int) -> list[str]:
    """Give the cells of a condition's row: para / dia NRMSE of each method, and the network's time in s."""
    batch = simulated_subject(condition, device, seed)
    image, truth, mask = batch[keys.IMAGE], batch[keys.LABEL], batch[keys.MASK]
    voxel_size_mm, b0_direction, weights = (batch[name] for name in keys.GEOMETRY)

    def cell(chi: Tensor) -> str:
        return " / ".join(f"{value:.1f}" for value in nrmse_percent(chi, truth, mask)[0].tolist())

    start = time.perf_counter()
    with torch.inference_mode():
        found = cell(network(image, voxel_size_mm, b0_direction, weights))
    seconds = time.perf_counter() - start
    closed = [
        cell(best_closed_form(image, truth, voxel_size_mm, b0_direction, weights, feasible_zero=zero)[0])
        for zero in (True, False)
    ]
    return [found, *closed, f"{seconds:.1f}"]


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=CONDITIONS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    network = shipped_network(device)
    print(f"{hardware(device)}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}\n")
    print("| NRMSE %, chi_para / chi_dia | network | closed form | closed form, zero mean | network s |")
    print("|---|---|---|---|---|")
    for name in [arguments.only] if arguments.only else CONDITIONS:
        print(f"| {name} | {' | '.join(measure(CONDITIONS[name], network, device, arguments.seed))} |", flush=True)


if __name__ == "__main__":
    main()
