"""Dipole convolution: kernel build, real FFT against complex FFT in one run, and peak memory.

Usage: python benchmarks/physics.py [--device cpu|cuda] [--sizes 128,256]
"""

from __future__ import annotations

import argparse
import multiprocessing
import time

import torch
from timing import median_seconds, peak_memory_mib
from torch import Tensor

from custom_transforms.physics import convolve, dipole_kernel
from custom_transforms.provenance import hardware

VOXEL_SIZE_MM = torch.tensor([[1.0, 1.0, 1.5]])
B0_DIRECTION = torch.tensor([[0.0, 0.5, 0.75**0.5]])


def complex_convolve(image: Tensor, kernel: Tensor) -> Tensor:
    """Convolve by the full complex FFT, the textbook way."""
    axes = (-3, -2, -1)
    return torch.fft.ifftn(torch.fft.fftn(image, dim=axes) * kernel, dim=axes).real


def full_kernel(half: Tensor, n: int) -> Tensor:
    """Mirror a half-spectrum kernel to the full grid: D(-k) = D(k)."""
    index = -torch.arange(n, device=half.device) % n
    rest = half[..., 1 : (n + 1) // 2].flip(-1)[..., index, :, :][..., :, index, :]
    return torch.cat([half, rest], dim=-1)


def measure(size: int, device_name: str, method: str) -> tuple[float, float, float]:
    """Give (kernel build s, convolution s, peak MiB) of one method at size^3, in a process of its own."""
    device = torch.device(device_name)
    grid = [size] * 3
    voxel_size_mm, b0_direction = VOXEL_SIZE_MM.to(device), B0_DIRECTION.to(device)
    image = torch.randn(1, 1, *grid, device=device)
    before = peak_memory_mib(device)
    build = median_seconds(lambda: dipole_kernel(grid, voxel_size_mm, b0_direction), device)
    kernel = dipole_kernel(grid, voxel_size_mm, b0_direction)
    if method == "complex":
        kernel = full_kernel(kernel, size)
        assert torch.allclose(
            complex_convolve(image, kernel), convolve(image, kernel[..., : size // 2 + 1], grid), atol=1e-4
        )
        seconds = median_seconds(lambda: complex_convolve(image, kernel), device)
    else:
        seconds = median_seconds(lambda: convolve(image, kernel, grid), device)
    return build, seconds, peak_memory_mib(device) - before


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", default="128,256")
    arguments = parser.parse_args()
    print(f"{hardware(torch.device(arguments.device))}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}\n")
    print("| size | kernel build ms | real FFT ms | complex FFT ms | ratio | peak MiB, real | peak MiB, complex |")
    print("|---|---|---|---|---|---|---|")
    context = multiprocessing.get_context("spawn")
    for size in map(int, arguments.sizes.split(",")):
        rows = {}
        for method in ("real", "complex"):
            with context.Pool(1) as pool:
                rows[method] = pool.apply(measure, (size, arguments.device, method))
        build, real, memory = rows["real"]
        _, full, full_memory = rows["complex"]
        print(
            f"| {size}^3 | {build * 1e3:.2f} | {real * 1e3:.2f} | {full * 1e3:.2f} | {full / real:.2f} "
            f"| {memory:.0f} | {full_memory:.0f} |"
        )


if __name__ == "__main__":
    main()
