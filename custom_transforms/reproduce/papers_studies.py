"""What is measured on each simulated head by each pipeline: numbers that go into a JSON file, to be collected later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from custom_transforms import keys
from custom_transforms.metrics import (
    hfen_percent,
    lesion_means,
    nrmse_percent,
    orientation_sd,
    psnr_db,
    ssim,
    xsim,
)
from custom_transforms.metrics.error import demeaned
from custom_transforms.phantom.brain import MS_LESIONS, AnatomicalBrain
from custom_transforms.phantom.ms_lesions import WHITE_MATTER
from custom_transforms.phantom.structures import REGIONS
from custom_transforms.reproduce.ms_reading import lesion_parts, read_lesions
from custom_transforms.reproduce.papers_pipelines import MeasuredHead, Pipeline, total
from custom_transforms.reproduce.scored import scored_region

SOURCES = (keys.CHI_PARA, keys.CHI_DIA)
QSM_METRICS = {"NRMSE, %": nrmse_percent, "PSNR, dB": psnr_db, "HFEN, %": hfen_percent, "SSIM": ssim}
SOURCE_METRICS = {"NRMSE, %": nrmse_percent, "PSNR, dB": psnr_db, "SSIM": ssim, "XSIM": xsim}
ORIENTATION_SD = "SD over orientations, ppb"


@dataclass(frozen=True)
class Heads:
    """The heads of a study.

    Attributes:
        count: how many.
        seed: the same seed gives the same heads; those of different studies differ.
        voxel_size_mm: isotropic.
        snr: of the measurement.
        orientations: of each head.
        lesions: haemorrhages and calcifications in each head, in turns.
        microbleeds: in each head.
        ms_lesions: in each head.
    """

    count: int
    seed: tuple[int, int]
    voxel_size_mm: float
    snr: float
    orientations: int = 1
    lesions: int = 0
    microbleeds: int = 0
    ms_lesions: int = 0

    def make(self, index: int, device: str) -> MeasuredHead:
        """Simulate and measure one of the heads."""
        anatomy, noise = (int(word) for word in np.random.SeedSequence([*self.seed, index]).generate_state(2))
        brain = AnatomicalBrain(
            voxel_size_mm=(self.voxel_size_mm,) * 3,
            lesions=self.lesions,
            microbleeds=self.microbleeds,
            ms_lesions=self.ms_lesions,
            device=device,
        )
        return MeasuredHead(brain(anatomy), orientations=self.orientations, snr=self.snr, seed=noise)


@dataclass(frozen=True)
class Study:
    """Heads, pipelines and what is measured of each pair.

    Attributes:
        name: of its files.
        heads: see :class:`Heads`.
        pipelines: see :class:`Pipeline`.
        measure: (head, maps (N, C, X, Y, Z) in ppm) to what goes into JSON.
    """

    name: str
    heads: Heads
    pipelines: Sequence[Pipeline]
    measure: Callable[[MeasuredHead, Tensor], dict[str, Any]]

    def settings(self, index: int, pipeline: Pipeline) -> dict[str, Any]:
        """Everything that the result of a head and a pipeline depends on, but the code."""
        heads = {name: value for name, value in asdict(self.heads).items() if name != "count"}
        return {"study": self.name, "head": index, "pipeline": pipeline.name, "version": pipeline.version, **heads}


def measure_qsm(head: MeasuredHead, maps: Tensor) -> dict[str, Any]:
    """Errors of chi_total in each orientation, and its SD over them; all maps get zero mean in the mask first."""
    truth = demeaned(total(head.truth), head.mask)
    maps = demeaned(maps, head.mask.expand(len(maps), -1, -1, -1, -1))
    scores: dict[str, Any] = {
        name: [float(metric(chi[None], truth, head.mask)) for chi in maps] for name, metric in QSM_METRICS.items()
    }
    if len(maps) > 1:
        scores[ORIENTATION_SD] = [1000 * float(orientation_sd(maps, head.mask.expand(len(maps), -1, -1, -1, -1)))]
    upright = head.geometry(0)[1][0]
    cosines = [float((head.geometry(i)[1][0] @ upright).clamp(-1, 1)) for i in range(len(maps))]
    return {**scores, "angle_deg": np.degrees(np.arccos(cosines)).tolist()}


def measure_sources(head: MeasuredHead, maps: Tensor) -> dict[str, Any]:
    """Errors of chi_para and chi_dia, without cerebrospinal fluid and veins."""
    mask = scored_region(head.mask, head.tissue[keys.REGIONS][None])
    scores = {name: metric(maps, head.truth, mask)[0].tolist() for name, metric in SOURCE_METRICS.items()}
    return {source: {name: values[i] for name, values in scores.items()} for i, source in enumerate(SOURCES)}


def measure_ms_lesions(head: MeasuredHead, maps: Tensor) -> dict[str, Any]:
    """The reading of every MS lesion by its number, see :mod:`custom_transforms.reproduce.ms_reading`."""
    regions, lesions = head.tissue[keys.REGIONS][0], head.tissue[MS_LESIONS][0]
    white_matter = torch.isin(regions, torch.tensor(WHITE_MATTER, device=regions.device))
    parts = lesion_parts(lesions, white_matter, head.tissue[keys.VOXEL_SIZE_MM].tolist())
    readings = read_lesions(maps[0, 0], maps[0, 1], parts)
    return {str(number): asdict(reading) for number, reading in readings.items()}


def measure_bleeds(head: MeasuredHead, maps: Tensor) -> dict[str, Any]:
    """Mean of every haemorrhage in the truth and in the map: chi_para, or chi_total if the map has nothing else."""
    inside = (head.tissue[keys.REGIONS] == REGIONS["haemorrhage"])[None]
    truth = head.truth[:, :1] if maps.shape[1] == len(SOURCES) else total(head.truth)
    true_means, found_means = lesion_means(torch.cat([truth, maps[:, :1]], dim=1), inside).T.tolist()
    return {"truth": true_means, "found": found_means}
