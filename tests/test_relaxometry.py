"""Fits of the multi-echo signal: equations without noise, Monte Carlo against the analytic SD, unwrapping, the sign."""

import math

import pytest
import torch

from custom_transforms.physics import hz_per_ppm
from custom_transforms.relaxometry import (
    field_sd,
    fit_field,
    fit_r2,
    fit_r2star,
    r2prime_from_r2star,
    r2star_sd,
)

TIMES_S = (0.005, 0.011, 0.017, 0.023, 0.029)
SPIN_ECHO_TIMES_S = (0.015, 0.030, 0.045, 0.060, 0.075, 0.090)
RATES_PER_S = (10.0, 25.0, 50.0, 100.0)
B0_TESLA = 3.0
SNR = 100.0
SAMPLES = (1, 50, 40, 20)  # noise realisations, in place of X, Y, Z, of one voxel


def echoes_of(rate: torch.Tensor, field_ppm: torch.Tensor, s0: torch.Tensor, times: tuple[float, ...]) -> torch.Tensor:
    """The signal equation, written on its own with one complex exponential in float64."""
    t = torch.tensor(times, dtype=torch.float64).reshape(-1, 1, 1, 1)
    return s0 * torch.exp((-rate + 2j * math.pi * 42.577 * B0_TESLA * field_ppm) * t)


def noisy_echoes(rate: float, times: tuple[float, ...] = TIMES_S, field_ppm: float = 0.02) -> torch.Tensor:
    clean = echoes_of(torch.full(SAMPLES, rate), torch.full(SAMPLES, field_ppm), torch.ones(SAMPLES), times)
    generator = torch.Generator().manual_seed(int(rate))
    noise = torch.randn((2, *clean.shape), generator=generator, dtype=torch.float64) / SNR
    return (clean + torch.complex(noise[0], noise[1])).to(torch.complex64)


@pytest.fixture
def maps() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """R2* (1/s), field (ppm) and s0 of a batch of two."""
    generator = torch.Generator().manual_seed(0)
    uniform = [torch.rand((2, 1, 4, 5, 3), generator=generator, dtype=torch.float64) for _ in range(3)]
    return 5 + 200 * uniform[0], uniform[1] - 0.5, 300 * (0.1 + uniform[2])


def test_fits_give_the_exact_maps_without_noise(maps: tuple[torch.Tensor, ...], tolerance: dict[str, float]) -> None:
    rate, field, s0 = maps
    for dtype, name in ((torch.complex64, "float32"), (torch.complex128, "float64")):
        echoes = echoes_of(rate, field, s0, TIMES_S).to(dtype)
        fitted_rate, fitted_s0 = fit_r2star(echoes.abs(), TIMES_S)
        fitted_field = fit_field(echoes, TIMES_S, b0_tesla=B0_TESLA)
        assert fitted_rate.dtype == echoes.real.dtype
        for fitted, true in ((fitted_rate, rate), (fitted_s0, s0), (fitted_field, field)):
            assert fitted.shape == true.shape
            assert (fitted - true).norm() < tolerance[name] * true.norm()


def test_the_fit_knows_no_unit_of_signal_and_no_batch_axis(maps: tuple[torch.Tensor, ...]) -> None:
    rate, field, s0 = maps
    magnitude = echoes_of(rate, field, s0, TIMES_S).abs().float()
    expected = fit_r2star(magnitude, TIMES_S)[0]
    torch.testing.assert_close(fit_r2star(1e-9 * magnitude, TIMES_S)[0], expected)
    torch.testing.assert_close(fit_r2star(magnitude[1], TIMES_S)[0], expected[1])


def test_no_signal_gives_zero() -> None:
    silence = torch.zeros(1, 5, 2, 2, 2)
    rate, s0 = fit_r2star(silence, TIMES_S)
    field = fit_field(silence.to(torch.complex64), TIMES_S, b0_tesla=B0_TESLA)
    assert not rate.any() and not s0.any() and not field.any()


def test_a_growing_signal_gives_a_rate_of_zero() -> None:
    magnitude = torch.tensor(TIMES_S).reshape(1, 5, 1, 1, 1)
    assert fit_r2star(magnitude, TIMES_S)[0].item() == 0


@pytest.mark.parametrize("rate", RATES_PER_S)
def test_monte_carlo_agrees_with_the_analytic_sd(rate: float) -> None:
    echoes = noisy_echoes(rate)
    ones, noise_sd = torch.ones(1, 1, 1, 1), torch.tensor(1 / SNR)
    fitted = fit_r2star(echoes.abs(), TIMES_S)[0]
    assert abs(fitted.mean().item() / rate - 1) < 0.01
    assert fitted.std().item() == pytest.approx(r2star_sd(rate * ones, ones, TIMES_S, noise_sd).item(), rel=0.05)
    field = fit_field(echoes, TIMES_S, b0_tesla=B0_TESLA)
    predicted = field_sd(rate * ones, ones, TIMES_S, noise_sd, b0_tesla=B0_TESLA).item()
    assert abs(field.mean().item() - 0.02) < 0.1 * predicted
    assert field.std().item() == pytest.approx(predicted, rel=0.05)


def test_white_matter_at_snr_100_has_the_noise_of_the_literature() -> None:
    ones, noise_sd = torch.ones(1, 1, 1, 1), torch.tensor(0.01)
    assert field_sd(25 * ones, ones, TIMES_S, noise_sd, b0_tesla=3.0).item() == pytest.approx(0.0005, rel=0.1)
    assert r2star_sd(25 * ones, ones, TIMES_S, noise_sd).item() / 137 == pytest.approx(0.006, rel=0.1)


def test_spin_echoes_give_r2_and_its_sd() -> None:
    fitted = fit_r2(noisy_echoes(14.0, SPIN_ECHO_TIMES_S).abs(), SPIN_ECHO_TIMES_S)[0]
    ones = torch.ones(1, 1, 1, 1)
    predicted = r2star_sd(14 * ones, ones, SPIN_ECHO_TIMES_S, torch.tensor(1 / SNR)).item()
    assert fitted.mean().item() == pytest.approx(14, rel=0.005)
    assert fitted.std().item() == pytest.approx(predicted, rel=0.05)


def test_weights_keep_the_noise_floor_from_flattening_the_line() -> None:
    """At 200 1/s the last echoes are noise: the plain line, which must fail, is far off, the weighted one is not."""
    magnitude = noisy_echoes(200.0).abs()
    t = torch.tensor(TIMES_S).reshape(-1, 1, 1, 1)
    centred = t - t.mean()
    plain = -(centred * magnitude.log()).sum(-4) / centred.square().sum()
    assert abs(fit_r2star(magnitude, TIMES_S)[0].mean().item() / 200 - 1) < 0.02
    assert abs(plain.mean().item() / 200 - 1) > 0.1


def test_sd_saturates_where_the_signal_is_lost() -> None:
    zero, noise_sd = torch.zeros(1, 1, 1, 1), torch.tensor(1 / SNR)
    lost = r2star_sd(zero + 400, zero + 1, TIMES_S, noise_sd).item()
    assert fit_r2star(noisy_echoes(400.0).abs(), TIMES_S)[0].std().item() == pytest.approx(lost, rel=0.25)
    assert r2star_sd(zero + 1e5, zero + 1, TIMES_S, noise_sd).item() == pytest.approx(lost)
    no_signal = field_sd(zero, zero, TIMES_S, noise_sd, b0_tesla=3.0).item()
    noise = torch.randn((2, 5, *SAMPLES[1:]), generator=torch.Generator().manual_seed(0))
    pure = torch.complex(noise[0], noise[1])
    no_field = torch.zeros(1, *SAMPLES[1:])
    scatter = fit_field(pure, TIMES_S, b0_tesla=3.0, reference_ppm=no_field).std()
    assert scatter.item() == pytest.approx(no_signal, rel=1 / 3)  # the weights are noise, too


@pytest.mark.parametrize("sign", [1, -1])
def test_the_field_is_unwrapped_up_to_half_a_turn_between_echoes(sign: int) -> None:
    limit = 1 / (2 * 0.006 * hz_per_ppm(B0_TESLA))
    field = torch.linspace(-0.99 * limit, 0.99 * limit, 41, dtype=torch.float64).reshape(1, 41, 1, 1)
    for times in (TIMES_S, (0.004, 0.010, 0.022, 0.028)):
        echoes = echoes_of(torch.full_like(field, 20), sign * field, torch.ones_like(field), times).to(torch.complex64)
        torch.testing.assert_close(
            fit_field(echoes, times, b0_tesla=B0_TESLA, sign=sign), field.float(), rtol=0, atol=1e-5
        )


def test_beyond_the_limit_the_fit_needs_a_reference() -> None:
    field = torch.full((1, 1, 1, 1), 1.5, dtype=torch.float64)
    echoes = echoes_of(torch.full_like(field, 20), field, torch.ones_like(field), TIMES_S).to(torch.complex64)
    assert abs(fit_field(echoes, TIMES_S, b0_tesla=B0_TESLA).item() - 1.5) > 1
    reference = torch.full((1, 1, 1, 1), 1.45)
    fitted = fit_field(echoes, TIMES_S, b0_tesla=B0_TESLA, reference_ppm=reference)
    assert fitted.item() == pytest.approx(1.5, abs=1e-5)


def test_the_wrong_sign_flips_the_field(maps: tuple[torch.Tensor, ...]) -> None:
    echoes = echoes_of(*maps, TIMES_S).to(torch.complex64)
    wrong = fit_field(echoes, TIMES_S, b0_tesla=B0_TESLA, sign=-1)
    torch.testing.assert_close(wrong, -maps[1].float(), rtol=0, atol=1e-5)
    assert (wrong - maps[1]).norm() > 1.9 * maps[1].norm()


def test_r2prime_is_the_difference_and_never_negative() -> None:
    r2prime = r2prime_from_r2star(torch.tensor([30.0, 10.0]), torch.tensor([12.0, 14.0]))
    assert r2prime.tolist() == [18.0, 0.0]


def test_errors_say_what_was_expected() -> None:
    magnitude = torch.ones(1, 5, 2, 2, 2)
    with pytest.raises(ValueError, match="increasing"):
        fit_r2star(magnitude, (0.03, 0.02, 0.01, 0.005, 0.001))
    with pytest.raises(ValueError, match=r"\(\.\.\., 3, X, Y, Z\).*\(1, 5, 2, 2, 2\)"):
        fit_r2star(magnitude, TIMES_S[:3])
    with pytest.raises(ValueError, match=r"torch\.polar"):
        fit_field(magnitude, TIMES_S, b0_tesla=3.0)
    with pytest.raises(ValueError, match="sign"):
        fit_field(magnitude.to(torch.complex64), TIMES_S, b0_tesla=3.0, sign=2)
