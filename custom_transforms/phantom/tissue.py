"""What the regions are made of: susceptibility sources, R2 and signal, drawn anew for every subject.

A subject's value is v = mean exp(SD n - SD^2 / 2) with n standard normal, independently for each region and quantity,
so that no network can learn the table by heart. Inside regions chi is multiplied in the same way by a gradient and a
texture, and R2 follows the iron. Grey matter, white matter and fluid mix by their probabilities in the template.

The SDs and correlation lengths below are part of the definition of the simulated cohort: changing one makes another
cohort, whose results cannot be compared.

References:
    Min et al. 2024, NMR Biomed 37:e5226, doi:10.1002/nbm.5226 (chi_para and chi_dia at 3 T)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from custom_transforms.phantom.filters import gaussian_smooth, smooth_noise
from custom_transforms.phantom.structures import NUCLEUS_REGIONS, REGIONS, TRACT_REGIONS
from custom_transforms.phantom.template import Template

# SD of the logarithm between subjects
CHI_SUBJECT_SD = 0.35
R2_SUBJECT_SD = 0.10
M0_SUBJECT_SD = 0.05

# SD of the logarithm inside regions, and the distance at which the correlation has fallen to 1/e
GRADIENT_SD = 0.15
GRADIENT_LENGTH_MM = 30.0
TEXTURE_SD = 0.15
TEXTURE_LENGTH_MM = 2.5
R2_PER_IRON = 0.3  # relative change of R2 with the relative change of chi_para inside a region

TRACT_EDGE_MM = 1.0  # SD of the Gaussian that softens the borders of tracts
NUCLEUS_EDGE_MM = 0.5  # and those of nuclei
VEIN_CHI_PPM = (0.1, 0.45)  # range of the subject's venous blood

QUANTITIES = ("chi_para", "chi_dia", "r2", "m0")  # channels of the maps of tissue: ppm, ppm, 1/s, white matter = 1


@dataclass(frozen=True)
class Tissue:
    """Population mean of a region at 3 T.

    Attributes:
        para_ppb: Paramagnetic susceptibility, ppb.
        dia_ppb: Magnitude of the diamagnetic susceptibility, ppb.
        t2_ms: Transverse relaxation time, ms.
        m0: Signal of a spoiled gradient echo (TR 33 ms, flip angle 15 degrees) at echo time 0; white matter is 1.
    """

    para_ppb: float
    dia_ppb: float
    t2_ms: float
    m0: float


_WHITE = Tissue(16.8, 28.8, 70, 1.0)

# Min et al. where they have the region. Ours: grey matter, dentate nucleus, hippocampus, amygdala, fluid, calcified.
TISSUES = {
    "background": Tissue(0, 0, math.inf, 0.0),
    "cerebrospinal_fluid": Tissue(0, 0, 1600, 0.52),
    "grey_matter": Tissue(30, 18, 130, 0.92),
    "white_matter": _WHITE,
    "corona_radiata": Tissue(14.0, 30.3, 70, 1.0),
    "external_capsule": _WHITE,
    "anterior_limb_internal_capsule": Tissue(14.5, 41.3, 70, 1.0),
    "posterior_limb_internal_capsule": Tissue(8.2, 52.2, 70, 1.0),
    "retrolenticular_internal_capsule": Tissue(18.0, 39.3, 70, 1.0),
    "corpus_callosum_genu": Tissue(17.8, 30.8, 70, 1.0),
    "corpus_callosum_body": Tissue(14.8, 35.1, 70, 1.0),
    "corpus_callosum_splenium": Tissue(16.5, 42.3, 70, 1.0),
    "superior_longitudinal_fasciculus": Tissue(22.6, 32.7, 70, 1.0),
    "cingulum": _WHITE,
    "posterior_thalamic_radiation": Tissue(12.9, 41.1, 70, 1.0),
    "corticospinal_tract": Tissue(23.5, 43.7, 70, 1.0),
    "red_nucleus": Tissue(112.0, 10.1, 68, 0.97),
    "subthalamic_nucleus": Tissue(112.1, 15.3, 73, 0.97),
    "substantia_nigra": Tissue(115.7, 11.1, 73, 0.97),
    "pallidum_internal": Tissue(131.9, 12.6, 64, 0.97),
    "pallidum_external": Tissue(131.9, 12.6, 64, 0.97),
    "accumbens": Tissue(45.4, 23.4, 88, 0.92),
    "putamen": Tissue(77.1, 10.3, 78, 0.94),
    "pulvinar": Tissue(52.1, 4.4, 87, 0.95),
    "thalamus": Tissue(22.9, 20.8, 87, 0.95),
    "caudate": Tissue(47.7, 8.2, 88, 0.92),
    "amygdala": Tissue(25, 15, 110, 0.92),
    "hippocampus": Tissue(25, 12, 110, 0.92),
    "dentate_nucleus": Tissue(120, 15, 110, 0.95),
    "choroid_plexus": Tissue(40, 80, 200, 0.8),
    "pineal_gland": Tissue(20, 300, 80, 0.7),
    "vein": Tissue(200, 5, 40, 0.9),
    "haemorrhage": Tissue(0, 10, 40, 0.8),
    "calcification": Tissue(10, 0, 60, 0.5),
}


def tissue_table() -> Tensor:
    """Population means, (regions, 4): chi_para ppm, chi_dia ppm, R2 1/s, M0, in the order of `REGIONS`."""
    rows = [TISSUES[name] for name in REGIONS]
    return torch.tensor([[t.para_ppb / 1000, t.dia_ppb / 1000, 1000 / t.t2_ms, t.m0] for t in rows])


def draw_tissue_table(generator: torch.Generator) -> Tensor:
    """One subject's values around the population's, (regions, 4), as `tissue_table`."""
    sd = torch.tensor([CHI_SUBJECT_SD, CHI_SUBJECT_SD, R2_SUBJECT_SD, M0_SUBJECT_SD])
    table = tissue_table()
    table *= torch.exp(sd * torch.randn(table.shape, generator=generator) - sd**2 / 2)
    table[REGIONS["vein"], 0].clamp_(*VEIN_CHI_PPM)
    return table


def paint_tissue(template: Template, regions: Tensor, table: Tensor) -> Tensor:
    """Piecewise smooth maps: tissue mixed by the template's probabilities, with tracts and nuclei in it.

    Args:
        template: Tissue probabilities.
        regions: Labels on its grid, (X, Y, Z), uint8.
        table: Values of the regions, (regions, 4).

    Returns:
        Maps of the `QUANTITIES`, (4, X, Y, Z), zero outside the mask.
    """
    table = table.to(template.gm)
    grey, fluid = (table[REGIONS[name]].view(4, 1, 1, 1) for name in ("grey_matter", "cerebrospinal_fluid"))
    in_tract = torch.where(_is_any(regions, TRACT_REGIONS), regions, REGIONS["white_matter"])
    white = gaussian_smooth(_lookup(table, in_tract), sigma_voxels=TRACT_EDGE_MM)
    maps = grey * template.gm + white * template.wm + fluid * template.csf
    in_nucleus = torch.where(_is_any(regions, NUCLEUS_REGIONS), regions, REGIONS["background"])
    nuclei = gaussian_smooth(_lookup(table, in_nucleus), sigma_voxels=NUCLEUS_EDGE_MM)
    share = gaussian_smooth((in_nucleus > 0)[None].float(), sigma_voxels=NUCLEUS_EDGE_MM)
    return (maps * (1 - share) + nuclei) * template.mask


def add_texture(maps: Tensor, *, generator: torch.Generator) -> Tensor:
    """Vary chi inside regions, and R2 with the iron.

    chi <- chi exp(n - var(n) / 2), n = GRADIENT_SD g + TEXTURE_SD t, with g and t smooth noise of either length.

    Args:
        maps: The `QUANTITIES`, (4, X, Y, Z), 1 mm.
        generator: Source of the randomness, on the CPU.

    Returns:
        New maps, (4, X, Y, Z).
    """
    n_x, n_y, n_z = maps.shape[1:]
    gradient, texture = (
        smooth_noise((n_x, n_y, n_z), length_voxels=length, channels=2, generator=generator)
        for length in (GRADIENT_LENGTH_MM, TEXTURE_LENGTH_MM)
    )
    log_change = (GRADIENT_SD * gradient + TEXTURE_SD * texture).to(maps)
    change = torch.exp(log_change - (GRADIENT_SD**2 + TEXTURE_SD**2) / 2)
    r2_change = 1 + R2_PER_IRON * (change[:1] - 1)
    return maps * torch.cat([change, r2_change, torch.ones_like(r2_change)])


def blend(maps: Tensor, values: Tensor, coverage: Tensor) -> Tensor:
    """Replace maps (4, X, Y, Z) by values (4,) where covered: (1 - coverage) maps + coverage values."""
    return torch.lerp(maps, values.to(maps).view(4, 1, 1, 1), coverage)


def _is_any(regions: Tensor, names: tuple[str, ...]) -> Tensor:
    return torch.isin(regions, torch.tensor([REGIONS[name] for name in names], device=regions.device))


def _lookup(table: Tensor, regions: Tensor) -> Tensor:
    """Table (regions, C) at labels (X, Y, Z): (C, X, Y, Z)."""
    return table.T.contiguous()[:, regions.int()]
