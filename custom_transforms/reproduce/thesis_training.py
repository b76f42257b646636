"""Training for the thesis' comparison: the bundle's own configs on the COSMOS labels of a cohort.

Every run is a patch of ``configs/variants`` stacked on train.json with the settings of the reproduction. A run that was
killed goes on from its last epoch, and one whose weights are exported is left alone.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from torch import nn

from custom_transforms.bundle_path import bundle_path
from custom_transforms.reproduce.thesis_runs import QSMNET, Run, Settings, epochs_path, weights_path
from custom_transforms.variants import variant_path
from custom_transforms.weights import save_weights


def training_config(run: Run, settings: Settings, folder: Path) -> ConfigParser:
    """Give train.json with the variant's patch, the settings and the run's own overrides.

    Args:
        run: the training.
        settings: of the reproduction.
        folder: of the reproduction, with the cohort and QSMnet's weights.
    """
    parser = ConfigParser()
    parser.read_config([bundle_path() / "configs" / "train.json", variant_path(run.variant)])
    parser.read_meta(bundle_path() / "configs" / "metadata.json")
    overrides: dict[str, Any] = {
        "bundle_root": str(bundle_path()),
        "output_dir": str(folder / "runs" / run.name),
        "data_list": str(folder / "cohort" / "cosmos.json"),
        "seed": run.seed,
        "max_epochs": settings.epochs,
        "val_interval": 1,
        "trained_voxel_size_mm": settings.voxel_size_mm,
        "channels": settings.channels,
        "patch_shape": None if settings.patch_size is None else [settings.patch_size] * 3,
        "batch_size": 1,
        "cache_rate": 1.0,
        "amp": settings.amp,
        "device": f"$torch.device('{settings.device}')",
    }
    if run.variant == "unrolled_thesis":
        overrides["network_def::checkpointing"] = settings.checkpointing
    if run.model != QSMNET:
        weights = str(weights_path(folder, Run(QSMNET, "qsmnet")))
        overrides |= {"qsmnet_weights": weights, "qsmnet_channels": settings.channels}
    parser.update(overrides | run.overrides)
    return parser


def train(run: Run, settings: Settings, folder: Path) -> None:
    """Train, or go on training, and export the weights with the lowest validation error.

    Args:
        run: the training.
        settings: of the reproduction.
        folder: of the reproduction.
    """
    checkpoints = folder / "runs" / run.name / "checkpoints"
    if not _is_finished(checkpoints / "last.pt", settings.epochs):
        parser = training_config(run, settings, folder)
        parser.get_parsed_content("initialize")
        trainer, evaluator, network = (
            parser.get_parsed_content(key) for key in ("train::trainer", "validate::evaluator", "network_def")
        )
        log = EpochLog(epochs_path(folder, run), network, evaluator)
        # added last, so that at the start the run is resumed and at the end of an epoch it is validated
        trainer.add_event_handler(Events.STARTED, log)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, log)
        parser.get_parsed_content("run")
    save_weights(checkpoints / "best.pt", weights_path(folder, run))


def optimiser_steps(folder: Path, run: Run) -> int:
    """Give the number of optimiser steps that a run has taken."""
    return int(_last_iteration(folder / "runs" / run.name / "checkpoints" / "last.pt")["iteration"])


def alpha_learning_rate(run: Run, settings: Settings, folder: Path) -> float:
    """Give the initial learning rate of alpha, which is in the last group of the optimiser."""
    return float(training_config(run, settings, folder).get_parsed_content("optimizer").param_groups[-1]["lr"])


def _last_iteration(path: Path) -> dict[str, int]:
    return torch.load(path, map_location="cpu", weights_only=True)["trainer"]


def _is_finished(path: Path, epochs: int) -> bool:
    if not path.is_file():
        return False
    trainer = _last_iteration(path)
    return trainer["iteration"] >= epochs * trainer["epoch_length"]


class EpochLog:
    """Write epoch, alpha and validation NRMSE (percent) to a CSV file; a resumed run replaces its own rows.

    Args:
        path: file to write.
        network: whose ``step``, if it has one, is alpha.
        evaluator: the validation.
    """

    def __init__(self, path: Path, network: nn.Module, evaluator: Engine) -> None:
        self.path = path
        self.network = network
        self.evaluator = evaluator

    def __call__(self, trainer: Engine) -> None:
        """Write the row of the epoch."""
        epoch = trainer.state.epoch
        rows = [row for row in read_epochs(self.path) if int(row["epoch"]) < epoch] if self.path.is_file() else []
        step = getattr(self.network, "step", None)
        alpha = "" if step is None else step.item()
        rows.append({"epoch": epoch, "alpha": alpha, "nrmse": self.evaluator.state.metrics["nrmse"]})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def read_epochs(path: Path) -> list[dict[str, Any]]:
    """Read the table of a run's epochs."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
