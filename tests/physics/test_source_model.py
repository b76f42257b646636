"""The source model and its proximal step against dense matrices and least squares; gradients, script and compile."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from custom_transforms.physics import (
    DipoleConvolution,
    SourceModel,
    combine_sources,
    proximal_step,
    separate_sources,
)

SHAPE = (4, 3, 2)
VOXELS = 24
MM = torch.tensor([[0.9, 1.2, 2.0]], dtype=torch.float64)
B0 = torch.nn.functional.normalize(torch.tensor([[0.2, -0.4, 0.9]], dtype=torch.float64))
WEIGHTS = torch.tensor([[1.2, 0.8]], dtype=torch.float64)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def relative_error(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).norm() / expected.norm())


def dense_dipole(padding: float) -> np.ndarray:
    units = torch.eye(VOXELS, dtype=torch.float64).reshape(1, VOXELS, *SHAPE)
    return DipoleConvolution(padding=padding)(units, MM, B0).reshape(VOXELS, VOXELS).T.numpy()


def dense_phi(padding: float, susceptibility_row: bool, weights: Tensor | None) -> np.ndarray:
    """The block matrix of the source model, written down from its equation."""
    identity, dipole = np.eye(VOXELS), dense_dipole(padding)
    w_para, w_dia = (1.0, 1.0) if weights is None else weights[0].tolist()
    blocks = [[dipole, -dipole], [w_para * identity, w_dia * identity]]
    return np.block(blocks + ([[identity, -identity]] if susceptibility_row else []))


def columns(function: Callable[[Tensor], Tensor], channels: int) -> np.ndarray:
    """The matrix of a linear map of (1, channels, X, Y, Z), column by column."""
    units = torch.eye(channels * VOXELS, dtype=torch.float64).reshape(-1, 1, channels, *SHAPE)
    return np.stack([function(unit).numpy().ravel() for unit in units], axis=1)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["one Dr", "two Dr"])
@pytest.mark.parametrize("row", [False, True], ids=["two rows", "three rows"])
@pytest.mark.parametrize("padding", [0, 0.5])
def test_forward_adjoint_and_normal_equal_the_dense_matrix(padding: float, row: bool, weights: Tensor | None):
    model = SourceModel(padding=padding, susceptibility_row=row)
    phi = dense_phi(padding, row, weights)
    np.testing.assert_allclose(columns(lambda x: model(x, MM, B0, weights), 2), phi, atol=1e-14)
    np.testing.assert_allclose(columns(lambda y: model.adjoint(y, MM, B0, weights), 3 if row else 2), phi.T, atol=1e-14)
    np.testing.assert_allclose(columns(lambda x: model.normal(x, MM, B0, weights), 2), phi.T @ phi, atol=1e-14)


@pytest.mark.parametrize("row", [False, True], ids=["two rows", "three rows"])
def test_adjoint_on_every_geometry(geometry, tolerance, row: bool):
    model = SourceModel(susceptibility_row=row)
    weights = WEIGHTS.repeat(geometry.batch, 1)
    where = (geometry.voxel_size_mm, geometry.b0_direction, weights)
    x, y = noise(geometry.batch, 2, *geometry.shape, seed=1), noise(geometry.batch, 2 + row, *geometry.shape, seed=2)
    forward, adjoint = model(x, *where), model.adjoint(y, *where)
    assert forward.shape == y.shape and adjoint.shape == x.shape
    left, right, scale = (forward * y).sum(), (x * adjoint).sum(), forward.norm() * y.norm()
    assert abs(left - right) < tolerance["float64"] * scale
    wrong_sign = model.adjoint(forward * torch.tensor([-1, 1, 1][: 2 + row]).reshape(1, -1, 1, 1, 1), *where)
    assert (forward**2).sum() - (x * wrong_sign).sum() > 0.01 * forward.norm() ** 2


@pytest.mark.parametrize("row", [False, True], ids=["two rows", "three rows"])
def test_eigenvalues_of_the_normal_operator(row: bool):
    model = SourceModel(padding=0, susceptibility_row=row)
    b0 = MM.new_tensor([[0, 0, 1]])
    found = np.linalg.eigvalsh(columns(lambda x: model.normal(x, MM, b0), 2))
    impulse = torch.zeros(1, 1, *SHAPE, dtype=torch.float64)
    impulse[..., 0, 0, 0] = 1
    spectrum = np.fft.fftn(DipoleConvolution(padding=0)(impulse, MM, b0).numpy()[0, 0]).real.ravel()
    on_q = 2 * (spectrum**2 + row)
    np.testing.assert_allclose(found, np.sort(np.concatenate([on_q, np.full(VOXELS, 2.0)])), atol=1e-13)
    if row:
        assert found.max() == pytest.approx(26 / 9) and found.min() > 2 - 1e-12
    else:
        assert found.min() == pytest.approx(0, abs=1e-13)  # the mean of q is not seen: ill-posed


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["one Dr", "two Dr"])
def test_combine_and_separate_are_inverse(weights: Tensor | None, tolerance):
    chi = noise(1, 2, *SHAPE)
    q, r2prime = combine_sources(chi, weights)
    assert relative_error(separate_sources(q, r2prime, weights), chi) < tolerance["float64"]
    again = combine_sources(separate_sources(q, r2prime, weights), weights)
    assert (
        relative_error(again[0], q) < tolerance["float64"] and relative_error(again[1], r2prime) < tolerance["float64"]
    )
    other = torch.tensor([[0.8, 1.2]], dtype=torch.float64)
    assert relative_error(separate_sources(q, r2prime, other), chi) > 0.05


def test_sources_by_hand():
    chi = torch.tensor([0.05, 0.02], dtype=torch.float64).reshape(1, 2, 1, 1, 1)
    assert [x.item() for x in combine_sources(chi)] == pytest.approx([0.03, 0.07])
    assert [x.item() for x in combine_sources(chi, WEIGHTS)] == pytest.approx([0.03, 1.2 * 0.05 + 0.8 * 0.02])


def test_weights_belong_to_their_sample(tolerance):
    chi, weights = noise(2, 2, *SHAPE), torch.tensor([[1.2, 0.8], [0.9, 1.1]], dtype=torch.float64)
    single = torch.cat([SourceModel()(chi[i : i + 1], None, None, weights[i : i + 1]) for i in range(2)])
    assert relative_error(SourceModel()(chi, None, None, weights), single) < tolerance["float64"]


def dense_proximal(q: Tensor, r2prime: Tensor, measured: Tensor, step: tuple[float, float], w: Tensor) -> Tensor:
    """Minimise |f-Dq|^2 + lambda |q-q0|^2 + mu |r-R|^2 + (1-mu) |R-R0|^2 over both sources, all in one dense system."""
    identity, dipole, (regularisation, mu) = np.eye(VOXELS), dense_dipole(0), step
    to_q, to_r = np.hstack([identity, -identity]), np.hstack([float(w[0, 0]) * identity, float(w[0, 1]) * identity])
    field, r2prime_measured = measured[0, 0].numpy().ravel(), measured[0, 1].numpy().ravel()
    scales = [1.0, np.sqrt(regularisation), np.sqrt(mu), np.sqrt(1 - mu)]
    rights = [field, q.numpy().ravel(), r2prime_measured, r2prime.numpy().ravel()]
    rows = [s * a for s, a in zip(scales, [dipole @ to_q, to_q, to_r, to_r], strict=True)]
    right = [s * a for s, a in zip(scales, rights, strict=True)]
    solution = np.linalg.lstsq(np.concatenate(rows), np.concatenate(right), rcond=None)[0]
    return torch.from_numpy(solution).reshape(1, 2, *SHAPE)


@pytest.mark.parametrize("weights", [torch.ones_like(WEIGHTS), WEIGHTS], ids=["one Dr", "two Dr"])
@pytest.mark.parametrize("regularisation", [1e-2, 1.0])
def test_proximal_step_is_the_least_squares_solution(regularisation: float, weights: Tensor):
    chi, measured = noise(1, 2, *SHAPE), noise(1, 3, *SHAPE, seed=1)
    measured[:, 2] = 1
    dipole, mu = DipoleConvolution(padding=0), 0.3
    kernel, grid = dipole.kernel(chi, MM, B0), dipole.grid(chi)
    q, r2prime = combine_sources(chi, weights)
    expected = dense_proximal(q, r2prime, measured, (regularisation, mu), weights)

    def step(sign: int) -> Tensor:
        new = proximal_step(q, r2prime, measured, sign * kernel, grid, number(regularisation), number(mu))
        return separate_sources(*new, weights)

    assert relative_error(step(1), expected) < 1e-11
    assert relative_error(step(-1), expected) > 0.05


@pytest.mark.parametrize("binary", [True, False], ids=["mask", "weights in [0, 1]"])
@pytest.mark.parametrize("regularisation", [1e-3, 0.1])
def test_proximal_step_with_a_mask_descends_for_50_iterations(geometry, regularisation: float, binary: bool):
    q, field, mask = (noise(geometry.batch, 1, *geometry.shape, seed=seed) for seed in (1, 2, 3))
    mask = (mask > 0).double() if binary else mask.sigmoid()
    dipole, where = DipoleConvolution(padding=0), (geometry.voxel_size_mm, geometry.b0_direction)
    kernel, grid = dipole.kernel(q, *where), dipole.grid(q)
    measured = torch.cat([field, torch.zeros_like(field), mask], dim=1)

    def misfit(x: Tensor) -> float:
        return float((mask * (field - dipole(x, *where)) ** 2).sum())

    away, _ = proximal_step(q, q, measured, -kernel, grid, number(regularisation), number(0.5))
    assert misfit(away) > misfit(q)
    rounding = 1e-24 * float((field**2).sum())
    for _ in range(50):
        new, _ = proximal_step(q, q, measured, kernel, grid, number(regularisation), number(0.5))
        before, after = misfit(q), misfit(new) + regularisation * float(((new - q) ** 2).sum())
        assert after <= before * (1 + 1e-12) + rounding
        q = new


def test_gradients():
    dipole, model = DipoleConvolution(padding=0.5), SourceModel(susceptibility_row=True)
    q, r2prime, chi, measured = noise(1, 1, 2, 3, 2), noise(1, 1, 2, 3, 2), noise(1, 2, 2, 3, 2), noise(1, 3, 2, 3, 2)
    kernel, grid = dipole.kernel(q, MM, B0), dipole.grid(q)
    assert torch.autograd.gradcheck(lambda x: model(x, MM, B0, WEIGHTS), chi.requires_grad_())
    assert torch.autograd.gradcheck(lambda x: model.normal(x, MM, B0, WEIGHTS), chi)
    inputs = [x.requires_grad_() for x in (q, r2prime, measured, number(0.1), number(0.4))]
    assert torch.autograd.gradcheck(
        lambda q, r, y, regularisation, mu: proximal_step(q, r, y, kernel, grid, regularisation, mu), inputs
    )


def test_autocast_and_half_precision_leave_float32_physics():
    chi, measured = noise(1, 2, 6, 7, 8, dtype=torch.float32), noise(1, 3, 6, 7, 8, dtype=torch.float32)
    model, dipole = SourceModel(), DipoleConvolution()
    q, r2prime = combine_sources(chi)
    options = (measured, dipole.kernel(chi, None, None), dipole.grid(chi), torch.tensor(0.1), torch.tensor(0.4))
    expected = [model(chi), model.normal(chi), *proximal_step(q, r2prime, *options)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = [model(chi), model.normal(chi), *proximal_step(q, r2prime, *options)]
    assert all(a.dtype == torch.float32 and a.equal(b) for a, b in zip(found, expected, strict=True))
    new_q, _ = proximal_step(q.bfloat16(), r2prime.bfloat16(), *options)  # a network's output under autocast
    assert new_q.dtype == torch.float32 and relative_error(new_q, expected[2]) < 0.01


@pytest.mark.parametrize("padding", [0, 0.5, 1])
def test_script(padding: float):
    model = SourceModel(padding=padding, susceptibility_row=True)
    scripted = torch.jit.script(model)
    for arguments in [(noise(1, 2, 5, 6, 8),), (noise(1, 2, 4, 4, 3, dtype=torch.float32), MM, B0, WEIGHTS)]:
        torch.testing.assert_close(scripted(*arguments), model(*arguments), rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compile(tolerance):
    model = SourceModel(susceptibility_row=True)
    chi = noise(1, 2, 5, 6, 8, dtype=torch.float32).requires_grad_()
    expected = model(chi, MM, B0, WEIGHTS)
    (expected_gradient,) = torch.autograd.grad((expected**2).sum(), chi)
    found = torch.compile(copy.deepcopy(model))(chi, MM, B0, WEIGHTS)
    (gradient,) = torch.autograd.grad((found**2).sum(), chi)
    assert relative_error(found, expected) < tolerance["float32"]
    assert relative_error(gradient, expected_gradient) < tolerance["float32"]


def test_determinism_and_nothing_saved():
    chi, model = noise(1, 2, 6, 7, 8, dtype=torch.float32), SourceModel()
    assert model(chi).equal(model(chi.clone())) and model.normal(chi).equal(SourceModel().normal(chi))
    assert model.state_dict() == {}


@pytest.mark.gpu
def test_cpu_and_cuda_agree(tolerance):
    model, chi = SourceModel(susceptibility_row=True), noise(1, 2, 6, 7, 8, dtype=torch.float32)
    assert relative_error(model(chi.cuda(), MM, B0, WEIGHTS).cpu(), model(chi, MM, B0, WEIGHTS)) < tolerance["float32"]
    normal = model.normal(chi.cuda(), MM, B0, WEIGHTS).cpu()
    assert relative_error(normal, model.normal(chi, MM, B0, WEIGHTS)) < tolerance["float32"]
