"""`chisep reproduce thesis`: train and compare baseline and unrolled network as in Kim 2023, and write a page.

settings.json                what the results depend on
cohort/                      eight heads in several orientations, with labels by COSMOS
runs/NAME/                   checkpoints and epochs.csv of every training
weights/NAME.pt              its weights with the lowest validation error
results/NAME.json            its scores, lesions and cost; results/slices.npz for the figures
thesis.md, thesis_*.png      the page, written anew after every network

What is there is not made again, and a training that was killed goes on from its last epoch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from custom_transforms.checks import InputError
from custom_transforms.classical import ClosedFormSeparation
from custom_transforms.data import read_data_list
from custom_transforms.inferers import GeometryInferer
from custom_transforms.options import choose_device
from custom_transforms.output import write_json
from custom_transforms.provenance import hardware
from custom_transforms.reproduce.thesis_analysis import (
    Estimator,
    estimator,
    lesion_recovery,
    score,
    trained_estimator,
    training_cost,
)
from custom_transforms.reproduce.thesis_cases import COSMOS, LesionCase, held_out_cases, lesion_cases
from custom_transforms.reproduce.thesis_page import write_page
from custom_transforms.reproduce.thesis_results import Result
from custom_transforms.reproduce.thesis_runs import (
    CLOSED_FORM,
    INITIAL_ALPHA,
    OURS,
    UNROLLED,
    Run,
    Settings,
    epochs_path,
    planned_runs,
)
from custom_transforms.reproduce.thesis_training import alpha_learning_rate, optimiser_steps, read_epochs, train
from custom_transforms.simulate import simulate
from custom_transforms.variants import load_variant

SUBJECTS = 8  # split 4:1:3


@dataclass(frozen=True)
class Reproduction:
    """The stages of a reproduction in its folder."""

    folder: Path
    settings: Settings

    @cached_property
    def lesions(self) -> list[LesionCase]:
        """The test heads with lesions."""
        return list(lesion_cases(self.folder / "cohort", self.settings.device))

    def is_done(self, name: str) -> bool:
        """Tell whether a network has been measured."""
        return (self.folder / "results" / f"{name}.json").is_file()

    def measure(self, name: str, result: Result, estimate: Estimator) -> None:
        """Add scores and lesions to a result and save it."""
        print(f"{name}: test heads and lesions", flush=True)
        heads = score(estimate, held_out_cases(self.folder / "cohort", self.settings.device))
        lesions = lesion_recovery(estimate, self.lesions)
        complete = Result(**{**asdict(result), "heads": heads, "lesions": lesions})
        complete.save(self.folder / "results" / f"{name}.json")

    def run(self, run: Run) -> None:
        """Train a network and measure it."""
        print(f"{run.name}: training", flush=True)
        train(run, self.settings, self.folder)
        estimate = trained_estimator(run, self.settings, self.folder)
        if (run.model, run.seed) == (UNROLLED, 0):
            self.save_slices(estimate)
        result = Result(
            run.model,
            run.seed,
            optimiser_steps(self.folder, run),
            heads=[],
            lesions=[],
            epochs=read_epochs(epochs_path(self.folder, run)),
            alpha_learning_rate=alpha_learning_rate(run, self.settings, self.folder),
            cost=training_cost(run, self.settings, self.folder),
        )
        self.measure(run.name, result, estimate)

    def run_untrained(self) -> None:
        """Measure the shipped network and the closed form, unless that is done."""
        for name, model in (("unrolled", OURS), ("closed_form", CLOSED_FORM)):
            if self.is_done(name):
                continue
            if model == OURS:
                shipped = load_variant("unrolled", device=self.settings.device)
                estimate = estimator(shipped.network, shipped.inferer)
            else:
                estimate = estimator(ClosedFormSeparation(), GeometryInferer())
            self.measure(name, Result(model, 0, 0, heads=[], lesions=[]), estimate)

    def save_slices(self, estimate: Estimator) -> None:
        """Save the middle axial slice of the first test head: label (2, X, Y) and iterations (N, 2, X, Y), ppm."""
        case = next(held_out_cases(self.folder / "cohort", self.settings.device))
        level = round(float(case.image[0, 2].nonzero()[:, 2].float().mean()))
        label, mask = case.references[COSMOS][0, ..., level], case.image.as_tensor()[0, 2, ..., level]
        iterations = estimate(case.image)[..., level] * mask
        path = self.folder / "results" / "slices.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, label=label.cpu().numpy(), iterations=iterations.cpu().numpy())

    def write_page(self) -> None:
        """Write thesis.md and its figures from the results that are there."""
        results = [Result.load(path) for path in sorted((self.folder / "results").glob("*.json"))]
        write_page(self.folder, results, hardware(self.settings.device))


def thesis(
    *,
    output: str,
    voxel_size: float = 1.0,
    epochs: int = 20,
    orientations: int = 6,
    seeds: int = 1,
    width: int = 16,
    patch_size: int | None = None,
    ablations: bool = True,
    amp: bool = True,
    checkpointing: bool = True,
    device: str = "auto",
) -> None:
    """Reproduce the thesis of unrolled chi-sepnet-R2': train, compare, and write a page with a verdict on each claim.

    It takes hours on a GPU at 1 mm; on a CPU choose 3 mm, few epochs and a width of 8. It can be stopped and started
    again at any time with the same options; the page is there after the first network.

    Args:
        output: folder for cohort, trainings, results and page.
        voxel_size: isotropic, mm.
        epochs: of every training.
        orientations: head orientations of each subject, 3 or more.
        seeds: how many times baseline and unrolled network are trained.
        width: channels of the first of five levels of the U-Nets; the published networks have 32.
        patch_size: train on cubes of so many voxels, a multiple of 16; whole volumes if not given.
        ablations: also train with fewer iterations, without QSMnet, and with a learning rate of alpha's own.
        amp: networks in bfloat16.
        checkpointing: less memory, more time.
        device: auto, cpu, cuda, cuda:1 and so on.
    """
    folder = Path(output)
    chosen = str(choose_device(device))
    settings = Settings(voxel_size, epochs, width, patch_size, amp, checkpointing, chosen)
    _check_settings(folder / "settings.json", settings, orientations)
    cohort = folder / "cohort"
    if not (cohort / "cosmos.json").is_file():
        size = (voxel_size, voxel_size, voxel_size)
        simulate(output=str(cohort), subjects=SUBJECTS, orientations=orientations, voxel_size=size)
    volumes = len(read_data_list(cohort / "cosmos.json", "training", labelled=True))
    reproduction = Reproduction(folder, settings)
    reproduction.run_untrained()
    # so that alpha could travel four times the distance to zero
    fast = 4 * INITIAL_ALPHA / (epochs * volumes)
    for run in planned_runs(seeds=seeds, ablations=ablations, alpha_learning_rate=fast):
        if not reproduction.is_done(run.name):
            reproduction.run(run)
            reproduction.write_page()
    reproduction.write_page()
    print(f"the page is {folder / 'thesis.md'}")


def _check_settings(path: Path, settings: Settings, orientations: int) -> None:
    for name, value in (("voxel_size", settings.voxel_size_mm), ("epochs", settings.epochs), ("width", settings.width)):
        if value <= 0:
            raise InputError(f"--{name} must be positive, got {value:g}")
    if settings.patch_size is not None and (settings.patch_size <= 0 or settings.patch_size % 16):
        raise InputError(f"--patch_size must be a multiple of 16, got {settings.patch_size}")
    content = {**asdict(settings), "orientations": orientations}
    if not path.is_file():
        write_json(path, content)
    elif json.loads(path.read_text(encoding="utf-8")) != content:
        raise InputError(f"{path} has other settings; give the same options, or another --output")
