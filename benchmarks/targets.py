"""What the default network is held to, and what it reaches: a table of targets, each with a verdict.

1  XSIM at SNR 300
2  XSIM and NRMSE at SNR 100 beside an oracle that knows chi_total, and NRMSE beside the conventional methods
3  haemorrhages and calcifications of 0.1 to 3 ppm, and leakage between the sources
4  what an oblique head and thick slices add to the NRMSE
5  what a Dr that is 20 % too high does to chi_total, and to the sum of the sources
6  consistency over six orientations of a head

R2' or R2* is fitted to noisy echoes throughout. The heads are the test subjects of the cohort (`chisep simulate
--subjects 8`, split 4:1:3), and fresh ones; they are simulated on the CPU, so that they are the same everywhere.

Usage: python benchmarks/targets.py [--variant unrolled] [--model FILE] [--only 1,2] [--subjects 3] [--fresh 1]
    [--voxel_mm 1.0] [--conventional] [--peers NAMES] [--device auto] [--json FILE]
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from monai.utils import convert_to_tensor
from torch import Tensor

from custom_transforms import keys
from custom_transforms.benchmark.oracle import separate_with_oracle
from custom_transforms.benchmark.scoring import LESIONS
from custom_transforms.benchmark.verdicts import Figure, raw, table
from custom_transforms.cohort import split_subjects
from custom_transforms.metrics import fit_line, leakage, lesion_fit, nrmse_percent, orientation_sd, region_means, xsim
from custom_transforms.options import choose_device, choose_variants
from custom_transforms.output import write_json
from custom_transforms.phantom.brain import AnatomicalBrain
from custom_transforms.phantom.structures import REGIONS
from custom_transforms.provenance import hardware
from custom_transforms.reproduce.papers_pipelines import MeasuredHead, total
from custom_transforms.reproduce.thesis import SUBJECTS
from custom_transforms.simulate import draw_seeds
from custom_transforms.variants import (
    DEFAULT,
    inference_config,
    is_learned,
    load_variant,
    uses_magnitude,
    variant_names,
)
from custom_transforms.weights import load_weights

SOURCES = (keys.CHI_PARA, keys.CHI_DIA)
TISSUES = [index for name, index in REGIONS.items() if name not in ("background", *LESIONS)]
FRESH_SEED = 9000
LESIONS_A_HEAD = 24
RELAXIVITY_ERROR = 1.2
TILTS_DEG = (0.0, 10.0, 20.0, 30.0, 40.0, 45.0)


class Condition(NamedTuple):
    """One way to measure a subject."""

    snr: float = 100.0
    voxel_size_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    tilt_deg: float = 0.0
    lesions: int = 0


AXIAL, OBLIQUE, THICK = Condition(), Condition(tilt_deg=30.0), Condition(voxel_size_mm=(0.8, 0.8, 2.0))


class Method:
    """A variant of the bundle, called with measured heads.

    Args:
        name: of the variant.
        device: where it runs.
        model: another weights file of the same network, or None for the shipped one.
    """

    def __init__(self, name: str, device: torch.device, model: str | None = None) -> None:
        self.name, self.device, self.variant = name, device, load_variant(name, device=device)
        self.uses_magnitude = uses_magnitude(self.variant.network)
        if model is not None:
            load_weights(self.variant.network, model)

    def __call__(self, head: MeasuredHead, *, magnitude: bool = True, relaxivity_factor: float = 1.0) -> Tensor:
        """Give chi_para and chi_dia in ppm, (1, 2, X, Y, Z), from a rate divided by Dr times a factor."""
        image = head.image(0, self.variant.rate, magnitude=magnitude and self.uses_magnitude)
        image[:, 1] = image[:, 1] / relaxivity_factor
        with torch.inference_mode():
            chi = self.variant.inferer(image.to(self.device), self.variant.network)
        return convert_to_tensor(chi, track_meta=False).cpu()


@dataclass
class Subject:
    """A subject, measured in one condition after the other.

    Attributes:
        name: said when it is measured.
        seeds: of the anatomy and of the noise.
        method: what is held to the targets.
        voxel_mm: factor of all voxel sizes; more than 1 for a quick check.
        conventional: methods to compare with.
        peers: methods whose consistency over orientations is measured, too.
        kept: what several targets need.
    """

    name: str
    seeds: tuple[int, int]
    method: Method
    voxel_mm: float = 1.0
    conventional: Sequence[Method] = ()
    peers: Sequence[Method] = ()
    kept: dict[Condition, tuple[MeasuredHead, Tensor]] = field(default_factory=dict)

    def measure(self, condition: Condition) -> tuple[MeasuredHead, Tensor]:
        """Give the measured head, and what the method makes of it."""
        if condition in self.kept:
            return self.kept[condition]
        x, y, z = (self.voxel_mm * size for size in condition.voxel_size_mm)
        how = f"SNR {condition.snr:g}, {x:g} x {y:g} x {z:g} mm, tilt {condition.tilt_deg:g} degrees"
        self.say(f"{how}, {condition.lesions} lesions")
        brain = AnatomicalBrain(voxel_size_mm=(x, y, z), tilt_deg=condition.tilt_deg, lesions=condition.lesions)
        anatomy, noise = self.seeds
        # every orientation has noise of its own, which the SD over them must see
        head = MeasuredHead(brain(anatomy), orientations=1, snr=condition.snr, seed=noise + round(condition.tilt_deg))
        measured = head, self.method(head)
        if condition in (AXIAL, OBLIQUE):
            self.kept[condition] = measured
        return measured

    def say(self, text: str) -> None:
        """Tell the progress."""
        print(f"{time.strftime('%H:%M:%S')} {self.name}: {text}", file=sys.stderr, flush=True)


def structure(subject: Subject) -> Iterator[Figure]:
    """Target 1."""
    head, chi = subject.measure(Condition(snr=300.0))
    for source, value in zip(SOURCES, xsim(chi, head.truth, head.mask)[0].tolist(), strict=True):
        yield Figure(f"XSIM of {source}, SNR 300", value, (0.95, math.inf))


def accuracy(subject: Subject) -> Iterator[Figure]:
    """Target 2."""
    head, chi = subject.measure(AXIAL)
    oracle, sigma = separate_with_oracle(head.image(0, keys.R2PRIME).as_tensor()[:, 1:2], head.truth, head.mask)
    best = f"oracle, σ = {float(sigma):g} voxels"
    similarity, errors = (
        [metric(maps, head.truth, head.mask)[0].tolist() for maps in (chi, oracle)] for metric in (xsim, nrmse_percent)
    )
    for source, value, bound in zip(SOURCES, *similarity, strict=True):
        yield Figure(f"XSIM of {source}, SNR 100", value, (bound, math.inf), best)
    for source, value, bound in zip(SOURCES, *errors, strict=True):
        yield Figure(f"NRMSE of {source}, SNR 100, %", value, (-math.inf, bound), best)
    if subject.conventional:
        found = conventional_errors(subject, head)
        yield from (Figure(f"mean NRMSE of both, {name}, %", sum(pair) / 2) for name, pair in found.items())
        name = min(found, key=lambda name: sum(found[name]))
        for source, value, bound in zip(SOURCES, errors[0], found[name], strict=True):
            yield Figure(
                f"NRMSE of {source} beside the conventional methods, %",
                value,
                (-math.inf, bound / 2),
                f"half of {name}",
            )


def conventional_errors(subject: Subject, head: MeasuredHead) -> dict[str, list[float]]:
    """Give the NRMSE of both sources, percent, of each conventional method, with the magnitude and without."""
    found = {}
    for method in subject.conventional:
        for magnitude in (True, False) if method.uses_magnitude else (False,):
            name = f"{method.name} {'with' if magnitude else 'without'} magnitude"
            subject.say(name)
            found[name] = nrmse_percent(method(head, magnitude=magnitude), head.truth, head.mask)[0].tolist()
    return found


def lesions(subject: Subject) -> Iterator[Figure]:
    """Target 3."""
    head, chi = subject.measure(Condition(lesions=LESIONS_A_HEAD))
    for i, kind in enumerate(LESIONS):
        inside, own = (head.tissue[keys.REGIONS] == REGIONS[kind])[None], slice(i, i + 1)
        slope, _, r_squared = map(float, lesion_fit(chi[:, own], head.truth[:, own], inside))
        yield Figure(f"slope of {kind}s", slope, (0.98, 1.02))
        yield Figure(f"R2 of {kind}s", r_squared, (0.99, math.inf))
    for name, (at, maps) in {"with lesions": (head, chi), "without lesions": subject.measure(AXIAL)}.items():
        for source, value in zip(SOURCES, leakage(maps, at.truth, at.mask)[0].tolist(), strict=True):
            yield Figure(f"leakage into {source}, {name}", value, (-0.02, 0.02))


def geometry(subject: Subject) -> Iterator[Figure]:
    """Target 4."""
    base, *others = (
        nrmse_percent(chi, head.truth, head.mask)[0] for head, chi in map(subject.measure, (AXIAL, OBLIQUE, THICK))
    )
    for name, errors in zip(("oblique by 30 degrees", "0.8 x 0.8 x 2 mm"), others, strict=True):
        rise = 100 * (torch.stack([errors.mean(), *errors]) / torch.stack([base.mean(), *base]) - 1)
        for source, value in zip(("both", *SOURCES), rise.tolist(), strict=True):
            yield Figure(f"rise of the NRMSE of {source}, {name}, %", value, (-math.inf, 15.0))


def relaxivity(subject: Subject) -> Iterator[Figure]:
    """Target 5."""
    head, chi = subject.measure(AXIAL)
    subject.say(f"Dr times {RELAXIVITY_ERROR:g}")
    other = subject.method(head, relaxivity_factor=RELAXIVITY_ERROR)
    change, demeaned = (
        float(nrmse_percent(total(other), total(chi), head.mask, demean=demean)) for demean in (False, True)
    )
    yield Figure("change of chi_total, Dr 20 % too high, %", change, (-math.inf, 2.0))
    # what is left once the zero, which the field leaves free and R2' pins, has moved
    yield Figure("change of chi_total, Dr 20 % too high, means subtracted, %", demeaned)
    old, new = (maps.sum(dim=1, keepdim=True)[head.mask > 0.5] for maps in (chi, other))
    scale = RELAXIVITY_ERROR * float(fit_line(old, new).slope)
    yield Figure("1.2 times the slope of chi_para + chi_dia, Dr 20 % too high", scale, (0.97, 1.03))


def orientations(subject: Subject) -> Iterator[Figure]:
    """Target 6."""
    maps: dict[str, list[Tensor]] = {method.name: [] for method in (subject.method, *subject.peers)}
    slopes = []
    for tilt_deg in TILTS_DEG:
        head, chi = subject.measure(Condition(tilt_deg=tilt_deg))
        regions = head.tissue[keys.REGIONS][None]
        truth, means = (region_means(values, regions, labels=TISSUES)[0] for values in (head.truth, chi))
        slopes.append(fit_line(truth, means).slope)
        maps[subject.method.name].append(chi)
        for peer in subject.peers:
            subject.say(f"{peer.name} at {tilt_deg:g} degrees")
            maps[peer.name].append(peer(head))
    masks = head.mask.expand(len(TILTS_DEG), -1, -1, -1, -1)
    own, *others = (orientation_sd(torch.cat(found), masks)[0].tolist() for found in maps.values())
    for i, source in enumerate(SOURCES):
        limit, name = min(
            ((sd[i], peer.name) for sd, peer in zip(others, subject.peers, strict=True)), default=(math.inf, "")
        )
        yield Figure(f"SD of {source} over six orientations, ppm", own[i], (-math.inf, limit), name)
        worst = max(torch.stack(slopes)[:, i].tolist(), key=lambda slope: abs(slope - 1))
        yield Figure(f"slope of the regions of {source}, worst of six orientations", worst, (0.95, 1.05))
    for sd, peer in zip(others, subject.peers, strict=True):
        for source, value in zip(SOURCES, sd, strict=True):
            yield Figure(f"SD of {source} over six orientations, {peer.name}, ppm", value)


TARGETS = {1: structure, 2: accuracy, 3: lesions, 4: geometry, 5: relaxivity, 6: orientations}


def measure_all(subject: Subject, numbers: Sequence[int]) -> Iterator[list[Figure]]:
    """Measure a subject for one target after the other, whose numbers go before their figures."""
    for number in numbers:
        yield [replace(figure, what=f"{number}. {figure.what}") for figure in TARGETS[number](subject)]


def cohort_seeds() -> dict[str, tuple[int, int]]:
    """Give the seeds of the cohort's test subjects, by their names."""
    seeds = {f"sub-{number:02d}": draw_seeds(0, number) for number in range(1, SUBJECTS + 1)}
    return {name: seeds[name] for name in split_subjects(list(seeds))["test"]}


def parse() -> argparse.ArgumentParser:
    """Give the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default=DEFAULT)
    parser.add_argument("--model", help="another weights file of the same network")
    parser.add_argument("--only", default=",".join(map(str, TARGETS)), help="numbers of targets, commas between them")
    parser.add_argument("--subjects", type=int, default=len(cohort_seeds()), help="of the cohort's test subjects")
    parser.add_argument("--fresh", type=int, default=1, help="number of fresh heads")
    parser.add_argument("--voxel_mm", type=float, default=1.0, help="factor of all voxel sizes, for a quick check")
    parser.add_argument("--conventional", action="store_true", help="measure the conventional methods, too")
    parser.add_argument("--peers", help="variants for target 6, with commas between them, or all")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="file for the figures of every head")
    return parser


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = parse()
    options = parser.parse_args()
    try:
        numbers = [int(number) for number in options.only.split(",")]
        if not set(numbers) <= set(TARGETS):
            raise ValueError(f"--only takes numbers from 1 to {len(TARGETS)}, got {options.only}")
        device = choose_device(options.device)
        method = Method(options.variant, device, options.model)
        names = [name for name in variant_names() if not is_learned(name)] if options.conventional else []
        conventional = [Method(name, device) for name in names if inference_config(name)["rate"] == keys.R2PRIME]
        peer_names = choose_variants(options.peers)[0] if options.peers else []
        peers = [Method(name, device) for name in peer_names if name != options.variant]
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    heads = dict(list(cohort_seeds().items())[: options.subjects])
    heads |= {f"fresh-{seed}": (seed, seed) for seed in range(FRESH_SEED, FRESH_SEED + options.fresh)}
    made = f"{hardware(device)}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}; {options.variant}"
    made += f", {Path(options.model).name}" if options.model else ""
    made += f"; voxels of {options.voxel_mm:g} mm; heads: {', '.join(heads)}"
    figures: dict[str, list[Figure]] = {name: [] for name in heads}
    for name, seeds in heads.items():
        for found in measure_all(Subject(name, seeds, method, options.voxel_mm, conventional, peers), numbers):
            figures[name] += found
            if options.json:  # after every target, so that what was measured outlives an interruption
                write_json(options.json, {"made": made, "heads": raw(figures)})
    cohort, fresh = ([found for name, found in figures.items() if name.startswith("fresh") == x] for x in (False, True))
    print(f"{made}\n\n{table(cohort, fresh)}\n\nMean over the heads [range].")


if __name__ == "__main__":
    main()
