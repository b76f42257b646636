"""`chisep labels`: training labels from a user's own head orientations, as a dataset that `train.json` reads.

Every orientation of a head is brought to the grid of the first one, with an affine that tells where B0 points
(alignment.py). From all of them together come the labels, by COSMOS and non-negative least squares (cohort.py), which
are written beside each orientation.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from custom_transforms import keys
from custom_transforms.alignment import Alignment, align
from custom_transforms.checks import InputError, check_maps, read_map, user_input
from custom_transforms.classical.cosmos import FEWEST_ORIENTATIONS, noise_gain
from custom_transforms.cohort import COSMOS_FILES, SPLIT, cosmos_labels, write_data_lists
from custom_transforms.data import BIDS_SUFFIXES, LABELS, Case, bids_data_list, bids_path, case_name, subject_name
from custom_transforms.options import Settings, check_plausible, choose_relaxivities
from custom_transforms.output import save_map, staged_folder, write_json
from custom_transforms.phantom.brain import AFFINE
from custom_transforms.physics import hz_per_ppm, relaxivity_weights
from custom_transforms.provenance import describe_files, versions
from custom_transforms.relaxometry import combine_echoes
from custom_transforms.report.figures import save_maps_figure
from custom_transforms.transforms.field import FieldUnit, LocalFieldToPpm
from custom_transforms.transforms.relaxometry import RateUnit, ScaleR2Prime

LABEL_FILES = {**{key: BIDS_SUFFIXES[key] for key in LABELS}, keys.CHI_TOTAL: COSMOS_FILES[keys.CHI_TOTAL]}
"""What the file of each label is called after the name of the orientation."""

RATES = (keys.R2PRIME, keys.R2STAR, keys.R2)
REGISTERED = (keys.MAGNITUDE, keys.R2STAR, keys.R2PRIME)
"""Images to register with, the best one first."""

LEAST_CORRELATION = 0.7
"""Of a registered image with the first one: 0.87 is usual of R2' and 0.95 of R2*, below 0.6 what is 10 degrees off."""

UNIT = "ppm; chi_para and chi_dia are magnitudes, chi_total = chi_para - chi_dia; R2', R2* and R2 in 1/s"


def _sessions(dataset_dir: str, registration_image: str | None) -> dict[str, list[Case]]:
    """List the orientations of each subject, and refuse subjects that have too few."""
    subjects: dict[str, list[Case]] = {}
    for case in bids_data_list(dataset_dir):
        files = {key: path for key, path in case.items() if key not in (*LABELS, keys.REGIONS)}
        if registration_image is not None:
            path = bids_path(Path(dataset_dir), case_name(case[keys.LOCAL_FIELD]), registration_image)
            if not path.is_file():
                raise FileNotFoundError(f"there is no {path} to register with; give a suffix that all sessions have")
            files[keys.MAGNITUDE] = str(path)
        subjects.setdefault(subject_name(case), []).append(files)
    for subject, cases in subjects.items():
        if len(cases) < FEWEST_ORIENTATIONS:
            raise InputError(
                f"{subject} has {len(cases)} sessions; labels need {FEWEST_ORIENTATIONS} or more head orientations, "
                f"each a folder such as {subject}/ses-01/anat"
            )
    return subjects


def _read(case: Case, settings: Settings, *, force: bool) -> dict[str, Any]:
    """Read and check the maps of one orientation; give the field in ppm and the rates in 1/s, zero outside the mask."""
    maps = {key: read_map(key, path) for key, path in case.items()}
    check_maps(maps)
    check_plausible(maps, settings, force=force)
    to_ppm = LocalFieldToPpm(
        unit=settings.field_unit, b0_tesla=settings.b0_tesla, echo_time_s=settings.echo_time_s, sign=settings.field_sign
    )
    to_per_s = ScaleR2Prime(relaxivity_per_s_ppm=1.0, unit=settings.rate_unit)
    inside = maps[keys.MASK] > 0.5
    units = {keys.LOCAL_FIELD: to_ppm, **dict.fromkeys(RATES, to_per_s)}
    scaled = {key: units[key](values) if key in units else values for key, values in maps.items()}
    if keys.MAGNITUDE in scaled:
        scaled[keys.MAGNITUDE] = combine_echoes(scaled[keys.MAGNITUDE])
    scan = {key: torch.where(inside, values, 0.0) for key, values in scaled.items()}
    return {**scan, keys.MASK: inside.float()}


def _write(stage: Path, names: Sequence[str], alignment: Alignment, made: Mapping[str, Tensor]) -> None:
    """Write the maps of all orientations of a head, the labels beside each, and a figure of them."""
    for name, scan in zip(names, alignment.scans, strict=True):
        maps = {BIDS_SUFFIXES[key]: scan[key] for key in scan if key in BIDS_SUFFIXES}
        maps |= {BIDS_SUFFIXES[keys.MASK]: scan[keys.MASK].byte()}
        maps |= {suffix: made[key] for key, suffix in LABEL_FILES.items()}
        for suffix, values in maps.items():
            save_map(bids_path(stage, name, suffix), values, scan[AFFINE])
    subject = names[0].split("_")[0]
    shown = {key: values[0].numpy() for key, values in made.items()}
    save_maps_figure(stage / subject / f"{subject}_labels.png", shown, alignment.scans[0][AFFINE].numpy())


def _make_subject(
    cases: Sequence[Case], settings: Settings, record: Mapping[str, Any], folder: Path, bar: tqdm
) -> None:
    """Make and write the labels of one head."""
    names = [case_name(case[keys.LOCAL_FIELD]) for case in cases]
    scans = [_read(case, settings, force=record["forced"]) for case in cases]
    image = next(key for key in REGISTERED if all(key in scan for scan in scans))
    bar.set_postfix_str("registering")
    alignment = align(scans, image)
    found = {
        "registered_with": image,
        "orientations": alignment.describe(names),
        "noise_gain": round(float(noise_gain(alignment.b0_directions)), 3),
    }

    def progress(step: int, residual: float) -> None:
        found["cosmos"] = {"steps": step, "relative_gradient": residual}
        bar.set_postfix_str(f"COSMOS, step {step}")

    dr, *weights = relaxivity_weights(settings.relaxivity_para_per_s_ppm, settings.relaxivity_dia_per_s_ppm)
    for name, correlation in zip(names, alignment.correlations, strict=True):
        if correlation < LEAST_CORRELATION:
            text = f"{image} of {name} correlates with that of {names[0]} by {correlation:.2f} alone; is it registered?"
            bar.write(f"chisep: warning: {text}", file=sys.stderr)
    made = cosmos_labels(alignment.scans, dr, relaxivity_weights=torch.tensor([weights]), progress=progress)
    with staged_folder(folder) as stage:
        _write(stage, names, alignment, made)
        content = {**record, **found, "unit": UNIT, "versions": versions()}
        write_json(_sidecar(stage, subject_name(cases[0])), content)


def _sidecar(dataset: Path, subject: str) -> Path:
    return dataset / subject / f"{subject}_labels.json"


def _is_finished(dataset: Path, subject: str, record: Mapping[str, Any]) -> bool:
    """Say whether the labels of a subject are there, made from the same files in the same way."""
    path = _sidecar(dataset, subject)
    made = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return record.items() <= made.items()


@contextmanager
def _naming(subject: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise InputError(f"{subject}: {error}") from error


def _write_dataset_files(folder: Path, subjects: int) -> None:
    description = {
        "Name": "Susceptibility labels of several head orientations",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "chisep", "Version": versions()["chisep"]}],
    }
    write_json(folder / "dataset_description.json", description)
    if subjects >= len(SPLIT):
        write_data_lists(folder, {"cosmos": {}})


def labels(
    *,
    dataset_dir: str,
    output: str,
    field_unit: FieldUnit = "ppm",
    field_sign: int = 1,
    echo_time_s: float | None = None,
    rate_unit: RateUnit = "per_s",
    relaxivity: float | None = None,
    relaxivity_para: float | None = None,
    relaxivity_dia: float | None = None,
    b0_tesla: float = 3.0,
    registration_image: str | None = None,
    force: bool = False,
) -> None:
    """Make training labels from measurements in three or more head orientations: COSMOS and non-negative least squares.

    Subjects whose labels are there already, made from the same files in the same way, are left alone.

    Args:
        dataset_dir: data set in BIDS, with a session for each orientation.
        output: folder of the data set with labels, for --dataset_dir of the training.
        field_unit: ppm of B0, hz, or rad (unwrapped phase at echo_time_s).
        field_sign: -1 for a field map or phase that falls where the field grows, as some vendors store it.
        echo_time_s: echo time in seconds, for a field in rad.
        rate_unit: unit of R2', R2* and R2; per_s or per_ms.
        relaxivity: R2' of 1 ppm in 1/s at b0_tesla; 137 at 3 T, scaled with b0_tesla, if not given.
        relaxivity_para: that of paramagnetic sources alone, with relaxivity_dia.
        relaxivity_dia: that of diamagnetic sources alone, with relaxivity_para.
        b0_tesla: field strength in T.
        registration_image: suffix of the image to register the orientations with, such as desc-rss_MEGRE; a magnitude
            (T2starw), R2* or R2', whichever all sessions have, if not given.
        force: go on with values that do not look like their unit, and threshold the mask at 0.5.
    """
    folder = Path(output)
    if folder.resolve() == Path(dataset_dir).resolve():
        raise InputError(f"the output {folder} is the dataset itself; choose another folder")
    if echo_time_s is not None and field_unit != "rad":
        raise InputError(f"--echo_time_s is for a field in rad, not {field_unit}; give one or the other")
    if field_sign not in (1, -1):
        raise InputError(f"--field_sign is 1 or -1, got {field_sign}")
    with user_input():
        hz_per_ppm(b0_tesla)
    para, dia = choose_relaxivities(relaxivity, relaxivity_para, relaxivity_dia, b0_tesla)
    settings = Settings(field_unit, field_sign, echo_time_s, rate_unit, b0_tesla, para, dia, None, "csf")
    subjects = _sessions(dataset_dir, registration_image)
    bar = tqdm(subjects.items(), desc="labels", unit="subject", disable=None)
    for subject, cases in bar:
        inputs = {case_name(case[keys.LOCAL_FIELD]): describe_files(case) for case in cases}
        record = {"inputs": inputs, "settings": asdict(settings), "forced": force}
        if not _is_finished(folder, subject, record):
            with _naming(subject):
                _make_subject(cases, settings, record, folder, bar)
    _write_dataset_files(folder, len(subjects))
    print(f"{len(subjects)} labelled in {folder}; look at sub-*/sub-*_labels.png")
