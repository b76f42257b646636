r"""The linear model of the total field that background removal by projection fits; see ``pdf.py``.

    f = D S y + A c,    A = [1, |x|^2 | D r, D r^2]

y is the susceptibility over its standard deviation s, S = diag(s), and c are coefficients without a prior: a constant
and a curvature, which are background, and the share of the rate r in the susceptibility, which is the brain's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_LONG, _PROFILE_POWER = 1.5, 4  # of voxels, over the shortest; of their profile
_PRECONDITIONER_POWER = 0.35  # by trial: 0 (none) and 0.65 need twice as many iterations, 1 many times as many


@dataclass(frozen=True)
class FieldModel:
    """The model on a grid.

    Attributes:
        kernel: D, (X, Y, Z // 2 + 1).
        spread: s, (X, Y, Z).
        weight: W / sigma, (X, Y, Z).
        columns: A, (N, X, Y, Z), of any scale.
        mixing: (N, N), float64: what makes A orthonormal under the weight.
        basis: A mixing, (N, X, Y, Z).
    """

    kernel: Tensor
    spread: Tensor
    weight: Tensor
    columns: Tensor
    mixing: Tensor
    basis: Tensor

    def field(self, chi: Tensor) -> Tensor:
        """D chi, (X, Y, Z)."""
        return convolve_periodic(chi, self.kernel)

    def _projection(self, weighted: Tensor) -> Tensor:
        """Give the coefficients of the basis that fit a weighted field (X, Y, Z) best, (N,)."""
        return torch.stack([(part * self.weight * weighted).sum() for part in self.basis])

    def parts(self, field: Tensor) -> Tensor:
        """Give each column times its coefficient, where their sum fits a field best, (N, X, Y, Z)."""
        coefficients = (self.mixing @ self._projection(self.weight * field).double()).to(field.dtype)
        return coefficients[:, None, None, None] * self.columns

    def trend(self, weighted: Tensor) -> Tensor:
        """A c that fits a weighted field best, not weighted, (X, Y, Z)."""
        return torch.einsum("n,nxyz->xyz", self._projection(weighted), self.basis)

    def gradient(self, field: Tensor) -> Tensor:
        """S D W (1 - P) W field, with P the projection onto W A."""
        weighted = self.weight * field
        weighted -= self.weight * self.trend(weighted)
        return self.spread * self.field(self.weight * weighted)

    def normal(self, y: Tensor) -> Tensor:
        """The matrix of the normal equations, for y = chi / s."""
        return self.gradient(self.field(self.spread * y)).add_(y)

    def preconditioner(self) -> Tensor:
        """A power of the diagonal of the normal equations without A."""
        shape = self.weight.shape
        squared = torch.fft.irfftn(torch.complex(self.kernel, torch.zeros_like(self.kernel)), s=shape).square_()
        reach = torch.fft.irfftn(torch.fft.rfftn(squared) * torch.fft.rfftn(self.weight**2), s=shape)
        return (1 + self.spread**2 * reach.clamp(min=0)) ** -_PRECONDITIONER_POWER


def convolve_periodic(chi: Tensor, kernel: Tensor) -> Tensor:
    """Give D chi on the grid as it is, (X, Y, Z)."""
    return torch.fft.irfftn(torch.fft.rfftn(chi).mul_(kernel), s=chi.shape)


def slice_profile(grid: list[int], voxel_size_mm: Tensor) -> Tensor:
    """Give what weakens the kernel along axes with long voxels, (X, Y, Z // 2 + 1), 0 to 1.

        P(k) = sinc^4(k v)    along an axis with v > 1.5 v_min, else 1

    A thick slice shows the mean of the field over itself, of sources that partly fill it. The sampled kernel of a point
    rings from slice to slice instead. The power is by trial with 0.8 x 0.8 x 2 mm: 0, 2, 3, 4 leave errors of 29, 26,
    25 and 24 % of the local field's SD.
    """
    lengths = [torch.fft.fftfreq(grid[0]), torch.fft.fftfreq(grid[1]), torch.fft.rfftfreq(grid[2])]
    is_long = (voxel_size_mm > _LONG * voxel_size_mm.min()).tolist()
    x, y, z = (torch.sinc(k) ** (_PROFILE_POWER * long) for k, long in zip(lengths, is_long, strict=True))
    return (x[:, None, None] * y[:, None] * z).to(voxel_size_mm)


def curvature(weight: Tensor, voxel_size_mm: Tensor) -> Tensor:
    """Give |x|^2 about the middle of the weight, where that is not 0, in mm^2, (X, Y, Z)."""
    power = weight.double().square()
    total = power.sum()
    squares = torch.zeros_like(power)
    for axis, (n, v) in enumerate(zip(weight.shape, voxel_size_mm.double(), strict=True)):
        x = torch.arange(n, device=weight.device, dtype=torch.float64) * v
        profile = power.sum(dim=[other for other in range(3) if other != axis])
        squares += (x - (profile * x).sum() / total).square().reshape([-1 if i == axis else 1 for i in range(3)])
    return torch.where(weight > 0, squares, 0.0).to(weight.dtype)


def orthonormalise(columns: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Make columns (N, X, Y, Z) orthonormal under a weight; what one column shares with all others gets no part.

    Returns:
        The mixing matrix (N, N), float64, and columns times it, (N, X, Y, Z).
    """
    weighted = (columns * weight).flatten(1).double()
    length = weighted.norm(dim=1).clamp(min=1e-30)
    values, vectors = torch.linalg.eigh((weighted @ weighted.T) / length[:, None] / length)
    inverse = torch.where(values > 1e-7 * len(values), values.clamp(min=1e-30).rsqrt(), 0.0)
    mixing = vectors * inverse / length[:, None]
    return mixing, torch.einsum("nm,nxyz->mxyz", mixing, columns.double()).to(columns.dtype)
