"""Figures of the thesis' comparison, like Figures 2.2 to 2.5 of Kim 2023."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from custom_transforms.report.figures import ERROR_WINDOW_PPM, WINDOWS_PPM
from custom_transforms.reproduce.thesis_results import Recovery
from custom_transforms.reproduce.thesis_verdicts import FINAL_ALPHA

SOURCES = ("chi_para", "chi_dia")
_DPI = 80
_GREYS = 48
_SHOWN = 5  # iterations


def save_iterations(path: Path, label: NDArray, iterations: NDArray) -> None:
    """Draw a slice of the estimate after some iterations, and its error, for both sources.

    Args:
        path: file to write.
        label: (2, X, Y) in ppm.
        iterations: (N, 2, X, Y) in ppm.
    """
    shown = np.unique(np.geomspace(1, len(iterations), min(_SHOWN, len(iterations))).round().astype(int)) - 1
    inside = np.argwhere((label != 0).any(axis=0))
    (left, front), (right, back) = inside.min(axis=0), inside.max(axis=0) + 1
    label, shots = label[:, left:right, front:back], iterations[shown][:, :, left:right, front:back]
    columns = ["COSMOS label", *(f"iteration {i + 1}" for i in shown)]
    figure = Figure(figsize=(9.5, 7.6), layout="constrained")
    rows = figure.subplots(4, 1)
    for i, name in enumerate(SOURCES):
        _strip(figure, rows[2 * i], [label[i], *shots[:, i]], WINDOWS_PPM[name], name, columns)
        errors = [np.zeros_like(label[i]), *(shots[:, i] - label[i])]
        _strip(figure, rows[2 * i + 1], errors, ERROR_WINDOW_PPM, f"error of {name}", ["", *columns[1:]])
    figure.savefig(path, dpi=_DPI)
    with Image.open(path) as drawn:  # grey levels as of a screen, in a third of the bytes
        drawn.convert("RGB").quantize(_GREYS).save(path, optimize=True)


def _strip(
    figure: Figure,
    axes: Axes,
    slices: Sequence[NDArray],
    window: tuple[float, float],
    name: str,
    columns: Sequence[str],
) -> None:
    """Draw slices (X, Y) side by side."""
    width = len(slices[0])
    image = axes.imshow(
        np.concatenate(slices).T, origin="lower", cmap="gray", vmin=window[0], vmax=window[1], interpolation="nearest"
    )
    axes.set_xticks([width * (i + 0.5) for i in range(len(columns))], columns, fontsize=9)
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.set_ylabel(name, fontsize=9)
    figure.colorbar(image, ax=axes, label="ppm", fraction=0.02, extend="both")


def save_curves(path: Path, nrmse: NDArray, mean_error: NDArray, change: NDArray) -> None:
    """Draw error, signed error and change of every iteration, the mean over subjects and each of them.

    Args:
        path: file to write.
        nrmse: (subjects, N, 2) in percent.
        mean_error: (subjects, N, 2) in ppm.
        change: (subjects, N - 1), |x_i - x_(i-1)| / |x_(i-1)|.
    """
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    panels = figure.subplots(1, 3)
    iterations = np.arange(1, nrmse.shape[1] + 1)
    for axes, curves, title in ((panels[0], nrmse, "NRMSE, %"), (panels[1], 1000 * mean_error, "mean error, ppb")):
        for i, name in enumerate(SOURCES):
            axes.plot(iterations, curves[..., i].T, color=f"C{i}", alpha=0.3, linewidth=0.8)
            axes.plot(iterations, curves[..., i].mean(axis=0), color=f"C{i}", marker="o", markersize=3, label=name)
        axes.set_ylabel(title)
        axes.legend(fontsize=8)
    panels[1].axhline(0, color="grey", linewidth=0.8)
    panels[2].plot(iterations[1:], 100 * change.T, color="C2", alpha=0.3, linewidth=0.8)
    panels[2].plot(iterations[1:], 100 * change.mean(axis=0), color="C2", marker="o", markersize=3)
    panels[2].set_ylabel(r"$|x_i - x_{i-1}| / |x_{i-1}|$, %")
    panels[2].set_yscale("log")
    for axes in panels:
        axes.set_xlabel("iteration")
    figure.savefig(path, dpi=_DPI)


def save_alpha(path: Path, alphas: Mapping[str, NDArray]) -> None:
    """Draw alpha over the epochs of some networks, with the published range of its end."""
    figure = Figure(figsize=(5.5, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, alpha in alphas.items():
        axes.plot(np.arange(len(alpha)), alpha, marker="o", markersize=3, label=name)
    axes.axhspan(*FINAL_ALPHA, color="grey", alpha=0.4, label="end in the thesis")
    axes.set_xlabel("epoch")
    axes.set_ylabel("alpha")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=_DPI)


def save_ablations(
    path: Path,
    scores: Mapping[str, Mapping[str, float]],
    reference: str,
    by_iterations: Mapping[int, tuple[float, float]],
) -> None:
    """Draw how networks differ in their scores, and what iterations give and cost.

    Args:
        path: file to write.
        scores: for each network its mean scores by metric.
        reference: the network that the others are compared with.
        by_iterations: NRMSE (percent) and seconds of a training step by number of iterations.
    """
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    counts = sorted(by_iterations)
    errors, seconds = zip(*(by_iterations[n] for n in counts), strict=True)
    left.plot(counts, errors, "o-", color="C0")
    left.set_xlabel("iterations")
    left.set_ylabel("NRMSE, %", color="C0")
    cost = left.twinx()
    cost.plot(counts, seconds, "s--", color="C1")
    cost.set_ylabel("training step, s", color="C1")
    others = [name for name in scores if name != reference]
    for i, metric in enumerate(scores[reference]):
        change = [100 * (scores[name][metric] / scores[reference][metric] - 1) for name in others]
        right.barh(np.arange(len(others)) + 0.27 * (i - 1), change, height=0.25, label=metric.upper())
    right.set_yticks(np.arange(len(others)), others, fontsize=8)
    right.set_xlabel(f"difference from {reference}, %")
    right.axvline(0, color="grey", linewidth=0.8)
    right.legend(fontsize=8)
    figure.savefig(path, dpi=_DPI)


def save_lesions(path: Path, fits: Mapping[str, Mapping[str, Recovery]]) -> None:
    """Draw estimated over true means of all lesions with their lines, a panel for each kind.

    Args:
        path: file to write.
        fits: for each model the recovery of each kind.
    """
    kinds = list(next(iter(fits.values())))
    figure = Figure(figsize=(5 * len(kinds), 4.2), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        for color, (model, by_kind) in enumerate(fits.items()):
            fit = by_kind[kind]
            axes.plot(fit.truth_ppm, fit.estimate_ppm, ".", color=f"C{color}", markersize=4, alpha=0.6)
            ends = np.array([fit.truth_ppm.min(), fit.truth_ppm.max()])
            offset = fit.estimate_ppm.mean() - fit.slope * fit.truth_ppm.mean()
            axes.plot(ends, offset + fit.slope * ends, color=f"C{color}", label=f"{model}: {fit.slope:.2f}")
        axes.plot(ends, ends, "k:", linewidth=0.8)
        axes.set_title(kind)
        axes.set_xlabel("true mean, ppm")
        axes.set_ylabel("estimated mean, ppm")
        axes.legend(fontsize=7, title="slope")
    figure.savefig(path, dpi=_DPI)
