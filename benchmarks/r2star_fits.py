"""Fits of R2*: bias and scatter of the weighted line and of ARLO beside the bound that noise sets.

    python benchmarks/r2star_fits.py

The echoes of one tissue with complex Gaussian noise, 20,000 voxels; the bound is that of Cramer and Rao.
"""

import math

import torch

from custom_transforms.phantom.acquisition import GradientEchoProtocol
from custom_transforms.preprocessing.relaxation import fit_r2star_arlo
from custom_transforms.relaxometry import fit_r2star, r2star_sd

RATES_PER_S = (10.0, 20.0, 40.0, 80.0, 150.0, 250.0, 400.0)
SNRS = (40, 100, 300)
VOXELS = 20_000


def main() -> None:
    """Print the table."""
    times = GradientEchoProtocol().echo_times_s
    t = torch.tensor(times).reshape(-1, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    print(f"Echo times {', '.join(f'{1000 * time:g}' for time in times)} ms; median bias ± SD in 1/s\n")
    print("| SNR | R2*, 1/s | weighted line | ARLO | bound of the SD |\n|---|---|---|---|---|")
    for snr in SNRS:
        for rate in RATES_PER_S:
            clean = (-t * rate).exp().expand(-1, VOXELS, 1, 1)
            noise = torch.randn(clean.shape, dtype=torch.complex64, generator=generator) * (math.sqrt(2) / snr)
            magnitude = (clean + noise).abs()
            fits = [fit_r2star(magnitude, times)[0], fit_r2star_arlo(magnitude, times)]
            columns = [f"{float(fit.median()) - rate:+.2f} ± {float(fit.std()):.2f}" for fit in fits]
            one = torch.ones(1, 1, 1, 1)
            bound = float(r2star_sd(rate * one, one, times, torch.tensor(1 / snr)))
            print(f"| {snr} | {rate:g} | {columns[0]} | {columns[1]} | {bound:.2f} |")


if __name__ == "__main__":
    main()
