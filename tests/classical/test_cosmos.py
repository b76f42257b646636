"""COSMOS against dense least squares and a susceptibility that is known; the sources against the conditions of NNLS."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor
from torch.nn.functional import normalize

from custom_transforms.classical import cosmos, non_negative_sources
from custom_transforms.classical.cosmos import LARGEST_NOISE_GAIN, noise_gain
from custom_transforms.phantom.warp import rotation_matrix
from custom_transforms.physics import DipoleConvolution, combine_sources, separate_sources

VOXEL_MM = torch.tensor([[0.9, 1.2, 2.0]], dtype=torch.float64)
DIRECTIONS = [[0.0, 0.0, 1.0], [0.5, 0.1, 0.9], [-0.3, 0.5, 0.9], [-0.2, -0.4, 0.9]]
B0 = normalize(torch.tensor([DIRECTIONS], dtype=torch.float64), dim=-1)
AXIS, OTHER = normalize(torch.tensor([[0.2, -0.1, 0.9], [0.3, 1.0, 0.2]], dtype=torch.float64), dim=-1)
WEIGHTS = torch.tensor([[1.3, 0.7]], dtype=torch.float64)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def demean(q: Tensor, mask: Tensor) -> Tensor:
    return mask * (q - (mask * q).sum() / mask.sum())


def ball(*shape: int) -> Tensor:
    axes = [torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape]
    return (sum(x**2 for x in torch.meshgrid(*axes, indexing="ij")) < 1).double()[None, None]


def fields_of(chi: Tensor, voxel_mm: Tensor, directions: Tensor, *, padding: float = 0.5) -> Tensor:
    return torch.cat([DipoleConvolution(padding=padding)(chi, voxel_mm, b) for b in directions.unbind(dim=1)], dim=1)


def test_is_the_least_squares_solution_in_the_mask() -> None:
    shape = (5, 4, 6)
    mask, fields = (noise(1, 1, *shape, seed=1) > -1).double(), 0.1 * noise(1, 4, *shape)
    units = torch.eye(120, dtype=torch.float64).reshape(120, 1, *shape) * mask
    rows = mask * fields_of(units, VOXEL_MM.expand(120, 3), B0.expand(120, 4, 3))
    dense = np.linalg.lstsq(rows.reshape(120, -1).T.numpy(), (mask * fields).numpy().ravel(), rcond=None)[0]
    expected = demean(torch.from_numpy(dense).reshape(mask.shape), mask)
    q = cosmos(fields, mask, VOXEL_MM, B0, tolerance=1e-12)
    assert (q - expected).norm() < 1e-8 * expected.norm()
    assert (cosmos(-fields, mask, VOXEL_MM, B0, tolerance=1e-12) - expected).norm() > expected.norm()


def test_recovers_a_known_susceptibility_and_needs_the_directions() -> None:
    mask = ball(14, 15, 12)
    chi = demean(0.1 * noise(1, 1, 14, 15, 12), mask)
    fields = mask * fields_of(chi, VOXEL_MM, B0)
    assert (cosmos(fields, mask, VOXEL_MM, B0) - chi).norm() < 1e-3 * chi.norm()
    assert (cosmos(fields, mask, VOXEL_MM, B0.flip(1)) - chi).norm() > 0.5 * chi.norm()


def cone(angle_deg: float, sides_deg: Sequence[float] = (0.0, 120.0, 240.0), axis: Tensor = AXIS) -> Tensor:
    """Directions (1, N, 3) that are turned from an axis by an angle, to several sides."""
    across = normalize(torch.linalg.cross(axis, OTHER), dim=0)
    turned = rotation_matrix(across, angle_deg) @ axis
    return torch.stack([rotation_matrix(axis, side) @ turned for side in sides_deg])[None]


@pytest.mark.parametrize("sides_deg", [(0.0, 60.0), (0.0, 90.0), (0.0, 180.0)])
@pytest.mark.parametrize("padding", [0.5, 0.0])
def test_three_directions_20_degrees_apart_return_the_truth(
    geometry, sides_deg: tuple[float, float], padding: float
) -> None:
    """In the field of the whole grid without noise, in free space and periodic."""
    axis = geometry.b0_direction[0]
    directions = torch.cat([axis[None, None], cone(20.0, sides_deg, axis)], dim=1).expand(geometry.batch, 3, 3)
    chi, mask = noise(geometry.batch, 1, *geometry.shape), torch.ones(geometry.batch, 1, *geometry.shape)
    fields = fields_of(chi, geometry.voxel_size_mm, directions, padding=padding)
    truth = chi - chi.mean(dim=(2, 3, 4), keepdim=True)
    found = cosmos(fields, mask, geometry.voxel_size_mm, directions, padding=padding)
    assert (found - truth).norm() < 1e-3 * truth.norm()
    assert (cosmos(fields, mask, geometry.voxel_size_mm, directions.flip(1)) - truth).norm() > 0.1 * truth.norm()


def test_without_mask_and_padding_it_is_the_published_division() -> None:
    """In the full spectrum, on an odd grid, which has no Nyquist planes; fields that no susceptibility makes."""
    shape = (7, 9, 5)
    fields, mask = noise(1, 4, *shape), torch.ones(1, 1, *shape)
    k = np.meshgrid(*(np.fft.fftfreq(n, d) for n, d in zip(shape, VOXEL_MM[0].tolist(), strict=True)), indexing="ij")
    length = np.sqrt(sum(axis**2 for axis in k))
    length[0, 0, 0] = np.inf
    dipoles = [1 / 3 - sum(b * axis for b, axis in zip(d, k, strict=True)) ** 2 / length**2 for d in B0[0].tolist()]
    above = sum(d * np.fft.fftn(f) for d, f in zip(dipoles, fields[0].numpy(), strict=True))
    spectrum = above / sum(d**2 for d in dipoles)
    spectrum[0, 0, 0] = 0
    expected = torch.from_numpy(np.fft.ifftn(spectrum).real)
    q = cosmos(fields, mask, VOXEL_MM, B0, padding=0.0, tolerance=1e-10)[0, 0]
    assert (q - expected).norm() < 1e-8 * expected.norm()


@pytest.mark.parametrize("angle_deg", [6.0, 20.0])
def test_noise_grows_as_stated(angle_deg: float) -> None:
    directions, mask = cone(angle_deg), torch.ones(1, 1, 25, 25, 25)
    q = cosmos(noise(1, 3, 25, 25, 25), mask, torch.ones(1, 3), directions, padding=0.0, tolerance=1e-8)
    assert float(q.std()) * 3**0.5 == pytest.approx(float(noise_gain(directions)), rel=0.1)
    assert float(noise_gain(cone(angle_deg / 2))) > 1.2 * float(noise_gain(directions))


def test_directions_that_meet_in_single_lines_are_taken() -> None:
    orthogonal, parallel = torch.eye(3)[None], torch.eye(3)[:1].expand(1, 3, 3)
    assert float(noise_gain(orthogonal)) < LARGEST_NOISE_GAIN < 100 < float(noise_gain(parallel))
    assert bool(cosmos(noise(1, 3, 6, 5, 4), torch.ones(1, 1, 6, 5, 4), VOXEL_MM, orthogonal).isfinite().all())


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nearly_parallel_directions_are_refused(sign: float) -> None:
    """B0 and -B0 make the same dipole: a head that stands upside down counts for nothing."""
    fields, mask = noise(1, 3, 6, 5, 4), torch.ones(1, 1, 6, 5, 4)
    turned = torch.tensor([1.0, sign, 1.0])[:, None]
    with pytest.raises(ValueError, match=r"3 head orientations are nearly parallel: the largest angle .* 3\.5 degrees"):
        cosmos(fields, mask, VOXEL_MM, turned * cone(2.0))
    assert cosmos(fields, mask, VOXEL_MM, turned * cone(6.0)).any()


def test_tells_its_progress_and_stops() -> None:
    steps: list[tuple[int, float]] = []
    mask = ball(14, 15, 12)
    fields = mask * fields_of(noise(1, 1, 14, 15, 12), VOXEL_MM, B0)
    q = cosmos(fields, mask, VOXEL_MM, B0, progress=lambda *step: steps.append(step))
    assert [number for number, _ in steps] == list(range(1, len(steps) + 1)) and 5 < len(steps) < 50
    assert steps[-1][1] <= 1e-5 < steps[-2][1]
    short = cosmos(fields, mask, VOXEL_MM, B0, iterations=len(steps) - 1)
    assert 0 < (short - q).norm() < 1e-3 * q.norm()


def test_batch_equals_singles() -> None:
    fields, mask = noise(2, 4, 6, 5, 4), ball(6, 5, 4).expand(2, 1, 6, 5, 4)
    voxels, directions = torch.cat([VOXEL_MM, VOXEL_MM / 2]), torch.cat([B0, B0[..., [1, 2, 0]]])
    both = cosmos(fields, mask, voxels, directions)
    for i in range(2):
        one = slice(i, i + 1)
        torch.testing.assert_close(both[one], cosmos(fields[one], mask[one], voxels[one], directions[one]))


def test_no_field_gives_no_susceptibility() -> None:
    fields = torch.zeros(1, 3, 6, 5, 4)
    assert not cosmos(fields, torch.ones(1, 1, 6, 5, 4), VOXEL_MM, B0[:, :3]).any()


@pytest.mark.parametrize(
    ("fields", "directions", "words"),
    [((1, 2, 4, 4, 4), B0[:, :2], "3 or more head orientations, got 2"), ((1, 3, 4, 4, 4), B0, "one direction for")],
)
def test_wrong_orientations(fields: tuple[int, ...], directions: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cosmos(noise(*fields), torch.ones(1, 1, 4, 4, 4, dtype=torch.float64), VOXEL_MM, directions)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_sources_fulfil_the_conditions_of_the_minimum(weights: Tensor | None) -> None:
    """Karush-Kuhn-Tucker, which are sufficient as the problem is convex: no gradient where positive, none down at 0."""
    q, r2prime, mask = noise(1, 1, 9, 9, 9), noise(1, 1, 9, 9, 9, seed=1), torch.ones(1, 1, 9, 9, 9)
    chi = non_negative_sources(q, r2prime, mask, weights)
    w = (torch.ones(1, 2) if weights is None else weights)[:, :, None, None, None]
    found_q, found_r = combine_sources(chi, weights)
    sign = torch.tensor([1.0, -1.0]).reshape(1, 2, 1, 1, 1)
    gradient = sign * (found_q - q) + w * (found_r - r2prime)
    assert bool((chi >= 0).all())
    assert bool((gradient[chi > 0].abs() < 1e-12).all())
    assert bool((gradient[chi == 0] > -1e-12).all())
    assert all(bool(((chi > 0).sum(dim=1) == n).any()) for n in (0, 1, 2))


def test_sources_equal_those_of_scipy_and_not_clamped_ones() -> None:
    q, r2prime = noise(1, 1, 6, 6, 6), noise(1, 1, 6, 6, 6, seed=1)
    chi = non_negative_sources(q, r2prime, torch.ones(1, 1, 6, 6, 6), WEIGHTS)
    matrix = np.stack([[1.0, -1.0], WEIGHTS[0].numpy()])
    right = torch.cat([q, r2prime], dim=1).reshape(2, -1).T.numpy()
    expected = np.stack([nnls(matrix, row)[0] for row in right], axis=1).reshape(chi.shape)
    np.testing.assert_allclose(chi.numpy(), expected, atol=1e-12)
    assert not np.allclose(separate_sources(q, r2prime, WEIGHTS).clamp(min=0).numpy(), expected, atol=0.01)


def test_single_relaxivity_is_the_clamped_closed_form() -> None:
    q, r2prime, mask = noise(2, 1, 6, 5, 4), noise(2, 1, 6, 5, 4, seed=1), ball(6, 5, 4)
    torch.testing.assert_close(non_negative_sources(q, r2prime, mask), mask * separate_sources(q, r2prime).clamp(min=0))
