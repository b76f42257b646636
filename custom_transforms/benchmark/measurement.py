"""One case by one variant: what its result depends on, the fresh process that makes it, and the file that keeps it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import custom_transforms
from custom_transforms.bundle_path import bundle_path
from custom_transforms.output import write_json
from custom_transforms.provenance import describe_weights, file_sha256, versions
from custom_transforms.variants import inference_config, variant_path

WORKER = "custom_transforms.benchmark.worker"

_PACKAGE = Path(custom_transforms.__file__).parent
_SOURCES = (
    "benchmark/scoring.py",
    "classical/*.py",
    "inferers.py",
    "metrics/*.py",
    "networks/*.py",
    "physics/*.py",
    "transforms/*.py",
)
"""Where the numbers come from: results of other code are not taken for those of this one."""


@dataclass(frozen=True)
class Measurement:
    """What is to be measured.

    Attributes:
        case: name of the case.
        variant: name of the variant.
        files: path and SHA-256 of each map by the keys of :data:`custom_transforms.data.BIDS_SUFFIXES`.
        labels: label of each region by its name.
        relaxivity_para_per_s_ppm: Dr of paramagnetic sources in 1/s/ppm.
        relaxivity_dia_per_s_ppm: Dr of diamagnetic sources in 1/s/ppm.
        b0_tesla: main field in T.
        device: where it runs.
        threads: of the processor, at most; None leaves that to the machine.
    """

    case: str
    variant: str
    files: Mapping[str, Mapping[str, str]]
    labels: Mapping[str, int]
    relaxivity_para_per_s_ppm: float
    relaxivity_dia_per_s_ppm: float
    b0_tesla: float
    device: str
    threads: int | None = None

    def settings(self) -> dict[str, Any]:
        """Give all that the result depends on; of files the content, wherever they are."""
        files = {key: file["sha256"] for key, file in self.files.items()}
        return {**asdict(self), "files": files, **_program(self.variant)}

    def result_path(self, folder: Path) -> Path:
        """Give the file in a folder that keeps the result."""
        digest = hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()[:12]
        return folder / f"{self.case}-{self.variant}-{digest}.json"


@dataclass(frozen=True)
class Result:
    """What was measured.

    Attributes:
        case: name of the case.
        variant: name of the variant.
        rate: "r2prime" or "r2star", which of them the variant read.
        mean_relaxivity: whether it got the mean of two relaxivities, as it learnt a single one.
        hardware: where it ran.
        metrics: by the names of :data:`custom_transforms.benchmark.scoring.METRICS`.
        region_means: see :class:`custom_transforms.benchmark.scoring.Scores`.
        path: the file that keeps it.
    """

    case: str
    variant: str
    rate: str
    mean_relaxivity: bool
    hardware: str
    metrics: Mapping[str, float]
    region_means: Mapping[str, list[list[float]]]
    path: Path

    @classmethod
    def load(cls, path: Path) -> Result:
        """Read what :func:`keep` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8"))["result"], path=path)

    def slices(self) -> tuple[NDArray, NDArray, float]:
        """Give an axial slice of the truth and of the estimate, (2, X, Y) in ppm, and their aspect."""
        with np.load(self.path.with_suffix(".npz")) as kept:
            return kept["truth"], kept["estimate"], float(kept["aspect"])


@dataclass(frozen=True)
class Failure:
    """What could not be measured, and why in one line."""

    case: str
    variant: str
    reason: str


def keep(path: Path, result: Mapping[str, Any], slices: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Write a result as JSON, and beside it its slices; the JSON file comes last and in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        np.savez_compressed(file, **slices)
    unfinished.replace(path.with_suffix(".npz"))
    write_json(unfinished, {"result": result, "settings": settings})
    unfinished.replace(path)


def measure(measurement: Measurement, folder: Path) -> Result | Failure:
    """Read the result that was kept, or make it in a fresh process.

    Args:
        measurement: what to measure.
        folder: where results are kept.
    """
    path = measurement.result_path(folder)
    if not path.is_file():
        task = {"measurement": asdict(measurement), "settings": measurement.settings(), "path": str(path)}
        done = subprocess.run(
            [sys.executable, "-m", WORKER],
            input=json.dumps(task),
            env=_environment(measurement.threads),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            return Failure(measurement.case, measurement.variant, _reason(done))
    return Result.load(path)


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"killed by signal {-done.returncode}, for want of memory perhaps"
    said = done.stderr.strip().splitlines()
    return said[-1] if said else f"exit code {done.returncode} without a word"


def _environment(threads: int | None) -> dict[str, str]:
    """Give the environment in which a fresh process runs the very code of this one."""
    path = os.pathsep.join(filter(None, (str(_PACKAGE.parent), os.environ.get("PYTHONPATH"))))
    limits = {} if threads is None else dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return {**os.environ, **limits, "PYTHONPATH": path}


def _program(variant: str) -> dict[str, Any]:
    """Give what a variant consists of: code, configuration, weights."""
    configs = (bundle_path() / "configs" / "inference.json", variant_path(variant))
    sources = sorted(path for pattern in _SOURCES for path in _PACKAGE.glob(pattern))
    return {
        "configs": [file_sha256(path) for path in configs],
        "sources": hashlib.sha256("".join(map(file_sha256, sources)).encode()).hexdigest(),
        "weights": describe_weights(inference_config(variant)),
        "versions": versions(),
    }
