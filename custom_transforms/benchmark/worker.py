"""The fresh process that runs one variant on one case and scores it: ``python -m custom_transforms.benchmark.worker``.

It reads the task as JSON from its standard input and keeps the result where the task says.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from custom_transforms import keys
from custom_transforms.benchmark.measurement import Measurement, keep
from custom_transforms.benchmark.scoring import score
from custom_transforms.checks import InputError
from custom_transforms.options import refuse_two_relaxivities
from custom_transforms.provenance import hardware, peak_memory_gib
from custom_transforms.reconstruct import RECORD, reconstruct
from custom_transforms.report.benchmark_figures import SOURCES, axial_slices
from custom_transforms.variants import inference_config, takes_magnitude


def run(measurement: Measurement) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reconstruct and score a case.

    Args:
        measurement: what to measure.

    Returns:
        The fields of :class:`custom_transforms.benchmark.measurement.Result`, and the slices of its figure.
    """
    rate = str(inference_config(measurement.variant)["rate"])
    mean_relaxivity = learnt_single_relaxivity(measurement)
    with tempfile.TemporaryDirectory() as folder:
        _reconstruct(measurement, rate, mean_relaxivity, folder)
        memory_gib = peak_memory_gib()  # before the scores, which take more than some variants
        record = json.loads((Path(folder) / RECORD).read_text(encoding="utf-8"))
        estimate = _read([str(Path(folder) / f"{source}.nii.gz") for source in SOURCES])
    files = {key: file["path"] for key, file in measurement.files.items()}
    truth, mask = _read([files[source] for source in SOURCES]), _read([files[keys.MASK]])
    regions = _read([files[keys.REGIONS]]) if keys.REGIONS in files else None
    scores = score(estimate, truth, mask, regions, measurement.labels)
    affine = nib.Nifti1Image.from_filename(files[keys.MASK]).affine
    slices, aspect = axial_slices(torch.cat([truth, estimate], dim=1)[0], mask[0, 0], affine)
    result = {
        "case": measurement.case,
        "variant": measurement.variant,
        "rate": rate,
        "mean_relaxivity": mean_relaxivity,
        "hardware": hardware(measurement.device),
        "metrics": {**scores.metrics, "wall_time_s": record["wall_time_s"], "peak_memory_gib": memory_gib},
        "region_means": scores.region_means,
    }
    return result, {"truth": slices[:2], "estimate": slices[2:], "aspect": aspect}


def learnt_single_relaxivity(measurement: Measurement) -> bool:
    """Say whether two relaxivities are given and the variant can have one only."""
    config = inference_config(measurement.variant)
    config["relaxivity_para_per_s_ppm"] = measurement.relaxivity_para_per_s_ppm
    config["relaxivity_dia_per_s_ppm"] = measurement.relaxivity_dia_per_s_ppm
    try:
        refuse_two_relaxivities(config)
    except InputError:
        return True
    return False


def _reconstruct(measurement: Measurement, rate: str, mean_relaxivity: bool, folder: str) -> None:
    files = {key: file["path"] for key, file in measurement.files.items()}
    para, dia = measurement.relaxivity_para_per_s_ppm, measurement.relaxivity_dia_per_s_ppm
    if mean_relaxivity:
        para = dia = (para + dia) / 2
    reconstruct(
        local_field=files[keys.LOCAL_FIELD],
        field_unit="ppm",
        mask=files[keys.MASK],
        output=folder,
        r2prime=files[keys.R2PRIME] if rate == keys.R2PRIME else None,
        r2star=files[keys.R2STAR] if rate == keys.R2STAR else None,
        magnitude=files.get(keys.MAGNITUDE) if takes_magnitude(measurement.variant) else None,
        variant=measurement.variant,
        relaxivity_para=para,
        relaxivity_dia=dia,
        b0_tesla=measurement.b0_tesla,
        device=measurement.device,
    )


def _read(paths: list[str]) -> Tensor:
    """Read maps (1, C, X, Y, Z)."""
    maps = [nib.Nifti1Image.from_filename(path).get_fdata(dtype=np.float32) for path in paths]
    return torch.from_numpy(np.stack(maps))[None]


def main(task: Mapping[str, Any]) -> None:
    """Run a task and keep its result; mistakes of the user end in one line on standard error and exit code 2."""
    try:
        result, slices = run(Measurement(**task["measurement"]))
    except (InputError, FileNotFoundError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    keep(Path(task["path"]), result, slices, task["settings"])


if __name__ == "__main__":
    main(json.load(sys.stdin))
