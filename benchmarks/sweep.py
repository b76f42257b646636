"""Choose the parameters of the conventional methods on a simulated validation subject, and print all that was tried.

One parameter after the other: each takes the value of least error while the others stay at their best so far, and the
rounds go on until nothing changes. The error is the demeaned NRMSE of chi_total for a dipole inversion, and the mean
NRMSE of both sources for a separation.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import fire
import torch
from torch import Tensor, nn

from custom_transforms import keys
from custom_transforms.classical import (
    ChiSeparation,
    ClosedFormSeparation,
    ConstantR2Removal,
    MEDISusceptibility,
    TikhonovSusceptibility,
    TKDSusceptibility,
    TVSusceptibility,
)
from custom_transforms.metrics import nrmse_percent
from custom_transforms.networks import PredictedR2Prime
from custom_transforms.phantom.acquisition import Acquisition
from custom_transforms.phantom.brain import AnatomicalBrain
from custom_transforms.physics import RELAXIVITY_3T_PER_S_PPM, r2prime_per_s_to_ppm
from custom_transforms.provenance import hardware
from custom_transforms.relaxometry import combine_echoes

_LAMBDAS = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4)


class Subject(NamedTuple):
    """A measured head and its truth.

    Attributes:
        r2prime: image (1, 4, X, Y, Z) with R2'/Dr, ppm.
        r2star: the same with R2*/Dr.
        truth: chi_para and chi_dia, (1, 2, X, Y, Z), ppm.
        geometry: voxel size (1, 3) in mm and B0 direction (1, 3) in voxel axes.
    """

    r2prime: Tensor
    r2star: Tensor
    truth: Tensor
    geometry: tuple[Tensor, Tensor]


class Candidate(NamedTuple):
    """A method and the values that its parameters may take; the first choice is the middle of them.

    Attributes:
        make: the method for one choice.
        values: of each parameter.
        rate: which image it reads.
    """

    make: Callable[..., nn.Module]
    values: Mapping[str, Sequence[float]]
    rate: str = keys.R2PRIME


def _separation_r2star(*, r2_per_s: float, regularisation: float, r2prime_weight: float) -> nn.Module:
    removal = ConstantR2Removal(r2_ppm=r2_per_s / RELAXIVITY_3T_PER_S_PPM)
    method = ChiSeparation(regularisation=regularisation, r2prime_weight=r2prime_weight)  # the rest as chosen for R2'
    return PredictedR2Prime(r2prime=removal, method=method).eval()


_SEPARATION = {
    "regularisation": _LAMBDAS,
    "r2prime_weight": (0.002, 0.005, 0.01, 0.02),
    "edge_share": (0.1, 0.2, 0.3),
    "csf_weight": (0.0, 0.01, 0.1),
}
CANDIDATES = {
    "tikhonov": Candidate(TikhonovSusceptibility, {"regularisation": (0.0003, 0.001, 0.002, 0.004, 0.01, 0.03)}),
    "closed_form": Candidate(ClosedFormSeparation, {"regularisation": (0.0003, 0.001, 0.002, 0.004, 0.01, 0.03)}),
    "tkd": Candidate(TKDSusceptibility, {"threshold": (0.03, 0.05, 0.08, 0.1, 0.15, 0.2)}),
    "tv": Candidate(TVSusceptibility, {"regularisation": _LAMBDAS}),
    "medi": Candidate(MEDISusceptibility, {"regularisation": _LAMBDAS, "edge_share": (0.05, 0.1, 0.2, 0.3)}),
    "chi_separation": Candidate(ChiSeparation, _SEPARATION),
    "chi_separation_r2star": Candidate(
        _separation_r2star,
        {
            "r2_per_s": (10.0, 11.0, 12.0),
            "regularisation": (5e-5, 1e-4, 2e-4),
            "r2prime_weight": (0.0003, 0.001, 0.003),
        },
        keys.R2STAR,
    ),
}


def simulate_subject(*, voxel_size_mm: float, snr: float, seed: int) -> Subject:
    """Simulate the validation subject: an axial head that no other script uses."""
    tissue = AnatomicalBrain(voxel_size_mm=(voxel_size_mm,) * 3)(seed)
    maps = Acquisition()(tissue, snr=snr, generator=torch.Generator().manual_seed(seed), echoes=True)
    magnitude = combine_echoes(maps[keys.MAGNITUDE])

    def image(rate: str) -> Tensor:
        rate_ppm = r2prime_per_s_to_ppm(maps[rate], RELAXIVITY_3T_PER_S_PPM)
        return torch.cat([maps[keys.LOCAL_FIELD], rate_ppm, maps[keys.MASK], magnitude])[None]

    truth = torch.cat([maps[keys.CHI_PARA], maps[keys.CHI_DIA]])[None]
    geometry = maps[keys.VOXEL_SIZE_MM][None], maps[keys.B0_DIRECTION][None]
    return Subject(image(keys.R2PRIME), image(keys.R2STAR), truth, geometry)


def errors(subject: Subject, method: nn.Module, rate: str, *, magnitude: bool) -> list[float]:
    """Give the errors of a method in percent: one of chi_total, or those of both sources."""
    image = (subject.r2prime if rate == keys.R2PRIME else subject.r2star)[:, : 4 if magnitude else 3]
    pred, truth = method(image, *subject.geometry), subject.truth
    is_total = pred.shape[1] == 1
    if is_total:
        truth = truth[:, :1] - truth[:, 1:]
    return [float(e) for e in nrmse_percent(pred, truth, image[:, 2:3], demean=is_total)[0]]


def search(candidate: Candidate, evaluate: Callable[[dict[str, float]], float]) -> dict[str, float]:
    """Choose the parameters of a method, one after the other."""
    choice = {name: values[len(values) // 2] for name, values in candidate.values.items()}
    while True:
        before = dict(choice)
        for name, values in candidate.values.items():
            tried = {value: evaluate({**choice, name: value}) for value in values}
            choice[name] = min(tried, key=tried.__getitem__)
        if choice == before or len(choice) == 1:
            return choice


def sweep(*variants: str, voxel_size: float = 1.0, snr: float = 100.0, seed: int = 501, magnitude: bool = True) -> None:
    """Print a table of all that was tried, and the choice for each method.

    Args:
        variants: names; all if there are none.
        voxel_size: isotropic, mm.
        snr: of the measurement.
        seed: of the subject.
        magnitude: let the methods see the magnitude.
    """
    subject = simulate_subject(voxel_size_mm=voxel_size, snr=snr, seed=seed)
    given = "with" if magnitude else "without"
    print(f"{hardware('cpu')}; voxels of {voxel_size:g} mm, SNR {snr:g}, seed {seed}, {given} magnitude\n")
    print("| method | parameters | error, % |\n|---|---|---|", flush=True)
    for name in variants or CANDIDATES:
        evaluate = _Remembered(partial(_try, name, CANDIDATES[name], subject, magnitude))
        choice = search(CANDIDATES[name], evaluate)
        print(f"| **{name}** | **{_describe(choice)}** | **{evaluate(choice):.2f}** |", flush=True)


class _Remembered:
    """A function of a choice that computes no choice twice."""

    def __init__(self, function: Callable[[dict[str, float]], float]) -> None:
        self.function = function
        self.known: dict[tuple[Any, ...], float] = {}

    def __call__(self, choice: dict[str, float]) -> float:
        key = tuple(choice.items())
        if key not in self.known:
            self.known[key] = self.function(choice)
        return self.known[key]


def _try(name: str, candidate: Candidate, subject: Subject, magnitude: bool, choice: dict[str, float]) -> float:
    found = errors(subject, candidate.make(**choice), candidate.rate, magnitude=magnitude)
    print(f"| {name} | {_describe(choice)} | {' / '.join(f'{error:.2f}' for error in found)} |", flush=True)
    return sum(found) / len(found)


def _describe(choice: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in choice.items())


if __name__ == "__main__":
    fire.Fire(sweep)
