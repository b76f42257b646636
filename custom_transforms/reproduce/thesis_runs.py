"""The networks that the thesis' comparison trains, their settings, and where their files are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

QSMNET = "qsmnet"
BASELINE = "baseline"
UNROLLED = "unrolled_thesis"
WITHOUT_QSM = "without the QSMnet input"
FAST_ALPHA = "alpha with a learning rate of its own"
OURS = "unrolled"
CLOSED_FORM = "closed form"

ITERATIONS = 10  # of the thesis
FEWER_ITERATIONS = (1, 2, 5)
INITIAL_ALPHA = 4.0
LEVELS = 5  # of the U-Nets, each twice as wide as the one above


@dataclass(frozen=True)
class Settings:
    """What all runs of a reproduction share.

    Attributes:
        voxel_size_mm: isotropic voxel size of cohort and networks.
        epochs: of every training.
        width: channels of the first of the five levels of every U-Net.
        patch_size: edge of the cubes that are trained on, voxels; None for whole volumes.
        amp: networks in bfloat16.
        checkpointing: the unrolled network computes its activations twice to save memory.
        device: name of a torch device.
    """

    voxel_size_mm: float
    epochs: int
    width: int
    patch_size: int | None
    amp: bool
    checkpointing: bool
    device: str

    @property
    def channels(self) -> list[int]:
        """Channels of the U-Nets' levels."""
        return [self.width * 2**level for level in range(LEVELS)]


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        model: its name in tables.
        variant: the patch of configs/variants.
        seed: of its weights and its order of volumes.
        overrides: settings of the config that differ from the variant's.
    """

    model: str
    variant: str
    seed: int = 0
    overrides: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.model.replace(' ', '_')}_seed-{self.seed}"


def iterations_model(iterations: int) -> str:
    """Name the unrolled network with another number of iterations."""
    return f"{iterations} iteration{'s' if iterations > 1 else ''}"


def planned_runs(*, seeds: int, ablations: bool, alpha_learning_rate: float) -> list[Run]:
    """List the trainings in their order; QSMnet, which the others need, is the first.

    Args:
        seeds: number of seeds of baseline and unrolled network; the ablations take the first.
        ablations: fewer iterations, without the QSMnet input, and alpha with a learning rate of its own.
        alpha_learning_rate: the latter.
    """
    runs = [Run(QSMNET, "qsmnet")]
    for seed in range(seeds):
        runs += [Run(BASELINE, "chi_sepnet_r2prime", seed), Run(UNROLLED, "unrolled_thesis", seed)]
    if ablations:
        runs += [Run(iterations_model(n), "unrolled_thesis", overrides={"iterations": n}) for n in FEWER_ITERATIONS]
        without = {"network_def::susceptibility": None, "loss::susceptibility": None}
        runs.append(Run(WITHOUT_QSM, "unrolled_thesis", overrides=without))
        groups = (
            "$[{'params': [p for name, p in @network.named_parameters() if name != 'step' and p.requires_grad]}, "
            f"{{'params': [@network.step], 'lr': {alpha_learning_rate}}}]"
        )
        runs.append(Run(FAST_ALPHA, "unrolled_thesis", overrides={"optimizer::params": groups}))
    return runs


def weights_path(folder: Path, run: Run) -> Path:
    """Give the exported weights of a run."""
    return folder / "weights" / f"{run.name}.pt"


def epochs_path(folder: Path, run: Run) -> Path:
    """Give the table of a run's epochs."""
    return folder / "runs" / run.name / "epochs.csv"
