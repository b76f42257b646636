"""Conventional methods on a simulated head: errors, convergence, what twice the iterations change, and time.

The head is not the one of sweep.py, which chose their parameters. Twice the iterations means twice those after which
the stopping rule ended.
"""

import time

import fire
import torch
from torch import Tensor, nn

from custom_transforms import keys
from custom_transforms.classical import ChiSeparation, StoppingRule, TVSusceptibility
from custom_transforms.metrics import nrmse_percent
from custom_transforms.phantom.acquisition import Acquisition
from custom_transforms.phantom.brain import AnatomicalBrain
from custom_transforms.physics import RELAXIVITY_3T_PER_S_PPM, r2prime_per_s_to_ppm
from custom_transforms.provenance import hardware, peak_memory_gib
from custom_transforms.relaxometry import combine_echoes
from custom_transforms.variants import is_learned, load_variant, uses_magnitude, variant_names

_NO_TOLERANCE = 1e-30


def run(method: nn.Module, image: Tensor, geometry: tuple[Tensor, Tensor]) -> tuple[Tensor, float]:
    """Give the maps of a method, and the seconds that it took."""
    if image.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    maps = method(image, *geometry)
    if image.is_cuda:
        torch.cuda.synchronize()
    return maps, time.perf_counter() - start


def errors(maps: Tensor, truth: Tensor, mask: Tensor) -> list[float]:
    """Give the NRMSE of both sources in percent, or the demeaned one of chi_total."""
    is_total = maps.shape[1] == 1
    reference = truth[:, :1] - truth[:, 1:] if is_total else truth
    return [float(e) for e in nrmse_percent(maps, reference, mask, demean=is_total)[0]]


def conventional(
    *variants: str,
    voxel_size: float = 1.0,
    snr: float = 100.0,
    tilt_deg: float = 0.0,
    seed: int = 7,
    device: str = "cpu",
) -> None:
    """Print a table with a row for each conventional method, and for the dipole inversion in it.

    Args:
        variants: names; all conventional ones if there are none.
        voxel_size: isotropic, mm.
        snr: of the measurement.
        tilt_deg: of the head to B0.
        seed: of the head.
        device: cpu or cuda.
    """
    tissue = AnatomicalBrain(voxel_size_mm=(voxel_size,) * 3, tilt_deg=tilt_deg)(seed)
    maps = Acquisition()(tissue, snr=snr, generator=torch.Generator().manual_seed(seed), echoes=True)
    truth = torch.cat([maps[keys.CHI_PARA], maps[keys.CHI_DIA]])[None].to(device)
    geometry = maps[keys.VOXEL_SIZE_MM][None].to(device), maps[keys.B0_DIRECTION][None].to(device)
    magnitude = combine_echoes(maps[keys.MAGNITUDE])
    shape = " x ".join(map(str, truth.shape[2:]))
    head = f"{shape} voxels of {voxel_size:g} mm, SNR {snr:g}, tilted by {tilt_deg:g} degrees, seed {seed}"
    print(f"{hardware(device)}; {head}\n")
    print("| method | NRMSE, % | iterations | primal | dual | NRMSE after twice as many, % | s | peak GiB so far |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name in variants or [name for name in variant_names() if not is_learned(name)]:
        loaded = load_variant(name, device=device)
        rate = r2prime_per_s_to_ppm(maps[loaded.rate], RELAXIVITY_3T_PER_S_PPM)
        channels = [maps[keys.LOCAL_FIELD], rate, maps[keys.MASK], magnitude][
            : 4 if uses_magnitude(loaded.network) else 3
        ]
        _print_row(name, loaded.network, torch.cat(channels)[None].to(device), truth, geometry)
        if hasattr(loaded.network, "susceptibility"):
            inversion = loaded.network.get_submodule("susceptibility")
            _print_row(f"{name}: chi_total", inversion, torch.cat(channels)[None].to(device), truth, geometry)


def _print_row(name: str, method: nn.Module, image: Tensor, truth: Tensor, geometry: tuple[Tensor, Tensor]) -> None:
    def nrmse(chi: Tensor) -> str:
        return " / ".join(f"{error:.2f}" for error in errors(chi, truth, image[:, 2:3]))

    chi, seconds = run(method, image, geometry)
    found, iterations, residuals, twice = nrmse(chi), "–", ("–", "–"), "–"
    for module in method.modules():
        if isinstance(module, (ChiSeparation, TVSusceptibility)):
            last = module.convergence[-1]
            iterations, residuals = str(last.iteration), (f"{last.primal:.1e}", f"{last.dual:.1e}")
            rule, module.rule = module.rule, StoppingRule(_NO_TOLERANCE, 2 * last.iteration)
            twice = nrmse(run(method, image, geometry)[0])
            module.rule = rule
    memory = torch.cuda.max_memory_allocated() / 2**30 if image.is_cuda else peak_memory_gib()
    cells = (name, found, iterations, *residuals, twice, f"{seconds:.1f}", f"{memory:.2f}")
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    fire.Fire(conventional)
