"""Cohorts of several head orientations: how heads turn, the labels made from them, and the split of the subjects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from custom_transforms import keys
from custom_transforms.classical.cosmos import FEWEST_ORIENTATIONS, Progress, cosmos, non_negative_sources
from custom_transforms.data import BIDS_SUFFIXES, LABELS, Case, bids_data_list, bids_path, case_name, subject_name
from custom_transforms.output import save_map, write_json
from custom_transforms.phantom.brain import AFFINE
from custom_transforms.phantom.warp import rotation_matrix
from custom_transforms.physics import r2prime_per_s_to_ppm
from custom_transforms.transforms.geometry import b0_direction_from_affine
from custom_transforms.transforms.reference import csf_mask

TURN_DEG = (10.0, 40.0)
"""Angles between the first orientation of a head and the others."""

COSMOS_FILES = {
    keys.CHI_PARA: "desc-cosmospara_Chimap",
    keys.CHI_DIA: "desc-cosmosdia_Chimap",
    keys.CHI_TOTAL: "desc-cosmos_Chimap",
}
"""What the file of each label is called after the subject's name."""

DATA_LISTS: dict[str, dict[str, str]] = {"truth": {}, "cosmos": {key: COSMOS_FILES[key] for key in LABELS}}
"""Data lists of a simulated dataset: with the truth, and with the labels."""

SPLIT = {"training": 4, "validation": 1, "test": 3}
"""Shares of the subjects (Kim 2023)."""

_LISTED = (keys.LOCAL_FIELD, keys.R2PRIME, keys.R2STAR, keys.MASK, keys.MAGNITUDE, keys.REGIONS, *LABELS)


def check_orientations(orientations: int) -> None:
    """Raise ValueError for a number of head orientations other than 1, 3 and more."""
    if orientations != 1 and orientations < FEWEST_ORIENTATIONS:
        raise ValueError(f"orientations must be 1, or {FEWEST_ORIENTATIONS} and more for COSMOS, got {orientations}")


def turned_heads(tissue: Mapping[str, Tensor], orientations: int, seed: int) -> list[dict[str, Tensor]]:
    """Turn a head, and its voxel grid with it, to several orientations: as it is, and then about horizontal axes.

    The axes are spread evenly and the angles cover TURN_DEG evenly, so that no cone of zeros is common to all dipoles.

    Args:
        tissue: what :class:`AnatomicalBrain` makes.
        orientations: how many.
        seed: of the axes and angles.

    Returns:
        For each orientation the tissue with its affine and direction of B0.
    """
    heads, turns = [dict(tissue)], orientations - 1
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(1, generator=generator)
    share = (torch.randperm(turns, generator=generator) + torch.rand(turns, generator=generator)) / max(1, turns)
    low, high = TURN_DEG
    for i, angle_deg in enumerate((low + (high - low) * share).tolist()):
        side = 2 * math.pi * (i + float(start)) / turns
        axis = torch.tensor([math.cos(side), math.sin(side), 0.0], dtype=torch.float64)
        rotation = torch.eye(4, dtype=torch.float64)
        rotation[:3, :3] = rotation_matrix(axis, angle_deg)
        affine = rotation @ tissue[AFFINE]
        b0_direction = b0_direction_from_affine(affine).to(tissue[keys.B0_DIRECTION])
        heads.append({**tissue, AFFINE: affine, keys.B0_DIRECTION: b0_direction})
    return heads


def cosmos_labels(
    scans: Sequence[Mapping[str, Tensor]],
    relaxivity_per_s_ppm: float,
    *,
    relaxivity_weights: Tensor | None = None,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Make labels of all orientations of one head as with real data: COSMOS, and R2' averaged over the orientations.

    Args:
        scans: for each orientation local_field (ppm), r2prime (1/s) and mask, (1, X, Y, Z), voxel_size_mm (3,) and
            b0_direction (3,).
        relaxivity_per_s_ppm: Dr of both sources in 1/s/ppm, or their mean.
        relaxivity_weights: (1, 2), or None for a single Dr.
        progress: see :func:`cosmos`.

    Returns:
        chi_para, chi_dia and chi_total in ppm, (1, X, Y, Z), by the keys of COSMOS_FILES. The zero of chi_total is the
        median of cerebrospinal fluid, found by :func:`csf_mask` where R2' is lowest.

    Raises:
        ValueError: fewer than 3 orientations, or orientations that are nearly parallel.
    """
    mask, voxel_size_mm = scans[0][keys.MASK].float()[None], scans[0][keys.VOXEL_SIZE_MM][None]
    fields = torch.cat([scan[keys.LOCAL_FIELD] for scan in scans])[None]
    directions = torch.stack([scan[keys.B0_DIRECTION] for scan in scans])[None]
    r2prime = torch.stack([scan[keys.R2PRIME] for scan in scans]).mean(dim=0, keepdim=True)
    r2prime = r2prime_per_s_to_ppm(r2prime, relaxivity_per_s_ppm)
    q = cosmos(fields, mask, voxel_size_mm, directions, progress=progress)
    q = mask * (q - q[csf_mask(r2prime[0], mask[0])[None]].median())
    para, dia = non_negative_sources(q, r2prime, mask, relaxivity_weights)[0].split(1)
    return {keys.CHI_PARA: para, keys.CHI_DIA: dia, keys.CHI_TOTAL: q[0]}


def write_cosmos_labels(dataset: Path, scans: Mapping[str, Mapping[str, Tensor]], relaxivity_per_s_ppm: float) -> None:
    """Write :func:`cosmos_labels` beside every orientation of a head.

    Args:
        dataset: folder of the dataset.
        scans: the orientations by case, such as "sub-01_ses-01", with their affines.
        relaxivity_per_s_ppm: Dr of both sources in 1/s/ppm.
    """
    labels = cosmos_labels(list(scans.values()), relaxivity_per_s_ppm)
    for case, scan in scans.items():
        for key, suffix in COSMOS_FILES.items():
            save_map(bids_path(dataset, case, suffix), labels[key], scan[AFFINE])


def split_subjects(subjects: Sequence[str]) -> dict[str, list[str]]:
    """Split subjects 4:1:3 into training, validation and test, at least one each, in their order.

    Raises:
        ValueError: fewer than three.
    """
    count = len(subjects)
    if count < len(SPLIT):
        raise ValueError(f"expected {len(SPLIT)} or more subjects to split, got {count}")
    validation, test = (max(1, count * SPLIT[name] // sum(SPLIT.values())) for name in ("validation", "test"))
    first, second = count - test - validation, count - test  # what rounding leaves is for training
    return {
        "training": [*subjects[:first]],
        "validation": [*subjects[first:second]],
        "test": [*subjects[second:]],
    }


def write_data_lists(dataset: Path, lists: Mapping[str, Mapping[str, str]] = DATA_LISTS) -> None:
    """Write data lists which split the subjects of a dataset.

    Args:
        dataset: folder of a dataset with labels; the lists' paths are relative to it.
        lists: for the name of each list the files of its labels by key, see :data:`DATA_LISTS`.
    """
    cases = bids_data_list(dataset, labelled=True)
    sections = split_subjects(sorted({subject_name(case) for case in cases}))
    for name, labels in lists.items():
        content = {
            section: [_entry(case, labels) for case in cases if subject_name(case) in subjects]
            for section, subjects in sections.items()
        }
        write_json(dataset / f"{name}.json", content)


def _entry(case: Case, labels: Mapping[str, str]) -> Case:
    name = case_name(case[keys.LOCAL_FIELD])
    suffixes = {key: BIDS_SUFFIXES[key] for key in _LISTED if key in case} | dict(labels)
    return {key: bids_path(Path(), name, suffix).as_posix() for key, suffix in suffixes.items()}
