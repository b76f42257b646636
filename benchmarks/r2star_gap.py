"""What is lost without spin echoes: errors of `unrolled` (R2') and `unrolled_r2star` (R2* alone) in every region.

The heads are simulated, SNR 100, 1 mm, and both networks see the same echoes. The value of a region is its mean; its
error is that of the mean, averaged over the heads.

Usage: python benchmarks/r2star_gap.py [--device cpu|cuda] [--subjects 2] [--seed 9100] [--voxel_mm 1.0]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from torch import Tensor

from custom_transforms import keys
from custom_transforms.metrics import nrmse_percent, region_means
from custom_transforms.phantom import Acquisition, AnatomicalBrain
from custom_transforms.phantom.structures import REGIONS
from custom_transforms.physics import RELAXIVITY_3T_PER_S_PPM
from custom_transforms.provenance import hardware
from custom_transforms.variants import load_variant

VARIANTS = ("unrolled", "unrolled_r2star")
LABELS = {name: index for name, index in REGIONS.items() if name not in ("background", "haemorrhage", "calcification")}


def separate(variant: str, maps: dict[str, Tensor], device: torch.device) -> Tensor:
    """Run a variant on measured maps: chi_para and chi_dia in ppm, (1, 2, X, Y, Z)."""
    network, inferer, rate = load_variant(variant, device=device)
    image = torch.cat([maps[keys.LOCAL_FIELD], maps[rate] / RELAXIVITY_3T_PER_S_PPM, maps[keys.MASK]])[None].to(device)
    geometry = (maps[key].reshape(1, 3) for key in (keys.VOXEL_SIZE_MM, keys.B0_DIRECTION))
    with torch.inference_mode():
        return inferer(image, network, *geometry).cpu()


def main() -> None:
    """Print two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--subjects", type=int, default=2)
    parser.add_argument("--seed", type=int, default=9100)
    parser.add_argument("--voxel_mm", type=float, default=1.0)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    brain = AnatomicalBrain(voxel_size_mm=(arguments.voxel_mm,) * 3)
    means, errors, nrmse = [], [], []
    for seed in range(arguments.seed, arguments.seed + arguments.subjects):
        maps = Acquisition()(brain(seed), snr=100.0, generator=torch.Generator().manual_seed(seed))
        truth = torch.cat([maps[keys.CHI_PARA], maps[keys.CHI_DIA]])[None]
        mask, regions = maps[keys.MASK][None], maps[keys.REGIONS][None]
        found = [separate(variant, maps, device) for variant in VARIANTS]
        expected = region_means(truth, regions, labels=list(LABELS.values()))[0]
        means.append(expected)
        errors.append(
            torch.stack([region_means(chi, regions, labels=list(LABELS.values()))[0] - expected for chi in found])
        )
        nrmse.append(torch.stack([nrmse_percent(chi, truth, mask)[0] for chi in found]))
    value = 1000 * np.nanmean(torch.stack(means).numpy(), axis=0)
    error = 1000 * np.nanmean(torch.stack(errors).abs().numpy(), axis=0)
    print(f"{hardware(device)}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}; {arguments.subjects} heads\n")
    print("| NRMSE, % | chi_para | chi_dia |\n|---|---|---|")
    for variant, (para, dia) in zip(VARIANTS, torch.stack(nrmse).mean(dim=0).tolist(), strict=True):
        print(f"| {variant} | {para:.1f} | {dia:.1f} |")
    print("\n| error of the region's mean, ppb | chi_para | R2' | R2* | chi_dia | R2' | R2* |")
    print("|---|---|---|---|---|---|---|")
    for i, name in enumerate(LABELS):
        cells = (f"{value[source, i]:.1f} | {error[0, source, i]:.1f} | {error[1, source, i]:.1f}" for source in (0, 1))
        print(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
