"""Steps that corrupt the exact maps before they are measured, or what is computed from them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from custom_transforms import keys
from custom_transforms.phantom.random_draws import Draws, gaussian_noise
from custom_transforms.phantom.steps.base import Imperfection, Maps, column
from custom_transforms.phantom.steps.tissue import depth_voxels
from custom_transforms.physics import DipoleConvolution, combine_sources, nearest_feasible, separate_sources
from custom_transforms.relaxometry import r2prime_from_r2star


class RelaxivityMismatch(Imperfection):
    r"""A true relaxivity that is not the one R2' is divided by.

    R2' changes by a factor that nobody knows. What can be read from it keeps chi_total, which the field gives, and
    takes chi_para + chi_dia from R2'; so do the labels, up to the smallest change that leaves both sources >= 0.

    Args:
        largest: largest relative error; the factor is log-uniform.
        probability: chance that a volume gets it.
    """

    def __init__(self, *, largest: float = 0.25, probability: float = 1.0) -> None:
        super().__init__(probability=probability)
        self.largest = largest

    def __call__(self, maps: Maps, draws: Draws) -> Maps:
        """Scale r2prime (1/s), r2star with it, and change chi_para and chi_dia."""
        factor = column(draws.log_uniform(1 / (1 + self.largest), 1 + self.largest))
        factor = torch.where(self.chosen(draws), factor, 1.0)
        weights = maps.get(keys.RELAXIVITY_WEIGHTS)
        chi = torch.cat([maps[keys.CHI_PARA], maps[keys.CHI_DIA]], dim=1)
        q, r2prime_ppm = combine_sources(chi, weights)
        read = separate_sources(q, nearest_feasible(q, factor * r2prime_ppm, weights), weights)
        read = torch.where(factor == 1, chi, read)
        r2prime = factor * maps[keys.R2PRIME]
        return {
            **maps,
            keys.CHI_PARA: read[:, 0:1],
            keys.CHI_DIA: read[:, 1:2],
            keys.R2PRIME: r2prime,
            keys.R2STAR: maps[keys.R2] + r2prime,
        }


class ResidualBackground(Imperfection):
    """Background field that its removal left: that of random sources in a rim around the mask.

    Args:
        rms_ppm: range of its root mean square inside the mask, log-uniform, ppm.
        rim_voxels: width of the rim.
        probability: chance that a volume gets it.
    """

    def __init__(
        self, *, rms_ppm: tuple[float, float] = (0.0003, 0.003), rim_voxels: float = 4.0, probability: float = 1.0
    ) -> None:
        super().__init__(probability=probability)
        self.rms_ppm = rms_ppm
        self.rim_voxels = rim_voxels
        self._dipole = DipoleConvolution(padding=0.25)

    def __call__(self, maps: Maps, draws: Draws) -> Maps:
        """Add the residual to local_field (ppm)."""
        mask, voxel_size_mm = maps[keys.MASK], maps[keys.VOXEL_SIZE_MM]
        shape = (mask.shape[-3], mask.shape[-2], mask.shape[-1])
        near = (1 - mask) * (depth_voxels(mask, voxel_size_mm) > -self.rim_voxels)
        sources = near * gaussian_noise(draws, 1, shape, voxel_size_mm, sigma=draws.uniform(1.0, 4.0))
        field = mask * self._dipole(sources, voxel_size_mm, maps[keys.B0_DIRECTION])
        inside = mask.sum(dim=(1, 2, 3, 4), keepdim=True).clamp(min=1.0)
        rms = (field.square().sum(dim=(1, 2, 3, 4), keepdim=True) / inside).sqrt().clamp(min=1e-12)
        amplitude = torch.where(self.chosen(draws), column(draws.log_uniform(*self.rms_ppm)), 0.0)
        return {**maps, keys.LOCAL_FIELD: maps[keys.LOCAL_FIELD] + amplitude / rms * field}


class MotionBlur(Imperfection):
    """The blur and faint ghosts of a head that moves: a mean of shifted copies of the maps.

    Args:
        shift_voxels: range of the SD of the shifts along each axis.
        copies: number of positions the head takes.
        probability: chance that a volume gets it.
    """

    def __init__(
        self, *, shift_voxels: tuple[float, float] = (0.1, 0.8), copies: int = 3, probability: float = 1.0
    ) -> None:
        super().__init__(probability=probability)
        self.shift_voxels = shift_voxels
        self.copies = copies

    def __call__(self, maps: Maps, draws: Draws) -> Maps:
        """Blur local_field (ppm), r2prime and r2 (1/s) and m0; r2star follows."""
        names = (keys.LOCAL_FIELD, keys.R2PRIME, keys.R2, keys.PROTON_DENSITY)
        volumes = torch.cat([maps[name] for name in names], dim=1)
        sd = torch.where(self.chosen(draws).flatten(), draws.uniform(*self.shift_voxels), 0.0)
        shifts = sd[:, None, None] * draws.normal((self.copies, 3))
        blurred = mean_of_shifted(volumes, shifts - shifts.mean(dim=1, keepdim=True))
        blurred = maps[keys.MASK] * torch.where(column(sd) > 0, blurred, volumes)
        new = dict(zip(names, blurred.split(1, dim=1), strict=True))
        new |= {name: new[name].clamp(min=0) for name in names[1:]}
        return {**maps, **new, keys.R2STAR: new[keys.R2] + new[keys.R2PRIME]}


def mean_of_shifted(volumes: Tensor, shifts_voxels: Tensor) -> Tensor:
    """Average copies of volumes (B, C, X, Y, Z), shifted periodically by (B, copies, 3) voxels."""
    shape = (volumes.shape[-3], volumes.shape[-2], volumes.shape[-1])
    phases = torch.zeros((), device=volumes.device)
    for axis, n in enumerate(shape):
        k = (torch.fft.rfftfreq(n) if axis == 2 else torch.fft.fftfreq(n)).to(volumes.device)
        view = [1, 1, 1, 1, 1]
        view[axis + 2] = -1
        phases = phases + shifts_voxels[:, :, axis, None, None, None] * k.view(view)
    transfer = torch.polar(torch.ones_like(phases), -2 * math.pi * phases).mean(dim=1, keepdim=True)
    return torch.fft.irfftn(torch.fft.rfftn(volumes, dim=(2, 3, 4)) * transfer, s=shape, dim=(2, 3, 4))


class R2Error(Imperfection):
    """R2 of the spin echoes that is wrong by a smooth factor, as stimulated echoes make it, and R2' with it.

    It stands after the echoes. Where R2* is used alone it changes nothing.

    Args:
        largest: largest relative error.
        probability: chance that a volume gets it.
    """

    def __init__(self, *, largest: float = 0.25, probability: float = 1.0) -> None:
        super().__init__(probability=probability)
        self.largest = largest

    def __call__(self, maps: Maps, draws: Draws) -> Maps:
        """Scale r2 (1/s), and take r2prime from it and r2star."""
        r2, voxel_size_mm = maps[keys.R2], maps[keys.VOXEL_SIZE_MM]
        shape = (r2.shape[-3], r2.shape[-2], r2.shape[-1])
        length = draws.uniform(0.1, 0.25) * min(shape)
        varying = gaussian_noise(draws, 1, shape, voxel_size_mm, sigma=length).clamp(-2, 2) / 2
        mean = column(draws.uniform(-1.0, 1.0))
        error = self.largest * torch.where(self.chosen(draws), (mean + 0.3 * varying) / 1.3, 0.0)
        r2 = r2 * (1 + error)
        return {**maps, keys.R2: r2, keys.R2PRIME: r2prime_from_r2star(maps[keys.R2STAR], r2)}
