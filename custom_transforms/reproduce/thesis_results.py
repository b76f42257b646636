"""The measured results of the thesis' comparison: their files, and the numbers that verdicts and tables need."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from custom_transforms.metrics import fit_line
from custom_transforms.output import write_json

LEARNT = 0.75
UNSETTLED = 0.05


@dataclass(frozen=True)
class Result:
    """What was measured of one trained network, or of a method without training.

    Attributes:
        model: its name in tables.
        seed: of its training.
        steps: optimiser steps taken; 0 without training.
        epochs: rows of epoch, alpha and validation nrmse (percent).
        heads: see :func:`custom_transforms.reproduce.thesis_analysis.score`.
        lesions: see :func:`custom_transforms.reproduce.thesis_analysis.lesion_recovery`.
        alpha_learning_rate: of alpha, or of all weights where there is none; 0 without training.
        cost: see :func:`custom_transforms.reproduce.thesis_analysis.training_cost`; empty without training.
    """

    model: str
    seed: int
    steps: int
    heads: list[dict[str, Any]]
    lesions: list[dict[str, Any]]
    epochs: list[dict[str, Any]] = field(default_factory=list)
    alpha_learning_rate: float = 0.0
    cost: dict[str, float] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the result as JSON, in one step."""
        unfinished = path.with_suffix(".part")
        write_json(unfinished, asdict(self))
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> Result:
        """Read what :meth:`save` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def alpha(self) -> NDArray:
        """Give alpha after every epoch, from that before training; empty without one."""
        return np.array([float(row["alpha"]) for row in self.epochs if row["alpha"] != ""])

    def shortcoming(self) -> str:
        """Say what is wrong with the training, by the validation errors of its epochs; nothing if it is over.

        It is over if the error fell to LEARNT of that before training or less, and by less than UNSETTLED of itself in
        the last quarter of the epochs.
        """
        errors = [float(row["nrmse"]) for row in self.epochs]
        if not errors:
            return ""
        best, earlier = min(errors), min(errors[: 3 * (len(errors) - 1) // 4 + 1])
        if best > LEARNT * errors[0]:
            return f"{self.model} has hardly learnt, its validation error went from {errors[0]:.1f} to {best:.1f} %"
        if best < (1 - UNSETTLED) * earlier:
            return (
                f"{self.model} was still learning, its validation error fell from {earlier:.1f} to {best:.1f} % at last"
            )
        return ""


def of_model(results: Sequence[Result], model: str) -> list[Result]:
    """Keep the results of a model, all seeds."""
    return [result for result in results if result.model == model]


def per_head(results: Sequence[Result], metric: str, reference: str) -> NDArray:
    """Give a score of every head, orientation and seed, (heads, 2): chi_para and chi_dia."""
    return np.array([head["references"][reference][metric] for result in results for head in result.heads])


def per_subject(results: Sequence[Result], metric: str, reference: str) -> NDArray:
    """Give a score averaged over the orientations of each subject, (subjects and seeds, 2)."""
    return _subject_means(results, lambda head: head["references"][reference][metric])


def iterations_per_subject(results: Sequence[Result], metric: str, reference: str) -> NDArray:
    """Give a score of every iteration, averaged over orientations: (subjects and seeds, iterations, 2)."""
    return _subject_means(
        results, lambda head: [iteration[metric] for iteration in head["references"][reference]["iterations"]]
    )


def changes_per_subject(results: Sequence[Result]) -> NDArray:
    """Give |x_(i+1) - x_i| / |x_i|, averaged over orientations: (subjects and seeds, iterations - 1)."""
    return _subject_means(results, lambda head: head["change"])


def _subject_means(results: Sequence[Result], read: Any) -> NDArray:
    means = []
    for result in results:
        subjects = sorted({head["subject"] for head in result.heads})
        means += [np.mean([read(h) for h in result.heads if h["subject"] == subject], axis=0) for subject in subjects]
    return np.array(means)


def paired(difference: NDArray) -> tuple[NDArray, NDArray]:
    """Give mean and standard error over the first axis; the error is infinite for a single subject."""
    count = len(difference)
    error = difference.std(axis=0, ddof=1) / np.sqrt(count) if count > 1 else np.full(difference.shape[1:], np.inf)
    return difference.mean(axis=0), error


@dataclass(frozen=True)
class Recovery:
    """The line through the means of all lesions of one kind.

    Attributes:
        truth_ppm: (N,).
        estimate_ppm: (N,).
        slope: of the line.
        slope_error: its standard error.
        r_squared: of the line.
    """

    truth_ppm: NDArray
    estimate_ppm: NDArray
    slope: float
    slope_error: float
    r_squared: float


def recovery(results: Sequence[Result], kind: str, condition: str) -> Recovery:
    """Fit the lesions of one kind, over all subjects and seeds."""
    rows = [r for result in results for r in result.lesions if (r["kind"], r["condition"]) == (kind, condition)]
    truth, estimate = (np.array([row[key] for row in rows]) for key in ("truth_ppm", "estimate_ppm"))
    fit = fit_line(torch.from_numpy(truth), torch.from_numpy(estimate))
    slope, intercept = float(fit.slope), float(fit.intercept)
    residual = estimate - slope * truth - intercept
    variance = (residual**2).sum() / (len(rows) - 2)
    error = float(np.sqrt(variance / ((truth - truth.mean()) ** 2).sum()))
    return Recovery(truth, estimate, slope, error, float(fit.r_squared))
