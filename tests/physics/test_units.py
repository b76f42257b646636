"""Unit conversions against numbers worked out by hand, at 3 T and 42.577 MHz/T unless stated."""

import math

import pytest
import torch

from custom_transforms import physics

FIELD_PPM = torch.tensor([-0.2, 0.0, 0.1, 1.0], dtype=torch.float64)


def test_one_ppm_in_hz():
    assert physics.hz_per_ppm(3.0) == pytest.approx(127.731)
    assert physics.hz_per_ppm(7.0) == pytest.approx(298.039)
    torch.testing.assert_close(physics.field_ppm_to_hz(FIELD_PPM, 3.0), FIELD_PPM * 127.731)


def test_phase_of_a_tenth_ppm_after_20_ms():
    # 0.1 ppm * 127.731 Hz/ppm * 0.02 s = 0.255462 turns = 1.605115 rad
    phase = physics.field_ppm_to_phase_rad(torch.tensor(0.1, dtype=torch.float64), 0.02, 3.0)
    assert phase.item() == pytest.approx(1.605115, abs=1e-6)
    assert phase.item() != pytest.approx(0.255462, abs=1e-2)  # turns instead of rad would show


def test_sign_flips_the_phase():
    plus = physics.field_ppm_to_phase_rad(FIELD_PPM, 0.02, 3.0, sign=1)
    minus = physics.field_ppm_to_phase_rad(FIELD_PPM, 0.02, 3.0, sign=-1)
    torch.testing.assert_close(plus, -minus)
    torch.testing.assert_close(physics.phase_rad_to_field_ppm(plus, 0.02, 3.0, sign=-1), -FIELD_PPM)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("b0_tesla", [1.5, 3.0, 7.0])
def test_round_trips(b0_tesla: float, sign: int):
    hz = physics.field_ppm_to_hz(FIELD_PPM, b0_tesla)
    phase = physics.field_ppm_to_phase_rad(FIELD_PPM, 0.007, b0_tesla, sign=sign)
    r2prime = physics.r2prime_ppm_to_per_s(FIELD_PPM, 114.0)
    torch.testing.assert_close(physics.field_hz_to_ppm(hz, b0_tesla), FIELD_PPM)
    torch.testing.assert_close(physics.phase_rad_to_field_ppm(phase, 0.007, b0_tesla, sign=sign), FIELD_PPM)
    torch.testing.assert_close(physics.r2prime_per_s_to_ppm(r2prime, 114.0), FIELD_PPM)


def test_phase_of_one_hz_is_independent_of_the_field_strength():
    for b0_tesla in (1.5, 7.0):
        one_hz = physics.field_hz_to_ppm(torch.tensor(1.0, dtype=torch.float64), b0_tesla)
        phase = physics.field_ppm_to_phase_rad(one_hz, 0.25, b0_tesla)
        assert phase.item() == pytest.approx(math.pi / 2)


def test_relaxivity():
    assert physics.relaxivity_at(3.0) == pytest.approx(137.0)
    assert physics.relaxivity_at(7.0) == pytest.approx(319.6667, abs=1e-4)
    assert physics.relaxivity_at(1.5, 114.0) == pytest.approx(57.0)
    assert physics.r2prime_per_s_to_ppm(torch.tensor(13.7), 137.0).item() == pytest.approx(0.1)


def test_relaxivity_weights():
    relaxivity, w_para, w_dia = physics.relaxivity_weights(160.0, 114.0)
    assert relaxivity == pytest.approx(137.0)
    assert (w_para, w_dia) == (pytest.approx(1.167883, abs=1e-6), pytest.approx(0.832117, abs=1e-6))
    # R2' is the same whether it is added up in 1/s or in ppm
    r2prime_per_s = 160.0 * 0.05 + 114.0 * 0.02
    assert relaxivity * (w_para * 0.05 + w_dia * 0.02) == pytest.approx(r2prime_per_s)
    assert physics.relaxivity_weights(114.0, 114.0) == (114.0, 1.0, 1.0)


@pytest.mark.parametrize("bad", [0.0, -3.0, math.nan])
def test_values_that_are_not_positive_are_refused(bad: float):
    with pytest.raises(ValueError, match="b0_tesla must be positive"):
        physics.field_ppm_to_hz(FIELD_PPM, bad)
    with pytest.raises(ValueError, match="b0_tesla must be positive"):
        physics.relaxivity_at(bad)
    with pytest.raises(ValueError, match="echo_time_s must be positive"):
        physics.field_ppm_to_phase_rad(FIELD_PPM, bad, 3.0)
    with pytest.raises(ValueError, match="relaxivity must be positive"):
        physics.r2prime_per_s_to_ppm(FIELD_PPM, bad)
    with pytest.raises(ValueError, match="relaxivities must be positive"):
        physics.relaxivity_weights(137.0, bad)


@pytest.mark.parametrize("sign", [0, 2])
def test_a_sign_is_plus_or_minus_one(sign: int):
    with pytest.raises(ValueError, match="sign must be"):
        physics.phase_rad_to_field_ppm(FIELD_PPM, 0.02, 3.0, sign=sign)
