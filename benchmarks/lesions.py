"""Recovery of haemorrhages and calcifications by the shipped network: the line through the means of all lesions.

Usage: python benchmarks/lesions.py [--device cpu|cuda] [--lesions 24] [--seeds 3,4]
"""

from __future__ import annotations

import argparse
import time

import torch
from accuracy import shipped_network

from custom_transforms import keys
from custom_transforms.metrics import lesion_fit
from custom_transforms.phantom import Acquisition, AnatomicalBrain
from custom_transforms.phantom.structures import REGIONS
from custom_transforms.physics import RELAXIVITY_3T_PER_S_PPM, r2prime_per_s_to_ppm
from custom_transforms.provenance import hardware

KINDS = {"haemorrhage": keys.CHI_PARA, "calcification": keys.CHI_DIA}


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--lesions", type=int, default=24)
    parser.add_argument("--seeds", default="3,4")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    network = shipped_network(device)
    print(f"{hardware(device)}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}\n")
    print("| subject | R2' | lesions | slope | intercept, ppm | R2 |\n|---|---|---|---|---|---|")
    for seed in map(int, arguments.seeds.split(",")):
        tissue = AnatomicalBrain(lesions=arguments.lesions, device=arguments.device)(seed)
        for snr, name in ((None, "exact"), (100.0, "fitted at SNR 100")):
            maps = Acquisition()(tissue, snr=snr, generator=torch.Generator(device).manual_seed(seed))
            r2prime = r2prime_per_s_to_ppm(maps[keys.R2PRIME], RELAXIVITY_3T_PER_S_PPM)
            image = torch.cat([maps[keys.LOCAL_FIELD], r2prime, maps[keys.MASK]])[None]
            geometry = (maps[key].reshape(1, 3) for key in (keys.VOXEL_SIZE_MM, keys.B0_DIRECTION))
            with torch.inference_mode():
                chi = dict(zip((keys.CHI_PARA, keys.CHI_DIA), network(image, *geometry).split(1, dim=1), strict=True))
            for kind, source in KINDS.items():
                inside = (tissue[keys.REGIONS] == REGIONS[kind])[None]
                slope, intercept, r2 = (float(x) for x in lesion_fit(chi[source], tissue[source][None], inside))
                print(f"| {seed} | {name} | {kind} | {slope:.3f} | {intercept:.3f} | {r2:.4f} |", flush=True)


if __name__ == "__main__":
    main()
