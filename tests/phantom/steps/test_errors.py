"""Errors of a measurement against their equations."""

import pytest
import torch

from custom_transforms import keys
from custom_transforms.phantom.random_draws import Draws
from custom_transforms.phantom.steps import Maps, MotionBlur, R2Error, RelaxivityMismatch, ResidualBackground
from custom_transforms.phantom.steps.errors import mean_of_shifted
from custom_transforms.physics import combine_sources


def sources(maps: Maps) -> torch.Tensor:
    return torch.cat([maps[keys.CHI_PARA], maps[keys.CHI_DIA]], dim=1)


def test_a_wrong_relaxivity_scales_the_sum_and_keeps_the_total(exact: Maps, draws: Draws) -> None:
    maps = RelaxivityMismatch(largest=0.25)(exact, draws)
    inside = (exact[keys.R2PRIME] > 1).squeeze(1)
    factor = torch.stack(
        [(maps[keys.R2PRIME] / exact[keys.R2PRIME].clamp(min=1e-6))[i, 0][inside[i]].median() for i in range(2)]
    )
    assert bool(((factor > 0.8 - 1e-3) & (factor < 1.25 + 1e-3)).all()) and abs(float(factor[0] - factor[1])) > 1e-3
    torch.testing.assert_close(maps[keys.R2STAR], exact[keys.R2] + maps[keys.R2PRIME])
    weights = exact[keys.RELAXIVITY_WEIGHTS]
    q, r2prime = combine_sources(sources(exact), weights)
    q_read, r2prime_read = combine_sources(sources(maps), weights)
    torch.testing.assert_close(q_read, q, rtol=1e-4, atol=1e-6)
    assert float(sources(maps).min()) > -1e-6
    mixed = sources(maps).amin(dim=1, keepdim=True) > 1e-5
    expected = factor.reshape(2, 1, 1, 1, 1) * r2prime
    torch.testing.assert_close(r2prime_read[mixed], expected[mixed], rtol=1e-3, atol=1e-6)
    # the least change elsewhere: one source is at zero
    assert bool((r2prime_read >= expected - 1e-6).all())


def test_residual_background_has_its_strength_and_no_source_inside(exact: Maps, draws: Draws) -> None:
    maps = ResidualBackground(rms_ppm=(0.002, 0.002))(exact, draws)
    mask = exact[keys.MASK]
    residual = maps[keys.LOCAL_FIELD] - exact[keys.LOCAL_FIELD]
    rms = (residual.square().sum(dim=(1, 2, 3, 4)) / mask.sum(dim=(1, 2, 3, 4))).sqrt()
    torch.testing.assert_close(rms, torch.full((2,), 0.002), rtol=1e-3, atol=0)
    assert not residual[mask == 0].any()
    # strongest at the rim: the field of sources outside falls off inwards
    core = torch.nn.functional.avg_pool3d(mask, 9, 1, 4) > 0.999
    assert residual[core].square().mean().sqrt() < 0.5 * 0.002


def test_a_shift_by_whole_voxels_is_a_roll() -> None:
    volume = torch.randn(2, 3, 9, 8, 7)
    shifts = torch.tensor([[[1.0, -2.0, 0.0]], [[0.0, 3.0, 1.0]]])
    expected = torch.stack([volume[0].roll((1, -2, 0), (1, 2, 3)), volume[1].roll((0, 3, 1), (1, 2, 3))])
    torch.testing.assert_close(mean_of_shifted(volume, shifts), expected, rtol=1e-4, atol=1e-5)
    both = mean_of_shifted(volume[:1], torch.tensor([[[0.0, 0.0, 0.0], [1.0, -2.0, 0.0]]]))
    torch.testing.assert_close(both[0], (volume[0] + expected[0]) / 2, rtol=1e-4, atol=1e-5)


def test_motion_blurs_and_keeps_the_rates_consistent(exact: Maps, draws: Draws) -> None:
    maps = MotionBlur(shift_voxels=(0.8, 0.8))(exact, draws)
    mask = exact[keys.MASK]
    for name in (keys.LOCAL_FIELD, keys.R2PRIME):

        def roughness(x: torch.Tensor) -> float:
            return float(x.diff(dim=2).square().sum() + x.diff(dim=3).square().sum() + x.diff(dim=4).square().sum())

        assert roughness(maps[name]) < 0.9 * roughness(exact[name])
        assert not maps[name][mask == 0].any()
    torch.testing.assert_close(maps[keys.R2STAR], maps[keys.R2] + maps[keys.R2PRIME])
    assert bool((maps[keys.R2PRIME] >= 0).all())
    assert torch.equal(sources(maps), sources(exact))


def test_an_error_of_r2_moves_r2prime_the_other_way(exact: Maps, draws: Draws) -> None:
    maps = R2Error(largest=0.25)(exact, draws)
    inside = exact[keys.R2] > 1
    error = maps[keys.R2][inside] / exact[keys.R2][inside] - 1
    assert float(error.abs().max()) <= 0.25 + 1e-5 and float(error.abs().max()) > 0.01
    expected = (exact[keys.R2STAR] - maps[keys.R2]).clamp(min=0)
    torch.testing.assert_close(maps[keys.R2PRIME], expected)
    assert torch.equal(maps[keys.R2STAR], exact[keys.R2STAR])


@pytest.mark.parametrize("step", [RelaxivityMismatch, ResidualBackground, MotionBlur, R2Error])
def test_none_of_them_at_probability_zero(step: type, exact: Maps, draws: Draws) -> None:
    maps = step(probability=0.0)(exact, draws)
    for name in exact:
        torch.testing.assert_close(maps[name], exact[name], rtol=1e-6, atol=1e-6)
