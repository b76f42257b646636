"""How the networks of the thesis' comparison do: scores, what happens in the iterations, cost, and lesions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from torch import Tensor, nn

from custom_transforms.inferers import AxialInferer, GeometryInferer
from custom_transforms.metrics import masked_mean, nrmse_percent, psnr_db, region_means, ssim
from custom_transforms.networks import GradientUnrolledChiSepNet
from custom_transforms.phantom.lesions import KINDS
from custom_transforms.reproduce.thesis_cases import HeadCase, LesionCase, lesion_kind
from custom_transforms.reproduce.thesis_runs import Run, Settings, weights_path
from custom_transforms.reproduce.thesis_training import training_config
from custom_transforms.weights import load_weights

Estimator = Callable[[MetaTensor], Tensor]
"""An image (1, 3, X, Y, Z) to the estimates after every iteration in ppm, (N, 2, X, Y, Z), not clamped; N may be 1."""

TIMED_STEPS = 3


def estimator(network: nn.Module, inferer: GeometryInferer) -> Estimator:
    """Wrap a method in eval mode."""

    def estimates(image: Tensor, *geometry: Tensor | None) -> Tensor:
        if isinstance(network, GradientUnrolledChiSepNet):
            return torch.cat(network.iterate(image, *geometry), dim=1)
        result: Tensor = network(image, *geometry)
        return result

    def run(image: MetaTensor) -> Tensor:
        with torch.inference_mode():
            chi = inferer(image, estimates)
        return torch.as_tensor(chi).reshape(-1, 2, *chi.shape[2:])

    return run


def trained_estimator(run: Run, settings: Settings, folder: Path) -> Estimator:
    """Load a trained network."""
    parser = training_config(run, settings, folder)
    network = load_weights(parser.get_parsed_content("network"), weights_path(folder, run))
    return estimator(network.eval(), AxialInferer(voxel_size_mm=settings.voxel_size_mm))


def score(estimate: Estimator, cases: Iterable[HeadCase]) -> list[dict[str, Any]]:
    """Compare the estimates of a method with all references.

    Returns:
        For each case name, subject, and by reference ``nrmse`` (percent), ``nrmse_demeaned``, ``psnr`` (dB) and
        ``ssim`` of the last iteration, [para, dia] each, and ``iterations``: for each of them ``nrmse`` and
        ``mean_error`` (ppm), [para, dia], and ``change``, |x_i - x_(i-1)| / |x_(i-1)| from the second on.
    """
    return [_score_case(estimate(case.image), case) for case in cases]


def _score_case(estimates: Tensor, case: HeadCase) -> dict[str, Any]:
    result: dict[str, Any] = {"name": case.name, "subject": case.subject, "references": {}}
    magnitudes, mask = estimates.clamp(min=0), case.scored
    for name, reference in case.references.items():
        pair = magnitudes[-1:], reference, mask
        scores = {
            "nrmse": nrmse_percent(*pair),
            "nrmse_demeaned": nrmse_percent(*pair, demean=True),
            "psnr": psnr_db(*pair),
            "ssim": ssim(*pair),
        }
        iterations = [
            {
                "nrmse": nrmse_percent(magnitude[None], reference, mask)[0].tolist(),
                "mean_error": masked_mean(chi[None] - reference, mask)[0].tolist(),
            }
            for magnitude, chi in zip(magnitudes, estimates, strict=True)
        ]
        result["references"][name] = {key: value[0].tolist() for key, value in scores.items()}
        result["references"][name]["iterations"] = iterations
    masked = estimates.double() * mask[0]
    result["change"] = [float((b - a).norm() / a.norm()) for a, b in pairwise(masked)]
    return result


def lesion_recovery(estimate: Estimator, cases: Iterable[LesionCase]) -> list[dict[str, Any]]:
    """Read the means of all lesions off the estimates of a method.

    Returns:
        For each lesion subject, condition, kind, and the mean of its source in truth and estimate, ppm.
    """
    rows: list[dict[str, Any]] = []
    for case in cases:
        numbers = list(range(1, int(case.numbers.max()) + 1))
        chi = estimate(case.image)[-1:].clamp(min=0)
        truth, found = (region_means(x, case.numbers, labels=numbers)[0] for x in (case.truth, chi))
        for number in numbers:
            kind = lesion_kind(number)
            source = KINDS[kind]
            rows.append(
                {
                    "subject": case.subject,
                    "condition": case.condition,
                    "kind": kind,
                    "truth_ppm": float(truth[source, number - 1]),
                    "estimate_ppm": float(found[source, number - 1]),
                }
            )
    return rows


def training_cost(run: Run, settings: Settings, folder: Path) -> dict[str, float]:
    """Measure forward and backward pass on the first training volume.

    Returns:
        ``step_seconds``, the median of three, processor time on a CPU and wall time on a GPU, and ``backward_mib``,
        what the forward pass keeps for the backward pass.
    """
    parser = training_config(run, settings, folder)
    parser.update({"cache_rate": 0.0})
    network, loss = (parser.get_parsed_content(key) for key in ("network", "loss"))
    inputs = _first_batch(parser, settings)
    seconds = [_timed_step(network, loss, inputs, settings.device) for _ in range(TIMED_STEPS + 1)]
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        image, target, geometry = inputs
        value = loss(network(image, **geometry), target)  # kept alive, so that no storage is counted twice
    del value
    return {"step_seconds": statistics.median(seconds[1:]), "backward_mib": sum(kept.values()) / 2**20}


def _first_batch(parser: ConfigParser, settings: Settings) -> tuple[Tensor, Any, dict[str, Tensor]]:
    parser.get_parsed_content("initialize")
    batch = next(iter(parser.get_parsed_content("train::dataloader")))
    prepare = parser.get_parsed_content("prepare_training_batch")
    image, target, _, geometry = prepare(batch, settings.device)
    return image, target, geometry


def _timed_step(
    network: nn.Module, loss: nn.Module, inputs: tuple[Tensor, Any, dict[str, Tensor]], device: str
) -> float:
    image, target, geometry = inputs
    on_gpu = device.startswith("cuda")
    clock = time.perf_counter if on_gpu else time.process_time
    if on_gpu:
        torch.cuda.synchronize()
    start = clock()
    loss(network(image, **geometry), target).backward()
    if on_gpu:
        torch.cuda.synchronize()
    seconds = clock() - start
    network.zero_grad()
    return seconds
