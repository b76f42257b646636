"""What the thesis' comparison is evaluated on: the test subjects of a cohort, and the same heads with lesions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from torch import Tensor

from custom_transforms import keys
from custom_transforms.data import Case, case_name, read_data_list, subject_name
from custom_transforms.phantom.acquisition import Acquisition
from custom_transforms.phantom.brain import AFFINE, AnatomicalBrain
from custom_transforms.phantom.geometry import ellipsoid_radius
from custom_transforms.phantom.lesions import ELONGATION, KINDS, draw_centre, draw_ellipsoid, log_uniform
from custom_transforms.phantom.structures import REGIONS
from custom_transforms.physics import r2prime_per_s_to_ppm, relaxivity_at
from custom_transforms.reproduce.scored import scored_region

COSMOS, TRUTH = "COSMOS", "truth"

LESION_CHI_PPM = (0.1, 1.4)
LESIONS_A_HEAD = 12  # of either kind in turns
LESION_SNR = {"exact maps": None, "SNR 100": 100.0}
_SMALLEST_RADIUS_VOXELS, _LARGEST_RADIUS_MM = 1.5, 9.0
_GAP_VOXELS = 1.0  # between lesions, and to the edge of the brain


@dataclass(frozen=True)
class HeadCase:
    """One head in one orientation.

    Attributes:
        name: such as "sub-06_ses-01".
        subject: such as "sub-06".
        image: (1, 3, X, Y, Z) with its affine; see :func:`custom_transforms.keys.split_image`.
        scored: (1, 1, X, Y, Z), 1 where it is scored.
        references: chi_para and chi_dia in ppm, (1, 2, X, Y, Z), by COSMOS and TRUTH.
    """

    name: str
    subject: str
    image: MetaTensor
    scored: Tensor
    references: dict[str, Tensor]


@dataclass(frozen=True)
class LesionCase:
    """A test subject with lesions.

    Attributes:
        subject: such as "sub-06".
        condition: of LESION_SNR.
        image: (1, 3, X, Y, Z) with its affine.
        numbers: (1, 1, X, Y, Z), 0 outside of lesions and n in the nth, whose kind is ``lesion_kind(n)``.
        truth: chi_para and chi_dia in ppm, (1, 2, X, Y, Z).
    """

    subject: str
    condition: str
    image: MetaTensor
    numbers: Tensor
    truth: Tensor


def lesion_kind(number: int) -> str:
    """Give the kind of the nth lesion of a head, from 1."""
    return list(KINDS)[(number - 1) % len(KINDS)]


def _read(path: str, device: str) -> Tensor:
    return torch.from_numpy(nib.Nifti1Image.from_filename(path).get_fdata(dtype=np.float32))[None, None].to(device)


def _image(field: Tensor, r2prime_per_s: Tensor, mask: Tensor, affine: Tensor) -> MetaTensor:
    r2prime = r2prime_per_s_to_ppm(r2prime_per_s, relaxivity_at(3.0)).clamp(min=0)
    return MetaTensor(torch.cat([field, r2prime, mask], dim=1), affine=affine)


def read_head(truth: Case, cosmos: Case, device: str = "cpu") -> HeadCase:
    """Read a head.

    Args:
        truth: its files, with the truth.
        cosmos: its files, with the COSMOS labels.
        device: where the tensors go.
    """
    field, r2prime, mask, regions = (
        _read(truth[key], device) for key in (keys.LOCAL_FIELD, keys.R2PRIME, keys.MASK, keys.REGIONS)
    )
    affine = torch.from_numpy(nib.Nifti1Image.from_filename(truth[keys.LOCAL_FIELD]).affine)
    references = {
        name: torch.cat([_read(case[key], device) for key in (keys.CHI_PARA, keys.CHI_DIA)], dim=1)
        for name, case in ((COSMOS, cosmos), (TRUTH, truth))
    }
    name, scored = case_name(truth[keys.LOCAL_FIELD]), scored_region(mask, regions.round().int())
    return HeadCase(name, subject_name(truth), _image(field, r2prime, mask, affine), scored, references)


def held_out_cases(cohort: Path, device: str = "cpu") -> Iterator[HeadCase]:
    """Read the test section of a cohort, head by head."""
    lists = (read_data_list(cohort / f"{name}.json", "test", labelled=True) for name in ("truth", "cosmos"))
    for truth, cosmos in zip(*lists, strict=True):
        yield read_head(truth, cosmos, device)


def lesion_cases(cohort: Path, device: str = "cpu") -> Iterator[LesionCase]:
    """Make the heads of the test section anew, with lesions, each under the conditions of LESION_SNR."""
    cases = read_data_list(cohort / "truth.json", "test", labelled=True)
    for case in {subject_name(case): case for case in reversed(cases)}.values():  # the first session of each
        name = case_name(case[keys.LOCAL_FIELD])
        made_from = json.loads(cohort.joinpath(*name.split("_"), f"{name}_simulation.json").read_text())
        seed = int(made_from["subject_seed"])
        brain = AnatomicalBrain(voxel_size_mm=made_from["voxel_size_mm"], device=device)
        tissue, numbers = add_lesions(brain(seed), seed=seed)
        truth = torch.cat([tissue[keys.CHI_PARA], tissue[keys.CHI_DIA]])[None]
        for condition, snr in LESION_SNR.items():
            maps = Acquisition()(tissue, snr=snr, generator=torch.Generator(device).manual_seed(seed))
            field, r2prime, mask = (maps[key][None] for key in (keys.LOCAL_FIELD, keys.R2PRIME, keys.MASK))
            image = _image(field, r2prime, mask, maps[AFFINE])
            yield LesionCase(subject_name(case), condition, image, numbers[None], truth)


def add_lesions(
    tissue: dict[str, Tensor], *, seed: int, count: int = LESIONS_A_HEAD
) -> tuple[dict[str, Tensor], Tensor]:
    """Put lesions that do not touch into a head: in each, one source has the lesion's value and the other is zero.

    The values of each kind are spaced evenly from end to end of LESION_CHI_PPM on a logarithmic scale. The radius is at
    least 1.5 voxels, so that the lesion has an inside.

    Args:
        tissue: what :class:`AnatomicalBrain` makes.
        seed: of the lesions' places and shapes.
        count: number of lesions, an even one.

    Returns:
        The tissue with lesions and their numbers, (1, X, Y, Z).

    Raises:
        ValueError: no room is left in the brain.
    """
    generator = torch.Generator().manual_seed(seed)
    sources = [tissue[keys.CHI_PARA].clone(), tissue[keys.CHI_DIA].clone()]
    voxel_mm = float(tissue[keys.VOXEL_SIZE_MM].max())
    smallest = _SMALLEST_RADIUS_VOXELS * voxel_mm
    radii = (smallest, max(_LARGEST_RADIUS_MM, smallest))
    points = _positions_mm(tissue)
    numbers, distance_mm = torch.zeros_like(tissue[keys.REGIONS]), torch.full_like(points[:1], math.inf)
    for number, chi_ppm in enumerate(_values_ppm(count), start=1):
        radius_mm = log_uniform(radii, generator=generator)
        reach_mm = (1 + ELONGATION) * radius_mm + _GAP_VOXELS * voxel_mm
        free = _inner_tissue(tissue, reach_mm) & (distance_mm > reach_mm)
        if not free.any():
            raise ValueError(f"there is no room for lesion {number} of {count}; give smaller voxels")
        index = draw_centre(free[0].nonzero().cpu(), (0.0, 0.0, 0.0), generator=generator)
        x, y, z = (i * size for i, size in zip(index, tissue[keys.VOXEL_SIZE_MM].tolist(), strict=True))
        shape = draw_ellipsoid((x, y, z), radius_mm, generator=generator)
        depth_mm = (1 - ellipsoid_radius(shape, points)) * shape.semi_axes_mm[2]
        coverage = (depth_mm / voxel_mm + 0.5).clamp(0, 1)[None]
        for channel, source in enumerate(sources):
            source += coverage * ((chi_ppm if channel == KINDS[lesion_kind(number)] else 0.0) - source)
        numbers[coverage > 0.5] = number
        centre = torch.tensor([x, y, z]).to(points)[:, None, None, None]
        distance_mm = torch.minimum(distance_mm, (points - centre).norm(dim=0) - shape.semi_axes_mm[0])
    return {**tissue, keys.CHI_PARA: sources[0], keys.CHI_DIA: sources[1]}, numbers


def _values_ppm(count: int) -> list[float]:
    low, high = LESION_CHI_PPM
    values = torch.logspace(math.log10(low), math.log10(high), count // len(KINDS)).tolist()
    return [value for value in values for _ in KINDS]


def _positions_mm(tissue: dict[str, Tensor]) -> Tensor:
    """Give the positions of the voxels along the voxel axes, (3, X, Y, Z) in mm, from the first voxel."""
    shape, sizes = tissue[keys.MASK].shape[1:], tissue[keys.VOXEL_SIZE_MM].tolist()
    axes = [torch.arange(n, device=tissue[keys.MASK].device) * size for n, size in zip(shape, sizes, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def _inner_tissue(tissue: dict[str, Tensor], reach_mm: float) -> Tensor:
    """Give the voxels of tissue, (1, X, Y, Z), that are so far from the edge of the brain."""
    reach = math.ceil(reach_mm / float(tissue[keys.VOXEL_SIZE_MM].max()))
    outside = F.max_pool3d(1 - tissue[keys.MASK], 2 * reach + 1, stride=1, padding=reach)
    return (outside < 0.5) & (tissue[keys.REGIONS] != REGIONS["cerebrospinal_fluid"])
