"""Projection onto dipole fields: against a dense solution, on analytic backgrounds, and where data are missing."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from custom_transforms.physics import DipoleConvolution, sphere_field
from custom_transforms.preprocessing import pdf
from custom_transforms.preprocessing.pdf import margin_box, project_onto_dipole_fields

CASES = {
    "isotropic": ((44, 46, 42), (2.5, 2.5, 2.5), (0.0, 0.0, 1.0)),
    "oblique": ((45, 43, 41), (2.5, 2.5, 2.5), (0.2, -0.4, 0.9)),
    "anisotropic": ((54, 52, 34), (2.0, 2.0, 3.5), (0.3, 0.1, 0.9)),
}


class Ball:
    """A round brain of 42 mm with random sources, and what is around it."""

    def __init__(self, shape: tuple[int, ...], voxel_size: tuple[float, ...], b0: tuple[float, ...]) -> None:
        self.shape = shape
        self.voxel_size_mm = torch.tensor(voxel_size)
        self.b0_direction = torch.nn.functional.normalize(torch.tensor(b0), dim=0)
        axes = [(torch.arange(n) - n / 2) * v for n, v in zip(shape, voxel_size, strict=True)]
        self.position_mm = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        self.mask = (self.position_mm.norm(dim=0) < 42).float()[None]
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(1)).numpy()
        chi = torch.from_numpy(ndimage.gaussian_filter(noise, 5.0 / np.array(voxel_size)))[None] * self.mask
        self.chi_ppm = 0.03 * chi / chi[self.mask > 0].std()
        self.local = self.mask * self.dipole(self.chi_ppm)
        self.background = self.source((5.0, 50.0, -38.0), 12.0, 9.4) + self.source((-48.0, 0.0, 30.0), 10.0, -2.0)
        depth = ndimage.distance_transform_edt(self.mask[0].numpy(), sampling=voxel_size)
        self.depth_mm = torch.from_numpy(depth)[None]
        self.deep = self.depth_mm > 3

    def dipole(self, chi: Tensor) -> Tensor:
        return DipoleConvolution(padding=0.5)(chi[None], self.voxel_size_mm[None], self.b0_direction[None])[0]

    def source(self, centre_mm: tuple[float, ...], radius_mm: float, chi_ppm: float) -> Tensor:
        centre = torch.tensor(centre_mm) / self.voxel_size_mm + torch.tensor(self.shape) / 2
        geometry = {"centre_voxel": centre, "radius_mm": radius_mm, "chi_ppm": chi_ppm}
        return sphere_field(self.shape, self.voxel_size_mm, self.b0_direction, **geometry)[0][None].float()

    def remove(self, field: Tensor, **options) -> Tensor:
        geometry = (self.voxel_size_mm, options.pop("b0_direction", self.b0_direction))
        return project_onto_dipole_fields(field, self.mask, *geometry, **options)


@pytest.fixture(params=CASES)
def ball(request: pytest.FixtureRequest) -> Ball:
    return Ball(*CASES[request.param])


@pytest.fixture(scope="module")
def oblique() -> Ball:
    return Ball(*CASES["oblique"])


def dense_local_field(
    field: Tensor,
    mask: Tensor,
    weight: Tensor,
    geometry: tuple[Tensor, Tensor],
    interior: float,
    rate: Tensor | None = None,
):
    """The minimiser at the head of the module by a dense solver in float64, on the same periodic grid."""
    box = margin_box(mask[None], geometry[0], 10.0)
    n = int(np.prod(box.grid))
    units = torch.eye(n, dtype=torch.float64).reshape(1, n, *box.grid)
    d = DipoleConvolution(padding=0)(units, geometry[0][None].double(), geometry[1][None].double())
    d = d.reshape(n, n).T.numpy()
    f, brain, w = (box.cut(x[None])[0, 0].double().flatten().numpy() for x in (field * mask, mask, weight * mask))
    r = np.ones(n) if rate is None else box.cut((rate * mask)[None])[0, 0].double().flatten().numpy()
    r = np.clip(r / np.quantile(r[brain > 0], 0.5, method="lower"), 0, 4)
    s = np.where(brain > 0, interior * np.maximum(r, 0.1), 1.0)
    index = np.indices(box.grid).reshape(3, n) * geometry[0].double().numpy()[:, None]
    basis = np.stack([np.ones(n), (index**2).sum(0) - 2 * (index @ w**2 / (w**2).sum()) @ index], axis=1)
    if rate is not None:
        basis = np.concatenate([basis, np.stack([d @ (brain * r), d @ (brain * r**2)], axis=1)], axis=1)
    rows = np.concatenate([w[:, None] * d * s / pdf._SIGMA, w[:, None] * basis / pdf._SIGMA], axis=1)
    prior = np.concatenate([np.eye(n), np.zeros((n, basis.shape[1]))], axis=1)
    right = np.concatenate([w * f / pdf._SIGMA, np.zeros(n)])
    solution = np.linalg.lstsq(np.concatenate([rows, prior]), right)[0]
    chi, c = s * solution[:n], solution[n:]
    own = d @ (chi * brain) + basis[:, 2:] @ c[2:]
    local = np.where(w > 0, f - d @ (chi * (1 - brain)) - basis[:, :2] @ c[:2], own) * brain
    return box.restore(torch.from_numpy(local).reshape(1, 1, *box.grid))[0]


def test_agrees_with_the_dense_solution():
    voxel_size_mm = torch.tensor([4.0, 5.0, 6.0])
    direction = torch.nn.functional.normalize(torch.tensor([0.2, -0.4, 0.9]), dim=0)
    generator = torch.Generator().manual_seed(2)
    mask = torch.zeros(1, 9, 8, 7)
    mask[:, 1:7, 2:7, 1:6] = 1
    weight = torch.rand(mask.shape, generator=generator)
    weight[:, 3, 3, 3] = 0
    field = 0.1 * torch.randn(mask.shape, generator=generator)
    expected = dense_local_field(field, mask, weight, (voxel_size_mm, direction), 0.1)
    options = {"weight": weight, "interior": 0.1, "tolerance": 1e-10, "iterations": 2000}
    found = project_onto_dipole_fields(field.double(), mask, voxel_size_mm, direction, **options)
    assert (found - expected).norm() < 1e-6 * expected.norm()
    other = project_onto_dipole_fields(field.double(), mask, voxel_size_mm, direction, **options | {"interior": 0.3})
    assert (other - expected).norm() > 0.02 * expected.norm()
    rate = 50 * torch.rand(mask.shape, generator=generator) * mask
    expected = dense_local_field(field, mask, weight, (voxel_size_mm, direction), 0.1, rate)
    for factor in (1.0, 137.0):  # the scale of the rate does not matter
        own = {"rate": factor * rate, **options}
        found = project_onto_dipole_fields(field.double(), mask, voxel_size_mm, direction, **own)
        assert (found - expected).norm() < 1e-6 * expected.norm()


@pytest.fixture
def paramagnetic(ball: Ball) -> dict[str, Tensor]:
    """Sources that are mostly paramagnetic and absent in fluid, which makes their mean matter."""
    fluid = (ball.position_mm / torch.tensor([30.0, 14.0, 10.0])[:, None, None, None]).norm(dim=0)[None] < 1
    share = torch.where(fluid, 0.05, 1 + 0.4 * ball.chi_ppm / 0.03).clamp(min=0.05) * ball.mask
    chi = 0.02 * share + 0.3 * torch.where(fluid, 0.0, ball.chi_ppm)
    return {"rate": 6 * share, "local": ball.mask * ball.dipole(chi)}


def error_of(local: Tensor, truth: Tensor, ball: Ball) -> float:
    return float((local - truth)[ball.deep].std() / truth[ball.deep].std())


def test_rate_says_what_is_the_brains_own(ball: Ball, paramagnetic: dict[str, Tensor]):
    field, rate = paramagnetic["local"] + ball.background, paramagnetic["rate"]
    blind, told, misled = (ball.remove(field, rate=r, iterations=40) for r in (None, rate, rate.flip(1)))
    errors = [error_of(local, paramagnetic["local"], ball) for local in (blind, told, misled)]
    assert errors[1] < 0.7 * errors[0]
    assert errors[2] > 1.3 * errors[1]


def test_rate_with_holes_is_used_and_one_without_values_is_not(oblique: Ball):
    field = oblique.local + oblique.background
    rate = torch.where(torch.arange(oblique.shape[2]) % 7 == 0, torch.nan, 5.0 * torch.ones_like(field))
    assert oblique.remove(field, rate=rate, iterations=5).isfinite().all()
    for empty in (torch.zeros_like(field), torch.full_like(field, torch.nan)):
        even = oblique.remove(field, rate=torch.ones_like(field), iterations=5)
        assert torch.equal(oblique.remove(field, rate=empty, iterations=5), even)


def test_nothing_is_left_of_a_background_alone(ball: Ball):
    local = ball.remove(ball.background)
    assert local[ball.deep].std() < 0.02 * ball.background[ball.deep].std()
    assert local[ball.mask == 0].abs().max() == 0


def test_wrong_direction_of_the_main_field_leaves_more(oblique: Ball):
    wrong = oblique.remove(oblique.local, b0_direction=torch.tensor([1.0, 0.0, 0.0]))
    right = oblique.remove(oblique.local)
    errors = [float((local - oblique.local)[oblique.deep].std()) for local in (right, wrong)]
    assert errors[1] > 1.1 * errors[0]


def test_local_field_stays_better_than_without_sources_in_the_brain(ball: Ball):
    field = ball.local + ball.background
    error = {x: (ball.remove(field, interior=x) - ball.local)[ball.deep].std() for x in (0.0, 0.03)}
    truth = ball.local[ball.deep].std()
    assert error[0.03] < 0.5 * truth
    assert error[0.03] < 0.9 * error[0.0]


def test_constant_and_curvature_are_no_local_field(oblique: Ball):
    curvature = 5e-5 * (oblique.position_mm**2).sum(0, keepdim=True) - 2.0
    clean, curved = oblique.remove(oblique.local), oblique.remove(oblique.local + curvature)
    assert curvature[oblique.deep].std() > oblique.local[oblique.deep].std()
    assert (clean - curved)[oblique.deep].std() < 0.02 * oblique.local[oblique.deep].std()


def test_voxels_without_weight_do_not_matter_and_are_predicted(oblique: Ball):
    field = oblique.local + oblique.background
    bad = (oblique.position_mm - torch.tensor([10.0, 0, 5])[:, None, None, None]).norm(dim=0)[None] < 6
    weight = (~bad).float()
    spoilt = torch.where(bad, torch.tensor(50.0), field)
    spoilt[bad & (torch.arange(oblique.shape[0]) % 2 == 0)[:, None, None]] = torch.nan
    found, clean = oblique.remove(spoilt, weight=weight), oblique.remove(field)
    assert found.isfinite().all()
    assert (found - clean)[oblique.deep & ~bad].std() < 0.1 * oblique.local[oblique.deep].std()
    assert found[bad].abs().max() < 3 * oblique.local[oblique.deep].abs().max()
    ignored = oblique.remove(torch.where(bad, torch.tensor(50.0), field))
    assert (ignored - clean)[oblique.deep & ~bad].std() > oblique.local[oblique.deep].std()


def test_not_finite_counts_as_not_measured(oblique: Ball):
    hole = torch.zeros_like(oblique.mask, dtype=torch.bool)
    hole[0, 20:23, 20:23, 20:23] = True
    expected = oblique.remove(oblique.local, weight=(~hole).float(), iterations=5)
    assert torch.equal(oblique.remove(torch.where(hole, torch.nan, oblique.local), iterations=5), expected)


def test_progress_and_stopping(oblique: Ball):
    residuals: list = []
    oblique.remove(oblique.local + oblique.background, tolerance=0.02, iterations=50, progress=residuals.append)
    assert [r.iteration for r in residuals] == list(range(1, len(residuals) + 1))
    assert residuals[-1].primal < 0.02 <= residuals[-2].primal and len(residuals) < 50


def test_mask_at_the_border_of_the_volume(oblique: Ball):
    cut = (slice(None), slice(6, None), slice(None), slice(0, 30))
    geometry = (oblique.voxel_size_mm, oblique.b0_direction)
    field = (oblique.local + oblique.background)[cut]
    local = project_onto_dipole_fields(field, oblique.mask[cut], *geometry)
    deep = oblique.deep[cut]
    deep[:, :2], deep[..., -2:] = False, False
    assert (local - oblique.local[cut])[deep].std() < 0.6 * oblique.local[cut][deep].std()


@pytest.mark.gpu
def test_same_on_the_gpu(oblique: Ball):
    field = oblique.local + oblique.background
    geometry = (oblique.voxel_size_mm.cuda(), oblique.b0_direction.cuda())
    found = project_onto_dipole_fields(field.cuda(), oblique.mask.cuda(), *geometry, iterations=20)
    assert found.is_cuda
    difference = found.cpu() - oblique.remove(field, iterations=20)
    assert difference.norm() < 1e-2 * oblique.local.norm()


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 8, 8, 9), {}, "must both be"),
        ((1, 8, 8, 8), {"interior": -1.0}, "must not be negative"),
        ((1, 8, 8, 8), {"weight": torch.zeros(1, 8, 8, 8)}, "weight is 0 everywhere"),
        ((1, 8, 8, 8), {"iterations": 0}, "must be positive"),
    ],
)
def test_input_that_cannot_be_used(shape: tuple[int, ...], options: dict, message: str):
    geometry = (torch.ones(3), torch.tensor([0.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match=message):
        project_onto_dipole_fields(torch.zeros(1, 8, 8, 8), torch.ones(shape), *geometry, **options)
