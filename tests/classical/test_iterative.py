"""Total variation, MEDI and chi-separation against dense solutions of what they say they minimise."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from custom_transforms.classical import (
    ChiSeparation,
    ConstantR2Removal,
    MEDISusceptibility,
    SusceptibilitySeparation,
    TVSusceptibility,
)
from custom_transforms.classical.chi_separation import SourceProx
from custom_transforms.networks import PredictedR2Prime
from custom_transforms.transforms.reference import csf_mask

SHAPE = (6, 5, 4)
VOXEL_MM = torch.tensor([[0.9, 1.2, 2.0]])
B0 = normalize(torch.tensor([[0.2, -0.4, 0.9]]))
WEIGHTS = torch.tensor([[1.2, 0.8]])
EXACT = {"padding": 0.0, "tolerance": 1e-6, "iterations": 4000}
TOO_LARGE = 1e-4  # of the objective, relative: float32


@pytest.fixture
def image() -> torch.Tensor:
    """Field, R2'/Dr, mask and magnitude without any relation between them."""
    generator = torch.Generator().manual_seed(3)
    field = 0.02 * torch.randn(1, 1, *SHAPE, generator=generator)
    r2prime = 0.05 + 0.03 * torch.randn(1, 1, *SHAPE, generator=generator)
    mask = torch.ones(1, 1, *SHAPE)  # touches all faces, so that nothing is cut off
    mask[..., ::5, ::4, :] = 0
    mask[..., 4:, 2:, 3] = 0
    return torch.cat([field, r2prime, mask, 100 + 40 * torch.rand(1, 1, *SHAPE, generator=generator)], dim=1)


def weights_of(image: torch.Tensor, edge_share: float) -> tuple[NDArray, list[NDArray]]:
    """Precision and smoothness by their definitions, in numpy."""
    mask, magnitude = image[0, 2].double().numpy(), image[0, 3].double().numpy()
    precision = mask * (magnitude / magnitude[mask > 0].mean()) ** 2
    pairs = [mask * np.roll(mask, -1, axis) for axis in range(3)]
    slopes = [np.abs(np.roll(magnitude, -1, axis) - magnitude) / float(VOXEL_MM[0, axis]) for axis in range(3)]
    inside = np.sort(np.concatenate([s[p > 0] for s, p in zip(slopes, pairs, strict=True)]))
    steepest = inside[round((1 - edge_share) * len(inside)) - 1]
    return precision.ravel(), [(p * (s <= steepest)).ravel() for s, p in zip(slopes, pairs, strict=True)]


@pytest.fixture
def inversion(
    image: torch.Tensor, dipole_matrix: Callable, gradient_matrices: Callable, problem_type: type
) -> Callable[..., Any]:
    """The dense problem of a dipole inversion."""

    def make(regularisation: float, edge_share: float) -> Any:
        inside = image[0, 2].flatten().numpy() > 0
        precision, smooth = weights_of(image, edge_share)
        w = np.sqrt(precision)
        G = np.vstack(gradient_matrices(SHAPE, VOXEL_MM))[:, inside]
        t = regularisation * np.concatenate(smooth)
        A = (w[:, None] * dipole_matrix(SHAPE, VOXEL_MM, B0))[:, inside]
        b = w * image[0, 0].flatten().double().numpy()
        return problem_type(A, b, G[t > 0], t[t > 0], False, inside)

    return make


@pytest.mark.parametrize(("method", "edge_share"), [(TVSusceptibility, 0.0), (MEDISusceptibility, 0.3)])
def test_inversions_minimise_what_they_say(
    image: torch.Tensor, inversion: Callable[..., Any], method: type[TVSusceptibility], edge_share: float
) -> None:
    options = {"edge_share": edge_share} if edge_share else {}
    problem = inversion(1e-3, edge_share)
    expected = problem.solve()
    q = method(regularisation=1e-3, **options, **EXACT)(image, VOXEL_MM, B0)
    assert q.shape == (1, 1, *SHAPE) and bool((q[image[:, 2:3] == 0] == 0).all())
    found = problem.vector(q)
    assert abs(found.mean()) < 1e-6
    found += expected.mean()
    assert problem.objective(found) < (1 + TOO_LARGE) * problem.objective(expected)
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)
    assert problem.objective(expected) < 0.99 * inversion(2e-3, edge_share).objective(expected)
    other = inversion(1e-3, 0.0 if edge_share else 0.3)
    assert problem.objective(expected) < (1 - 10 * TOO_LARGE) * problem.objective(other.solve())  # so M matters


@pytest.fixture
def separation(
    image: torch.Tensor, dipole_matrix: Callable, gradient_matrices: Callable, problem_type: type
) -> Callable[..., Any]:
    """The dense problem of chi-separation."""

    def make(regularisation: float, beta: float, kappa: float, weights: torch.Tensor, edge_share: float) -> Any:
        inside = image[0, 2].flatten().numpy() > 0
        precision, smooth = weights_of(image, edge_share)
        w, n = np.sqrt(precision), int(inside.sum())
        D = (w[:, None] * dipole_matrix(SHAPE, VOXEL_MM, B0))[:, inside]
        rate = (np.sqrt(beta) * w[:, None] * np.eye(len(w)))[:, inside]
        fluid = csf_mask(image[0, 1:2], image[0, 2:3]).flatten().numpy()[inside]
        A = np.vstack(
            [
                np.hstack([D, -D]),
                np.hstack([float(weights[0, 0]) * rate, float(weights[0, 1]) * rate]),
                np.diag(np.sqrt(kappa) * np.tile(fluid, 2)),
            ]
        )
        field, r2prime = image[0, :2].flatten(1).double().numpy()
        b = np.concatenate([w * field, np.sqrt(beta) * w * r2prime, np.zeros(2 * n)])
        gradients = np.vstack(gradient_matrices(SHAPE, VOXEL_MM))[:, inside]
        t = regularisation * np.concatenate(smooth)
        G = np.kron(np.eye(2), gradients[t > 0])
        return problem_type(A, b, G, np.tile(t[t > 0], 2), True, inside)

    return make


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["single", "split"])
def test_chi_separation_minimises_what_it_says(
    image: torch.Tensor, separation: Callable[..., Any], weights: torch.Tensor | None
) -> None:
    ones = torch.ones(1, 2)
    problem = separation(2e-4, 0.05, 0.02, ones if weights is None else weights, 0.3)
    expected = problem.solve()
    method = ChiSeparation(regularisation=2e-4, r2prime_weight=0.05, csf_weight=0.02, edge_share=0.3, **EXACT)
    chi = method(image, VOXEL_MM, B0, weights)
    assert bool((chi >= 0).all()) and bool((chi[(image[:, 2:3] == 0).expand_as(chi)] == 0).all())
    found = problem.vector(chi)
    assert problem.objective(found) < (1 + TOO_LARGE) * problem.objective(expected)
    assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)
    assert 0.05 < (found == 0).mean() < 0.95  # the constraint is active, and not everywhere
    for wrong in (
        (2e-4, 0.05, 0.0, ones),
        (2e-4, 0.1, 0.02, ones),
        (4e-4, 0.05, 0.02, ones),
        (2e-4, 0.05, 0.02, 2 - WEIGHTS),
    ):
        assert problem.objective(found) < (1 - TOO_LARGE) * problem.objective(separation(*wrong, 0.3).solve())


def test_record_stopping_rule_and_progress(image: torch.Tensor) -> None:
    seen: list = []
    method = ChiSeparation(padding=0.0, tolerance=1e-3, progress=seen.append)
    method(image, VOXEL_MM, B0)
    assert method.convergence == seen and seen[-1].iteration % 10 == 0
    assert max(seen[-1].primal, seen[-1].dual) < 1e-3 <= max(seen[-2].primal, seen[-2].dual)
    short = ChiSeparation(padding=0.0, tolerance=1e-9, iterations=13)
    short(image, VOXEL_MM, B0)
    assert [residual.iteration for residual in short.convergence] == [10, 13]
    for wrong in ({"tolerance": 0.0}, {"iterations": 0}):
        with pytest.raises(ValueError, match="tolerance and iterations must be positive"):
            ChiSeparation(**wrong)
    for wrong in ({"regularisation": 0.0}, {"r2prime_weight": -1.0}, {"csf_weight": -1.0}):
        with pytest.raises(ValueError, match="must be positive"):
            ChiSeparation(**wrong)
    with pytest.raises(ValueError, match="regularisation must be positive"):
        TVSusceptibility(regularisation=0.0)


def test_batch_equals_singles(image: torch.Tensor) -> None:
    """Each with its geometry and its mask; the batch goes on until all have converged."""
    other = image.flip(0).clone()
    other[:, :2] *= 1.3
    other[:, 2, 2:4, 1:3, 1] = 0  # its box is the same, so the wrap-around is too
    voxel_mm, b0 = torch.cat([VOXEL_MM, VOXEL_MM.flip(1)]), torch.cat([B0, -B0.roll(1, dims=1)])
    for method in (ChiSeparation(**EXACT), SusceptibilitySeparation(susceptibility=MEDISusceptibility(**EXACT)).eval()):
        both = method(torch.cat([image, other]), voxel_mm, b0)
        first, second = method(image, VOXEL_MM, B0), method(other, voxel_mm[1:], b0[1:])
        assert (both[0] - first[0]).norm() < 5e-3 * first.norm()
        assert (both[1] - second[0]).norm() < 5e-3 * second.norm()
        assert (both[1] - first[0]).norm() > 0.5 * first.norm()


def test_without_magnitude_medi_takes_the_edges_of_r2prime(image: torch.Tensor) -> None:
    with_guide = MEDISusceptibility(**EXACT)(image[:, :3], VOXEL_MM, B0)
    uniform = TVSusceptibility(**EXACT)(image[:, :3], VOXEL_MM, B0)
    guide = image.clone()
    guide[:, 1] = 0
    torch.testing.assert_close(MEDISusceptibility(**EXACT)(guide[:, :3], VOXEL_MM, B0), uniform, rtol=0, atol=1e-6)
    assert (with_guide - uniform).abs().max() > 1e-4


def test_voxel_problem_fulfils_the_conditions_of_its_minimum() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1, 2, 10, 10, 10, generator=generator).double()
    r2prime, precision, ridge = (torch.rand(1, 1, 10, 10, 10, generator=generator).double() for _ in range(3))
    w_a, w_b = torch.tensor(1.3).double(), torch.tensor(0.7).double()
    mask = torch.ones_like(r2prime)
    prox = SourceProx(rho=0.4, r2prime_ppm=r2prime, precision=precision, ridge=ridge, mask=mask, weights=(w_a, w_b))
    chi = prox(start)
    residual = precision * (w_a * chi[:, :1] + w_b * chi[:, 1:] - r2prime)
    slope = torch.cat([w_a * residual, w_b * residual], dim=1) + ridge * chi + 0.4 * (chi - start)
    assert (
        bool((chi >= 0).all()) and bool((slope[chi > 0].abs() < 1e-12).all()) and bool((slope[chi == 0] > -1e-12).all())
    )
    assert 0.1 < float((chi == 0).double().mean()) < 0.9
    assert not bool((slope[chi == 0].abs() < 1e-12).any())


def test_constant_r2() -> None:
    image = torch.rand(2, 4, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    image[:, 2] = (image[:, 2] > 0.3).float()
    removal = ConstantR2Removal(r2_ppm=0.25)
    expected = ((image[:, 1:2] - 0.25).clamp(min=0)) * image[:, 2:3]
    torch.testing.assert_close(removal(image), expected)
    method = PredictedR2Prime(r2prime=removal, method=ChiSeparation(iterations=20)).eval()
    replaced = torch.cat([image[:, :1], expected, image[:, 2:]], dim=1)
    torch.testing.assert_close(method(image), ChiSeparation(iterations=20)(replaced))
    with pytest.raises(ValueError, match="r2_ppm must not be negative"):
        ConstantR2Removal(r2_ppm=-0.1)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "method", [ChiSeparation(), TVSusceptibility(), MEDISusceptibility()], ids=lambda m: type(m).__name__
)
def test_cpu_and_cuda_agree(image: torch.Tensor, method: torch.nn.Module) -> None:
    on_cpu = method(image, VOXEL_MM, B0)
    on_cuda = method(image.cuda(), VOXEL_MM.cuda(), B0.cuda()).cpu()
    assert (on_cuda - on_cpu).norm() < 1e-3 * on_cpu.norm()
