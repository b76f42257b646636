import math
import re

import pytest
import torch
from monai.data import MetaTensor

from custom_transforms import keys
from custom_transforms.phantom import AnatomicalBrain
from custom_transforms.preprocessing.relaxation import AlignSpinEchod, FitR2d, FitR2Stard, fit_r2star_arlo
from custom_transforms.registration import resample, rotation_deg
from custom_transforms.relaxometry import fit_r2star, r2star_sd

TIMES = (0.005, 0.011, 0.017, 0.023, 0.029)
SHAPE = (3, 4, 5)


def decay(rate_per_s, times=TIMES, shape=SHAPE):
    t = torch.tensor(times).reshape(-1, 1, 1, 1)
    return 700 * torch.exp(-t * rate_per_s) * torch.ones(1, *shape)


@pytest.mark.parametrize("rate", [2.0, 20.0, 60.0])
def test_arlo_finds_the_rate_up_to_the_error_of_simpsons_rule(rate):
    step = rate * (TIMES[1] - TIMES[0])
    found = fit_r2star_arlo(decay(rate), TIMES)
    assert found.shape == (1, *SHAPE)
    assert found.mean() == pytest.approx(rate, rel=1e-4 + step**4 / 90)


def test_arlo_takes_a_batch_and_voxels_without_signal():
    echoes = decay(20.0).repeat(2, 1, 1, 1, 1)
    echoes[1, ..., 0] = 0
    found = fit_r2star_arlo(echoes, TIMES)
    assert found.shape == (2, 1, *SHAPE)
    assert found[1, ..., 0].abs().max() == 0
    assert found[1, ..., 1:].mean() == pytest.approx(20, rel=1e-3)


def test_the_weighted_line_is_as_good_as_noise_allows_and_arlo_is_not_better():
    generator = torch.Generator().manual_seed(1)
    clean = decay(40.0, shape=(30, 30, 30)) / 700
    noisy = torch.complex(clean, torch.zeros_like(clean))
    noisy = (noisy + 0.01 * math.sqrt(2) * torch.randn(clean.shape, dtype=torch.complex64, generator=generator)).abs()
    bound = r2star_sd(torch.full((1, 1, 1, 1), 40.0), torch.ones(1, 1, 1, 1), TIMES, torch.tensor(0.01)).item()
    weighted, arlo = fit_r2star(noisy, TIMES)[0], fit_r2star_arlo(noisy, TIMES)
    assert weighted.std() < 1.03 * bound
    assert weighted.std() < arlo.std() < 1.15 * bound
    assert abs(arlo.mean() - 40) < 0.2


@pytest.mark.parametrize("times", [(0.005, 0.011), (0.005, 0.010, 0.017)])
def test_arlo_refuses_other_echo_times(times):
    with pytest.raises(ValueError, match="equal spacing"):
        fit_r2star_arlo(decay(20.0, times), times)


@pytest.mark.parametrize("method", ["weighted", "arlo"])
def test_r2star_keeps_the_grid(method):
    affine = torch.diag(torch.tensor([-2.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    data = {keys.MAGNITUDE: MetaTensor(decay(25.0), affine=affine), keys.ECHO_TIMES_S: TIMES}
    result = FitR2Stard(method=method)(data)
    assert torch.equal(result[keys.R2STAR].affine, affine)
    assert float(result[keys.R2STAR].mean()) == pytest.approx(25, rel=1e-3)
    assert keys.R2STAR not in data


def test_voxels_outside_the_mask_are_not_fitted():
    mask = torch.zeros(1, *SHAPE)
    mask[0, 1:, :2] = 1
    data = {keys.MAGNITUDE: decay(25.0), keys.ECHO_TIMES_S: TIMES, keys.MASK: mask}
    rate = FitR2Stard()(data)[keys.R2STAR]
    assert torch.allclose(rate, 25 * mask, atol=0.01)


def test_one_echo_has_no_r2star_and_says_so():
    result = FitR2Stard()({keys.MAGNITUDE: decay(20.0)[:1], keys.ECHO_TIMES_S: TIMES[:1]})
    assert keys.R2STAR not in result
    assert "one echo" in result[keys.NOTES][0]


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="weighted or arlo"):
        FitR2Stard(method="linear")


def test_r2_without_its_first_echo():
    echoes = decay(15.0, (0.01, 0.02, 0.03, 0.04))
    echoes[0] *= 0.8  # stimulated echoes brighten the later ones
    data = {keys.SPIN_ECHO: echoes, keys.SPIN_ECHO_TIMES_S: (0.01, 0.02, 0.03, 0.04)}
    assert float(FitR2d(skip_first_echo=True)(data)[keys.R2].mean()) == pytest.approx(15, rel=1e-3)
    assert float(FitR2d()(data)[keys.R2].mean()) < 14


@pytest.fixture(scope="module")
def head():
    """Give a small head, its gradient-echo and spin-echo magnitude, and the motion between both."""
    tissue = AnatomicalBrain(voxel_size_mm=(3, 3, 3), tilt_deg=15)(3)
    r2 = tissue[keys.R2]
    r2star = r2 + 137 * (tissue[keys.CHI_PARA] + tissue[keys.CHI_DIA])
    gre, spin = (tissue[keys.PROTON_DENSITY] * torch.exp(-t * rate) for t, rate in ((0.012, r2star), (0.04, r2)))
    angle = math.radians(5)
    motion = torch.eye(4, dtype=torch.float64)
    motion[:2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    motion[:3, 3] = torch.tensor([3.0, -2.0, 1.5])
    grid = tissue["affine"].clone()
    grid[:3, :3] *= 1.2
    moved = resample(spin[0], motion @ tissue["affine"], grid, (56, 66, 60))[None]
    return tissue, MetaTensor(gre, affine=tissue["affine"]), spin, MetaTensor(moved, affine=grid), motion


def test_spin_echoes_meet_the_gradient_echoes(head):
    tissue, gre, spin, moved, motion = head
    inside = tissue[keys.MASK] > 0
    data = {keys.MAGNITUDE: gre, keys.SPIN_ECHO: moved, keys.MASK: tissue[keys.MASK]}

    def error(register):
        result = AlignSpinEchod(register=register)(data)
        assert result[keys.SPIN_ECHO].shape == gre.shape
        return float((result[keys.SPIN_ECHO].as_tensor() - spin)[inside].square().mean().sqrt()), result

    registered, result = error(True)
    assert registered < 0.5 * error(False)[0]
    angle, shift = re.search(r"moved by ([\d.]+) degrees and ([\d.]+) mm", result[keys.NOTES][0]).groups()
    assert float(angle) == pytest.approx(rotation_deg(motion), abs=0.7)
    middle = tissue["affine"] @ torch.tensor([*(n / 2 for n in gre.shape[1:]), 1.0], dtype=torch.float64)
    assert float(shift) == pytest.approx(float((motion @ middle - middle)[:3].norm()), abs=1)


def test_a_head_that_lies_still_is_not_interpolated(head):
    tissue, gre, spin, _, _ = head
    echoes = MetaTensor(spin, affine=gre.affine)
    result = AlignSpinEchod()({keys.MAGNITUDE: gre, keys.SPIN_ECHO: echoes, keys.MASK: tissue[keys.MASK]})
    assert torch.equal(result[keys.SPIN_ECHO].as_tensor(), spin)
    assert not result.get(keys.NOTES)


def test_spin_echoes_of_two_slices_on_another_grid_are_refused():
    """Cubic splines of ITK read beyond the memory of two voxels."""
    affine = torch.eye(4, dtype=torch.float64)
    moved = affine.clone()
    moved[0, 3] = 2.0
    gre, spin = MetaTensor(torch.rand(1, 6, 6, 6), affine=affine), MetaTensor(torch.rand(2, 6, 6, 2), affine=moved)
    data = {keys.MAGNITUDE: gre, keys.SPIN_ECHO: spin, keys.MASK: torch.ones(1, 6, 6, 6)}
    with pytest.raises(ValueError, match="too thin to be interpolated"):
        AlignSpinEchod(register=False)(data)
    spin = MetaTensor(torch.rand(2, 6, 6, 3), affine=moved)
    assert AlignSpinEchod(register=False)({**data, keys.SPIN_ECHO: spin})[keys.SPIN_ECHO].shape == (2, 6, 6, 6)
