"""Steps on the tissue against their equations."""

import pytest
import torch
from torch import Tensor

from custom_transforms import keys
from custom_transforms.phantom.random_draws import Draws
from custom_transforms.phantom.steps import AnisotropicWhiteMatter, ExactMaps, Maps, MaskErrors, SplitRelaxivity
from custom_transforms.phantom.steps.tissue import depth_voxels


def test_fibres_lower_chi_dia_most_along_b0(tissue: Maps, draws: Draws) -> None:
    tissue[keys.CHI_PARA] = torch.zeros_like(tissue[keys.CHI_PARA])
    tissue[keys.CHI_DIA] = 0.04 * tissue[keys.MASK]
    a, b = 0.5, 0.9
    maps = AnisotropicWhiteMatter(susceptibility=(a, a), relaxivity=(b, b))(tissue, draws)
    inside = tissue[keys.MASK] > 0
    cos2 = (1 - maps[keys.CHI_DIA] / 0.04)[inside] / a
    assert cos2.min() > -1e-5 and cos2.max() < 1 + 1e-5 and cos2.std() > 0.1
    # the equation of the relaxivity, from the angle that chi_dia tells
    expected = 1 + b * (1.5 * (1 - cos2) - 1)
    torch.testing.assert_close(maps[keys.RELAXIVITY_DIA_FACTOR][inside], expected, rtol=1e-4, atol=1e-4)
    r2prime = ExactMaps()(maps, draws)[keys.R2PRIME]
    weight = tissue[keys.RELAXIVITY_WEIGHTS][:, 1].reshape(2, 1, 1, 1, 1)
    torch.testing.assert_close(
        r2prime[inside], (137 * weight * maps[keys.CHI_DIA])[inside] * expected, rtol=1e-3, atol=1e-4
    )


def test_only_myelin_is_anisotropic(tissue: Maps, draws: Draws) -> None:
    maps = AnisotropicWhiteMatter()(tissue, draws)
    iron = tissue[keys.CHI_PARA] >= tissue[keys.CHI_DIA]
    calcified = tissue[keys.CHI_DIA] >= 0.1
    for outside in (iron, calcified):
        assert torch.equal(maps[keys.CHI_DIA][outside], tissue[keys.CHI_DIA][outside])
        assert bool((maps[keys.RELAXIVITY_DIA_FACTOR][outside] == 1).all())
    assert torch.equal(maps[keys.CHI_PARA], tissue[keys.CHI_PARA])
    assert not torch.equal(maps[keys.CHI_DIA], tissue[keys.CHI_DIA])


def test_relaxivities_split_about_their_mean(tissue: Maps) -> None:
    many = Draws(400, torch.Generator().manual_seed(0), torch.device("cpu"))
    weights = SplitRelaxivity(largest=0.2)(tissue, many)[keys.RELAXIVITY_WEIGHTS]
    torch.testing.assert_close(weights.sum(dim=1), torch.full((400,), 2.0))
    assert 0.15 < float((weights - 1).abs().max()) <= 0.2
    assert 150 < int((weights[:, 0] == 1).sum()) < 250


@pytest.mark.parametrize("shift", [-2.0, 1.5])
def test_a_shifted_mask_of_a_ball_is_a_ball(ball: Tensor, draws: Draws, shift: float) -> None:
    ones = torch.ones_like(ball)
    maps = {
        keys.MASK: ball,
        keys.R2: 14 * ball,
        keys.PROTON_DENSITY: ball,
        keys.CHI_PARA: 0.1 * ball,
        keys.VOXEL_SIZE_MM: torch.ones(2, 3),
    }
    wrong = MaskErrors(shift_voxels=(shift, shift), roughness_voxels=(0.0, 0.0))(maps, draws)
    radius = (3 * wrong[keys.MASK].sum(dim=(1, 2, 3, 4)) / (4 * torch.pi)) ** (1 / 3)
    torch.testing.assert_close(radius, torch.full((2,), 15 + shift), rtol=0, atol=0.35)
    assert torch.equal(wrong[keys.CHI_PARA], maps[keys.CHI_PARA])
    gained = (wrong[keys.MASK] > ball).expand_as(ones)
    assert bool((wrong[keys.PROTON_DENSITY][gained] > 0).all()) and bool((wrong[keys.R2][gained] > 0).all())


def test_depth_grows_inwards_by_one_a_voxel() -> None:
    half = torch.zeros(1, 1, 64, 8, 8)
    half[:, :, 16:48] = 1
    depth = depth_voxels(half, torch.ones(1, 3))[0, 0, :, 4, 4]
    torch.testing.assert_close(depth[13:19], torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]), rtol=0, atol=0.05)


def test_sources_outside_a_small_mask_keep_their_field(tissue: Maps, draws: Draws) -> None:
    small = MaskErrors(shift_voxels=(-2.0, -2.0), roughness_voxels=(0.0, 0.0))(tissue, draws)
    found, expected = (ExactMaps()(maps, draws)[keys.LOCAL_FIELD] for maps in (small, tissue))
    inside = (small[keys.MASK] > 0) & (tissue[keys.MASK] > 0)
    assert int(inside.sum()) < int(tissue[keys.MASK].sum())
    torch.testing.assert_close(found[inside], expected[inside])
    assert not found[small[keys.MASK] == 0].any()


@pytest.mark.parametrize("step", [AnisotropicWhiteMatter, MaskErrors])
def test_none_of_them_at_probability_zero(step: type, tissue: Maps, draws: Draws) -> None:
    maps = step(probability=0.0)(tissue, draws)
    assert all(torch.equal(maps[name], tissue[name]) for name in tissue)
    with pytest.raises(ValueError, match="from 0 to 1"):
        step(probability=1.5)
