r"""Steps that change the tissue, before its field and signal are computed."""

from __future__ import annotations

import torch
from torch import Tensor

from custom_transforms import keys
from custom_transforms.phantom.random_draws import Draws, gaussian_noise, low_pass
from custom_transforms.phantom.steps.base import Imperfection, Maps, Step, column

_MEAN_SIN2 = 2 / 3  # of the angle between a fibre and B0, over all directions of fibres
_EXCESS_OF_WHITE_MATTER = 0.25  # (chi_dia - chi_para) / (chi_dia + chi_para) there
_CALCIFIED_PPM = 0.1  # more diamagnetic than myelin


class SplitRelaxivity(Step):
    """Two relaxivities that the method is told: [Dr_para, Dr_dia] = Dr [1 + s, 1 - s]; half of the volumes have one.

    Args:
        largest: largest |s|, dimensionless.
    """

    def __init__(self, *, largest: float = 0.2) -> None:
        self.largest = largest

    def __call__(self, maps: Maps, draws: Draws) -> Maps:
        """Add relaxivity_weights, (B, 2)."""
        split = draws.uniform(-self.largest, self.largest)
        split = torch.where(draws.uniform(0.0, 1.0) < 0.5, 0.0, split)
        return {**maps, keys.RELAXIVITY_WEIGHTS: torch.stack([1 + split, 1 - split], dim=1)}


class AnisotropicWhiteMatter(Imperfection):
    r"""Myelin whose susceptibility and relaxivity depend on the angle theta between its fibres and B0.

        chi_dia <- chi_dia (1 - a cos^2 theta),    Dr_dia <- Dr_dia (1 - b + b sin^2 theta / (2/3))

    where the diamagnetic source dominates and is no calcification. The fibres run along a smooth random field of
    directions. The label is the true chi_dia at that angle; the relaxivity of the fibres is known to nobody.

    Args:
        susceptibility: range of a. In tissue |chi0| is 0.04 to 0.06 and its anisotropy 0.005 to 0.03 ppm.
        relaxivity: range of b; 1 is that of parallel cylinders, sin^2 theta.
        length_voxels: range of the SD of the Gaussian that smooths the directions, in units of the mean voxel size.
        probability: chance that a volume gets it.

    References:
        Ridani et al. 2026, doi:10.64898/2026.04.07.716972.
    """

    def __init__(
        self,
        *,
        susceptibility: tuple[float, float] = (0.1, 0.6),
        relaxivity: tuple[float, float] = (0.0, 1.0),
        length_voxels: tuple[float, float] = (4.0, 15.0),
        probability: float = 1.0,
    ) -> None:
        super().__init__(probability=probability)
        self.susceptibility = susceptibility
        self.relaxivity = relaxivity
        self.length_voxels = length_voxels

    def __call__(self, maps: Maps, draws: Draws) -> Maps:
        """Change chi_dia and add relaxivity_dia_factor, (B, 1, X, Y, Z)."""
        para, dia = maps[keys.CHI_PARA], maps[keys.CHI_DIA]
        shape = (dia.shape[-3], dia.shape[-2], dia.shape[-1])
        voxel_size_mm, b0 = maps[keys.VOXEL_SIZE_MM], maps[keys.B0_DIRECTION]
        fibres = gaussian_noise(draws, 3, shape, voxel_size_mm, sigma=draws.uniform(*self.length_voxels))
        along = torch.einsum("bixyz,bi->bxyz", fibres, b0.to(fibres))[:, None]
        cos2 = along.square() / fibres.square().sum(dim=1, keepdim=True).clamp(min=1e-12)
        excess = (dia - para) / (dia + para).clamp(min=1e-6)
        myelin = (excess / _EXCESS_OF_WHITE_MATTER).clamp(0.0, 1.0) * (dia < _CALCIFIED_PPM)
        myelin = myelin * self.chosen(draws)
        a, b = column(draws.uniform(*self.susceptibility)), column(draws.uniform(*self.relaxivity))
        return {
            **maps,
            keys.CHI_DIA: dia * (1 - a * myelin * cos2),
            keys.RELAXIVITY_DIA_FACTOR: 1 + b * myelin * ((1 - cos2) / _MEAN_SIN2 - 1),
        }


class MaskErrors(Imperfection):
    """A brain mask that is too small or too large, with a rough edge.

    Sources that a small mask leaves out still make their field inside it. What a large mask adds is a dark rim without
    sources. Labels are zero outside the mask.

    Args:
        shift_voxels: range of the shift of the mask's edge, outwards positive.
        roughness_voxels: range of the SD of the shift along the edge.
        probability: chance that a volume gets it.
    """

    def __init__(
        self,
        *,
        shift_voxels: tuple[float, float] = (-2.0, 1.5),
        roughness_voxels: tuple[float, float] = (0.0, 1.0),
        probability: float = 1.0,
    ) -> None:
        super().__init__(probability=probability)
        self.shift_voxels = shift_voxels
        self.roughness_voxels = roughness_voxels

    def __call__(self, maps: Maps, draws: Draws) -> Maps:
        """Change the mask, and give the voxels that it gains R2 (1/s) and m0; the sources are left alone."""
        mask, voxel_size_mm = maps[keys.MASK], maps[keys.VOXEL_SIZE_MM]
        shape = (mask.shape[-3], mask.shape[-2], mask.shape[-1])
        rough = gaussian_noise(draws, 1, shape, voxel_size_mm, sigma=draws.uniform(2.0, 6.0))
        shift = column(draws.uniform(*self.shift_voxels)) + column(draws.uniform(*self.roughness_voxels)) * rough
        wrong = ((depth_voxels(mask, voxel_size_mm) + shift) > 0).to(mask)
        new = torch.where(self.chosen(draws), wrong, mask)
        gained = new * (1 - mask)
        r2, m0 = column(draws.log_uniform(0.7, 40.0)), column(draws.log_uniform(0.05, 0.6))
        return {
            **maps,
            keys.MASK: new,
            keys.R2: maps[keys.R2] + gained * r2,
            keys.PROTON_DENSITY: maps[keys.PROTON_DENSITY] + gained * m0,
        }


def depth_voxels(mask: Tensor, voxel_size_mm: Tensor, sigma: float = 2.0) -> Tensor:
    """Give the depth below the surface of a mask, positive inside, in units of the mean voxel size.

    A plane edge blurred by a Gaussian is Phi(depth / sigma), hence depth = sigma Phi^-1(blurred); it saturates at about
    three sigma.

    Args:
        mask: (B, 1, X, Y, Z) of 0 and 1.
        voxel_size_mm: (B, 3).
        sigma: SD of the Gaussian, in units of the mean voxel size.
    """
    width = torch.full((len(mask),), sigma, device=mask.device)
    blurred = low_pass(mask, voxel_size_mm.to(mask.device), sigma=width)
    return sigma * torch.special.ndtri(blurred.clamp(1e-3, 1 - 1e-3))
