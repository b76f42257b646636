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
beside: primal |A x - y| to |y|, dual |A (x - x_previous)| to |u|, u = v - y.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .convergence import Progress, Residual, StoppingRule
from .differences import AXES, WHOLE, add_adjoint_difference, difference, laplacian_symbol, parts_of, planes

OVER_RELAXATION = 1.7
CHECK_EVERY = 10
"""Iterations between two looks at the residuals."""


FIELD_PENALTY = 0.1
"""Penalty of z, where w is about 1."""

_EDGE_PPM = 1 / 300  # what soft thresholding takes off a difference; with it both residuals fall equally fast


def gradient_penalty(regularisation: float, voxel_size_mm: Tensor) -> float:
    """Give a penalty of g that suits the weight of total variation, in ppm mm, and the voxel size, (B, 3)."""
    return regularisation / float(voxel_size_mm.mean()) / _EDGE_PPM


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

    @property
    def of_parts(self) -> tuple[float, ...]:
        """Those of z, y and g for the three axes."""
        return self.field, self.voxel, self.gradient, self.gradient, self.gradient


@dataclass(frozen=True)
class Problem:
    """What is minimised, on one periodic grid.

    Attributes:
        field: f in ppm, (B, 1, X, Y, Z).
        precision: w^2, (B, 1, X, Y, Z).
        kernel: half-spectrum dipole, (B, 1, X, Y, Z // 2 + 1).
        signs: a, one number a map.
        variation: t_i in ppm for the three axes, each broadcast to (B, C, X, Y, Z).
        prox: proximal operator of h: v to argmin h(y) + rho/2 |y - v|^2, with rho that of y; v and y are planes of
            (B, C, X, Y, Z), and the second argument says which.
    """

    field: Tensor
    precision: Tensor
    kernel: Tensor
    signs: Sequence[float]
    variation: Sequence[Tensor]
    prox: Callable[[Tensor, slice], Tensor]


class _Solver:
    """The three parts of the problem and their states; ``step`` is one iteration."""

    def __init__(self, problem: Problem, penalties: Penalties, start: Tensor) -> None:
        self.problem, self.rho = problem, penalties
        self.grid, self.parts = list(start.shape[-3:]), parts_of(start)
        self.signs = start.new_tensor(list(problem.signs)).reshape(1, -1, 1, 1, 1)
        self.bounds = [t / penalties.gradient for t in problem.variation]
        self.trust = problem.precision / (problem.precision + penalties.field)
        self.base = penalties.voxel + penalties.gradient * laplacian_symbol(self.grid, start)
        square = float(self.signs.square().sum())
        self.share = penalties.field * problem.kernel
        self.damped = self.base / (self.base + square * self.share * problem.kernel)
        self.x, self.dx = start, self._image(problem.kernel * self._along(self._spectrum(start)))
        self.z, self.y, self.g = self.dx.clone(), start.clone(), [difference(start, axis) for axis in AXES]
        self.mirror_z, self.right = torch.empty_like(self.z), torch.empty_like(start)

    def _spectrum(self, values: Tensor) -> Tensor:
        return torch.fft.rfftn(values, dim=AXES)

    def _image(self, spectrum: Tensor) -> Tensor:
        return torch.fft.irfftn(spectrum, s=self.grid, dim=AXES)

    def _along(self, maps: Tensor) -> Tensor:
        """a'x, (B, 1, ...)."""
        return maps if maps.shape[1] == 1 else (self.signs * maps).sum(dim=1, keepdim=True)

    def _reflect(self, *, look: bool) -> list[list[Tensor]]:
        """Write 2 y - v into what x shall be nearest to, and take alpha y off v; if asked, give y of each part."""
        rho, problem = self.rho, self.problem
        copies: list[list[Tensor]] = [[] for _ in self.parts]
        for part, split in zip(self.parts, copies, strict=True):
            v, mirror = planes(self.z, part), planes(self.mirror_z, part)
            z = torch.lerp(v, planes(problem.field, part), planes(self.trust, part))
            torch.sub(z, v, alpha=0.5, out=mirror).mul_(2)
            v.sub_(z, alpha=OVER_RELAXATION)
            v, mirror = planes(self.y, part), planes(self.right, part)
            y = problem.prox(v, part)
            torch.sub(y, v, alpha=0.5, out=mirror).mul_(2 * rho.voxel)
            v.sub_(y, alpha=OVER_RELAXATION)
            split += [z, y] if look else []
        for part, split in zip(self.parts, copies, strict=True):
            for state, all_bounds, axis in zip(self.g, self.bounds, AXES, strict=True):
                v, bounds = planes(state, part), planes(all_bounds, part)
                clipped = torch.clamp(v, -bounds, bounds)
                g = v - clipped
                add_adjoint_difference(self.right, clipped.neg_().add_(g), axis, part, weight=rho.gradient)
                v.sub_(g, alpha=OVER_RELAXATION)
                split += [g] if look else []
        return copies

    def _nearest(self) -> tuple[Tensor, Tensor]:
        """Solve (base + rho_z D^2 a a') x = right + rho_z a D z in Fourier space, and give x and D a'x."""
        spectrum = self._spectrum(self.right)
        # Sherman and Morrison: along a the solution is damped, and gets what z asks for
        total, count = self._along(spectrum), spectrum.shape[1]
        wanted = self._spectrum(self.mirror_z).mul_(self.share).mul_(count).add_(total).mul_(self.damped)
        spectrum.add_(self.signs * ((wanted - total) / count)).div_(self.base)
        return self._image(spectrum), self._image(wanted.div_(self.base).mul_(self.problem.kernel))

    def _applied(self, x: Tensor, dx: Tensor, part: slice) -> Iterator[Tensor]:
        """A x in a part of the volume: of z, of y, and of g for the three axes."""
        yield planes(dx, part)
        yield planes(x, part)
        for axis in AXES:
            yield difference(x, axis, part)

    def step(self, *, look: bool) -> Tensor | None:
        """Iterate once; if asked to look, give the squares of |A x - y|, |y|, |A (x - x_previous)| and |u|, (4, B)."""
        copies = self._reflect(look=look)
        previous, self.x, self.dx = (self.x, self.dx), *self._nearest()
        sums = self.x.new_zeros(4, len(self.x)) if look else None
        for part, split in zip(self.parts, copies, strict=True):
            states = [planes(state, part) for state in (self.z, self.y, *self.g)]
            applied = list(self._applied(self.x, self.dx, part))
            for v, ax in zip(states, applied, strict=True):
                v.add_(ax, alpha=OVER_RELAXATION)
            if sums is not None:
                moved = self._applied(*previous, part)
                for v, ax, y, before, rho in zip(states, applied, split, moved, self.rho.of_parts, strict=True):
                    missed = ax - y
                    u = (v - y).sub_(missed, alpha=OVER_RELAXATION)
                    squares = [values.square().sum(dim=(1, 2, 3, 4)) for values in (missed, y, ax - before, u)]
                    sums += rho * torch.stack(squares)
        return sums

    def solution(self) -> Tensor:
        """The maps that fulfil what h asks of them."""
        return self.problem.prox(self.y, WHOLE)


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
        if rule.is_met(record[-1]):
            break
    return solver.solution(), record
