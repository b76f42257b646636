"""The reading of lesions of multiple sclerosis by a fixed rule, so that two pipelines can be compared without a reader.

For each lesion and source, in white matter alone (veins and grey matter that a lesion takes in are not read):

1. Normal-appearing white matter (NAWM) is the white matter 2 to 4 mm outside of the lesion, other lesions left out.
2. The lesion's **rim** is what lies within 1.5 mm of its border, and its **core** the rest; a lesion with a core of
   less than 4 voxels is all core.
3. The **threshold** is the SD of the source in NAWM about the mean of each shell, pooled over the lesions of a head.
4. The core is `hyper` if its mean exceeds that of the NAWM by more than the threshold, `hypo` if it falls short by
   more, else `iso`.
5. chi_para has a **paramagnetic rim** if the mean of the rim exceeds both that of the core and that of the NAWM by more
   than the threshold.

The reading of chi_para is 4 and 5 together, that of chi_dia is 4. Two pipelines agree on a lesion and a source if they
read the same, each by thresholds from its own maps. The thresholds were fixed before any pipeline was read.

References:
    Kim et al. 2025, doi:10.48550/arXiv.2409.14030 (readers, who saw the same in R2' and R2* maps of 250 lesions)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NAWM_MM = (2.0, 4.0)  # distance of the shell from the lesion
RIM_MM = 1.5
MIN_CORE_VOXELS = 4


@dataclass(frozen=True)
class Parts:
    """Where a lesion is read: masks in a box of the head, (x, y, z).

    Attributes:
        box: The box, as slices.
        core: Inner part of the lesion.
        rim: Outer part, empty if the lesion is too small for it.
        nawm: White matter around it.
    """

    box: tuple[slice, slice, slice]
    core: Tensor
    rim: Tensor
    nawm: Tensor


@dataclass(frozen=True)
class Reading:
    """What is seen in a lesion.

    Attributes:
        para: chi_para of the core against the NAWM: "hyper", "iso" or "hypo".
        rim: Whether there is a paramagnetic rim.
        dia: chi_dia of the core, as `para`; a loss of myelin is "hypo".
    """

    para: str
    rim: bool
    dia: str

    def of(self, source: str) -> tuple[str, bool]:
        """The reading of "chi_para", which includes the rim, or "chi_dia"."""
        return (self.para, self.rim) if source == "chi_para" else (self.dia, False)


def lesion_parts(lesions: Tensor, white_matter: Tensor, voxel_size_mm: Sequence[float]) -> dict[int, Parts]:
    """Divide lesions and their surroundings.

    Args:
        lesions: (X, Y, Z), integers: 0 outside, n in the nth lesion.
        white_matter: (X, Y, Z), bool, in lesions as well.
        voxel_size_mm: (3,).

    Returns:
        The parts of each lesion that has white matter inside and NAWM around it, by its number.
    """
    found = {}
    healthy = white_matter & (lesions == 0)
    for number in lesions.unique().tolist():
        if number == 0:
            continue
        box = _box_around(lesions == number, NAWM_MM[1], voxel_size_mm)
        inside = lesions[box] == number
        to_lesion = _distance_mm(inside, voxel_size_mm)
        nawm = healthy[box] & (to_lesion >= NAWM_MM[0]) & (to_lesion <= NAWM_MM[1])
        read = inside & white_matter[box]
        rim = read & (_distance_mm(~inside, voxel_size_mm) <= RIM_MM)
        if int((read & ~rim).sum()) < MIN_CORE_VOXELS:
            rim = torch.zeros_like(rim)
        if read.any() and nawm.any():
            found[int(number)] = Parts(box, read & ~rim, rim, nawm)
    return found


def read_lesions(chi_para: Tensor, chi_dia: Tensor, parts: Mapping[int, Parts]) -> dict[int, Reading]:
    """Read the lesions of a head.

    Args:
        chi_para: (X, Y, Z), ppm.
        chi_dia: (X, Y, Z), ppm, magnitude.
        parts: Of each lesion, see :func:`lesion_parts`.

    Returns:
        The reading of each lesion, by its number.
    """
    readings = {}
    para_threshold, dia_threshold = (_pooled_sd(chi, parts) for chi in (chi_para, chi_dia))
    for number, part in parts.items():
        para, dia = chi_para[part.box], chi_dia[part.box]
        core, nawm = float(para[part.core].mean()), float(para[part.nawm].mean())
        rim = float(para[part.rim].mean()) if part.rim.any() else core
        readings[number] = Reading(
            para=_level(core - nawm, para_threshold),
            rim=rim - max(core, nawm) > para_threshold,
            dia=_level(float(dia[part.core].mean() - dia[part.nawm].mean()), dia_threshold),
        )
    return readings


def agreement_percent(first: Mapping[int, Reading], second: Mapping[int, Reading], source: str) -> float:
    """Share of the lesions that two pipelines read the same.

    Args:
        first: Readings by lesion.
        second: Those of the other pipeline, of the same lesions.
        source: "chi_para" or "chi_dia".

    Returns:
        Percent; NaN without lesions.

    Raises:
        ValueError: The lesions differ.
    """
    if first.keys() != second.keys():
        raise ValueError(f"expected readings of the same lesions, got {sorted(first)} and {sorted(second)}")
    same = [first[number].of(source) == second[number].of(source) for number in first]
    return 100 * sum(same) / len(same) if same else float("nan")


def _level(difference: float, threshold: float) -> str:
    if abs(difference) <= threshold:
        return "iso"
    return "hyper" if difference > 0 else "hypo"


def _pooled_sd(chi: Tensor, parts: Mapping[int, Parts]) -> float:
    """SD in the NAWM of all lesions, about the mean of each."""
    shells = [chi[part.box][part.nawm].double() for part in parts.values()]
    squares = sum(float(((shell - shell.mean()) ** 2).sum()) for shell in shells)
    return (squares / max(sum(len(shell) for shell in shells), 1)) ** 0.5


def _box_around(mask: Tensor, margin_mm: float, voxel_size_mm: Sequence[float]) -> tuple[slice, slice, slice]:
    occupied = mask.nonzero()
    margin = [int(margin_mm / size) + 1 for size in voxel_size_mm]
    x, y, z = (
        slice(max(int(low) - more, 0), int(high) + more + 1)
        for low, high, more in zip(occupied.amin(0), occupied.amax(0), margin, strict=True)
    )
    return x, y, z


def _distance_mm(mask: Tensor, voxel_size_mm: Sequence[float]) -> Tensor:
    """Distance of every voxel of a small box (x, y, z) to the nearest one of a mask, mm."""
    size = torch.tensor(voxel_size_mm, dtype=torch.float32, device=mask.device)
    points = torch.ones_like(mask).nonzero() * size
    return torch.cdist(points, mask.nonzero() * size).amin(dim=1).view(mask.shape)
