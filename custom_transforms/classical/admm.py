r"""Dipole inversion with total variation and a penalty in every voxel, by the alternating direction method (ADMM).

    minimise over x   1/2 |w (f - D a'x)|^2 + h(x) + sum_i |t_i d_i x|_1

with x one susceptibility map (a = 1) or two (a = [1, -1]), w the precision of the field f, zero outside the mask, h a
penalty in each voxel, d_i the difference to the next voxel along axis i, and t_i its weight in ppm. Where w varies, no
Fourier transform makes the problem diagonal. It splits into parts that are diagonal somewhere (Bilgic 2015,
doi:10.1002/mrm.25029; Milovic 2018, doi:10.1002/mrm.27073):

    z = D a'x  with the weighted field,    g_i = d_i x  with total variation,    y = x  with h.

The x that is nearest to all three is one division in Fourier space, as the grid is periodic. With A x the stack of the
three, v its state, rho the penalties and alpha the over-relaxation, an iteration is

    y = prox(v),    x = argmin |A x - (2 y - v)|_rho,    v <- v + alpha (A x - y).

The residuals are those of Boyd 2011 (doi:10.1561/2200000016), in the norm of rho, relative to what they shall vanish
beside: primal |A x - y| to |y|, dual |y - y_previous| to |u|, u = v - y.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .differences import add_adjoint_difference, difference, laplacian_symbol

AXES = (-3, -2, -1)
OVER_RELAXATION = 1.7
CHECK_EVERY = 10
"""Iterations between two looks at the residuals."""


FIELD_PENALTY = 0.1
"""Penalty of z, where w is about 1."""

_EDGE_PPM = 1 / 300  # what soft thresholding takes off a difference; with it both residuals fall equally fast


def gradient_penalty(regularisation: float, voxel_size_mm: Tensor) -> float:
    """Give a penalty of g that suits the weight of total variation, in ppm mm, and the voxel size, (B, 3)."""
    return regularisation / float(voxel_size_mm.mean()) / _EDGE_PPM


class Residual(NamedTuple):
    """How far an iteration was from the solution.

    Attributes:
        iteration: its number, from 1.
        primal: relative primal residual, the largest of the batch.
        dual: relative dual residual, the largest of the batch.
    """

    iteration: int
    primal: float
    dual: float


Progress = Callable[[Residual], None]
"""Is called with each residual."""


@dataclass(frozen=True)
class StoppingRule:
    """When to stop.

    Attributes:
        tolerance: of both relative residuals.
        iterations: at most.
    """

    tolerance: float = 1e-3
    iterations: int = 200

    def __post_init__(self) -> None:
        """Raise ValueError for values that cannot be reached."""
        if not (self.tolerance > 0 and self.iterations > 0):
            raise ValueError(
                f"tolerance and iterations must be positive, got {self.tolerance} and {self.iterations}; "
                "1e-3 and 200 are usual"
            )


@dataclass(frozen=True)
class Penalties:
    """Weights rho of the three parts; they decide the speed, not the solution.

    Attributes:
        field: of z, beside w^2 of about 1.
        gradient: of g.
        voxel: of y.
    """

    field: float
    gradient: float
    voxel: float


@dataclass(frozen=True)
class Problem:
    """What is minimised, on one periodic grid.

    Attributes:
        field: f in ppm, (B, 1, X, Y, Z).
        precision: w^2, (B, 1, X, Y, Z).
        kernel: half-spectrum dipole, (B, 1, X, Y, Z // 2 + 1).
        signs: a, one number a map.
        variation: t_i in ppm for the three axes, each broadcast to (B, C, X, Y, Z).
        prox: proximal operator of h: v to argmin h(y) + rho/2 |y - v|^2, both (B, C, X, Y, Z), rho that of y.
    """

    field: Tensor
    precision: Tensor
    kernel: Tensor
    signs: Sequence[float]
    variation: Sequence[Tensor]
    prox: Callable[[Tensor], Tensor]


class _Solver:
    """The three parts and their states; ``step`` is one iteration."""

    def __init__(self, problem: Problem, penalties: Penalties, start: Tensor) -> None:
        self.problem, self.rho = problem, penalties
        self.grid = list(start.shape[-3:])
        self.signs = start.new_tensor(list(problem.signs)).reshape(1, -1, 1, 1, 1)
        self.bounds = [t / penalties.gradient for t in problem.variation]
        self.trust = problem.precision / (problem.precision + penalties.field)
        self.base = penalties.voxel + penalties.gradient * laplacian_symbol(self.grid, start)
        square = float(self.signs.square().sum())
        curvature = penalties.field * problem.kernel * problem.kernel
        self.damped = self.base / (self.base + square * curvature)
        self.share = penalties.field * problem.kernel
        self.z = self._image(problem.kernel * self._difference_of_maps(self._spectrum(start)))
        self.y = start.clone()
        self.g = [difference(start, axis) for axis in AXES]

    def _spectrum(self, values: Tensor) -> Tensor:
        return torch.fft.rfftn(values, dim=AXES)

    def _image(self, spectrum: Tensor) -> Tensor:
        return torch.fft.irfftn(spectrum, s=self.grid, dim=AXES)

    def _difference_of_maps(self, maps: Tensor) -> Tensor:
        """a'x, (B, 1, ...)."""
        return maps if maps.shape[1] == 1 else (self.signs * maps).sum(dim=1, keepdim=True)

    def _prox_z(self, v: Tensor) -> Tensor:
        return torch.lerp(v, self.problem.field, self.trust)

    def _clipped(self, v: Tensor, axis: int) -> Tensor:
        """The part u of a gradient that soft thresholding takes off."""
        return torch.clamp(v, -self.bounds[axis], self.bounds[axis])

    def _nearest(self, z: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Solve (base + rho_z D^2 a a') x = right + rho_z a D z in Fourier space, and give x and D a'x."""
        spectrum = self._spectrum(right)
        # Sherman and Morrison: along a the solution is damped, and gets what z asks for
        total = self._difference_of_maps(spectrum)
        count = spectrum.shape[1]
        wanted = (total + count * self.share * self._spectrum(z)).mul_(self.damped)
        spectrum.add_(self.signs * ((wanted - total) / count)).div_(self.base)
        return self._image(spectrum), self._image(wanted.div_(self.base).mul_(self.problem.kernel))

    def step(self, *, look: bool) -> Tensor | None:
        """Iterate once; if asked to look, give the squares of |A x - y|, |y|, |y - y_previous| and |u|, (4, B)."""
        rho, prox_y = self.rho, self.problem.prox
        z, y = self._prox_z(self.z), prox_y(self.y)
        right = torch.sub(y, self.y, alpha=0.5).mul_(2 * rho.voxel)
        clipped = [self._clipped(v, axis) for axis, v in enumerate(self.g)]
        for axis, v, u in zip(AXES, self.g, clipped, strict=True):
            add_adjoint_difference(right, torch.sub(v, u, alpha=2), axis, weight=rho.gradient)
        x, dx = self._nearest((2 * z).sub_(self.z), right)
        sums = x.new_zeros(4, len(x)) if look else None
        _relax(self.z, self.z - z, dx, rho.field, self._prox_z, sums)
        _relax(self.y, self.y - y, x, rho.voxel, prox_y, sums)
        for i, axis in enumerate(AXES):
            _relax(self.g[i], clipped[i], difference(x, axis), rho.gradient, partial(self._thresholded, axis=i), sums)
        return sums

    def _thresholded(self, v: Tensor, *, axis: int) -> Tensor:
        return v - self._clipped(v, axis)

    def solution(self) -> Tensor:
        """The maps that fulfil what h asks of them."""
        return self.problem.prox(self.y)


def _relax(v: Tensor, u: Tensor, ax: Tensor, rho: float, prox: Callable[[Tensor], Tensor], sums: Tensor | None) -> None:
    """Move the state v of a part, v <- v + alpha (A x - (v - u)), and add its share to the sums of the residuals."""
    previous = None if sums is None else v - u
    v.lerp_(ax + u, OVER_RELAXATION)
    if sums is None or previous is None:
        return
    new = prox(v)
    parts = (ax - new, new, new - previous, v - new)
    sums += rho * torch.stack([part.square().sum(dim=(1, 2, 3, 4)) for part in parts])


def minimise(
    problem: Problem, *, penalties: Penalties, start: Tensor, rule: StoppingRule, progress: Progress | None = None
) -> tuple[Tensor, list[Residual]]:
    """Minimise the problem at the head of the module.

    Args:
        problem: what is minimised.
        penalties: of the splitting.
        start: first guess of x in ppm, (B, C, X, Y, Z).
        rule: when to stop.
        progress: see :data:`Progress`.

    Returns:
        x in ppm, (B, C, X, Y, Z), and the residuals of every tenth iteration and of the last.
    """
    solver = _Solver(problem, penalties, start)
    record: list[Residual] = []
    for iteration in range(1, rule.iterations + 1):
        look = iteration % CHECK_EVERY == 0 or iteration == rule.iterations
        sums = solver.step(look=look)
        if sums is None:
            continue
        missed, split, moved, dual = sums.sqrt().unbind()
        tiny = torch.finfo(sums.dtype).tiny
        primal, change = (missed / split.clamp(min=tiny)).max(), (moved / dual.clamp(min=tiny)).max()
        record.append(Residual(iteration, float(primal), float(change)))
        if progress is not None:
            progress(record[-1])
        if max(record[-1].primal, record[-1].dual) < rule.tolerance:
            break
    return solver.solution(), record
