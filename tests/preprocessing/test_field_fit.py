"""Total field: the line's equation, the Cramer-Rao bound from wrapped noisy echoes, and the quality map."""

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom_transforms.preprocessing.field_fit import FitTotalFieldd, fit_total_field
from custom_transforms.preprocessing.phase_offset import phase_offset
from custom_transforms.preprocessing.unwrapping import unwrap_echoes, wrap
from custom_transforms.relaxometry import field_sd, fit_field

TIMES_S = (0.005, 0.011, 0.017, 0.023, 0.029)
B0_TESLA = 3.0
RAD_PER_S_PPM = 2 * math.pi * 42.577 * B0_TESLA
SHAPE = (36, 35, 33)
SNR = 60.0
Signal = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def signal(times: tuple[float, ...] = TIMES_S, *, offset_rad: float = 0.0, snr: float = SNR) -> Signal:
    """Complex echoes, the field in ppm (-2 to 2, several wraps), R2* in 1/s and a mask with a hole."""
    generator = torch.Generator().manual_seed(2)
    x, y, z = torch.meshgrid(*[torch.linspace(-1, 1, n, dtype=torch.float64) for n in SHAPE], indexing="ij")
    mask = ((x**2 + y**2 + z**2) < 0.9)[None]
    mask[:, 10:13, 12:15, 9:12] = False
    field = (1.9 * (2 * z**2 - 1) + 0.3 * x * y)[None]
    field = field - field[mask].median()
    rate = 15 + 40 * torch.rand((1, *SHAPE), generator=generator, dtype=torch.float64)
    t = torch.tensor(times, dtype=torch.float64).reshape(-1, 1, 1, 1)
    phase = field * RAD_PER_S_PPM * t + offset_rad * (x + 0.5 * y * z)
    noise = torch.randn(phase.shape, generator=generator, dtype=torch.complex128) * (math.sqrt(2) / snr)
    echoes = torch.polar((-t * rate).exp(), phase) + noise
    return echoes, field, rate, mask.float()


def test_the_line_agrees_with_least_squares_of_numpy() -> None:
    generator = torch.Generator().manual_seed(0)
    phase, magnitude = torch.randn((2, 4, 2, 3, 2), generator=generator, dtype=torch.float64)
    magnitude = magnitude.abs() + 0.1
    times = (0.004, 0.010, 0.022, 0.028)
    for intercept in (False, True):
        field, _ = fit_total_field(phase, magnitude, times, b0_tesla=B0_TESLA, intercept=intercept)
        columns = np.stack([times, np.ones(4)][: 1 + intercept], axis=1)
        for voxel in np.ndindex(2, 3, 2):
            m, p = magnitude[(slice(None), *voxel)].numpy(), phase[(slice(None), *voxel)].numpy()
            expected = np.linalg.lstsq(m[:, None] * columns, m * p, rcond=None)[0][0] / RAD_PER_S_PPM
            assert field[(0, *voxel)].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("times", [TIMES_S, (0.004, 0.010, 0.022, 0.028), (0.005,)])
@pytest.mark.parametrize("sign", [1, -1])
def test_from_wrapped_echoes_the_error_is_that_of_the_noise(times: tuple[float, ...], sign: int) -> None:
    echoes, field, rate, mask = signal(times)
    inside = mask > 0.5
    magnitude, phase = echoes.abs().float(), sign * echoes.angle().float()
    unwrapped = unwrap_echoes(phase, magnitude, times, mask)
    fitted, _ = fit_total_field(unwrapped, magnitude, times, b0_tesla=B0_TESLA, mask=mask, sign=sign)
    bound = field_sd(rate, torch.ones_like(rate), times, torch.tensor(1 / SNR), b0_tesla=B0_TESLA)
    relative = ((fitted - field) / bound)[inside]
    assert float(relative.square().mean().sqrt()) == pytest.approx(1, abs=0.03)
    assert abs(float(relative.mean())) < 0.03
    assert not fitted[~inside].any()
    inverted, _ = fit_total_field(unwrapped, magnitude, times, b0_tesla=B0_TESLA, mask=mask, sign=-sign)
    assert float(((inverted - field) / bound)[inside].square().mean().sqrt()) > 100  # the wrong sign must fail


def test_it_agrees_with_the_fit_of_complex_echoes() -> None:
    echoes, field, _, mask = signal()
    magnitude, phase = echoes.abs().float(), echoes.angle().float()
    unwrapped = unwrap_echoes(phase, magnitude, TIMES_S, mask)
    fitted, _ = fit_total_field(unwrapped, magnitude, TIMES_S, b0_tesla=B0_TESLA, mask=mask)
    other = fit_field(echoes.to(torch.complex64), TIMES_S, b0_tesla=B0_TESLA, reference_ppm=field.float())
    inside = mask > 0.5
    assert float((fitted - other)[inside].abs().quantile(0.999)) < 1e-5


def test_an_intercept_or_the_removal_takes_the_offset_away() -> None:
    echoes, field, rate, mask = signal(offset_rad=1.5)
    inside = mask > 0.5
    magnitude, phase = echoes.abs().float(), echoes.angle().float()
    error = {}
    for name in ("nothing", "intercept", "removal"):
        offset = phase_offset(magnitude, phase, TIMES_S, (4.0, 4.0, 4.0), mask) if name == "removal" else 0.0
        unwrapped = unwrap_echoes(wrap(phase - offset), magnitude, TIMES_S, mask)
        fitted, _ = fit_total_field(
            unwrapped, magnitude, TIMES_S, b0_tesla=B0_TESLA, mask=mask, intercept=name == "intercept"
        )
        error[name] = float((fitted - field)[inside].square().mean().sqrt())
    bound = float(
        field_sd(rate, torch.ones_like(rate), TIMES_S, torch.tensor(1 / SNR), b0_tesla=B0_TESLA)[inside].mean()
    )
    assert error["nothing"] > 20 * bound
    assert error["intercept"] < 3 * bound
    assert error["removal"] < 2 * bound and error["removal"] < error["intercept"]


def test_quality_by_its_equation() -> None:
    """Of the median signal, a tenth of it and none on the line, and one whose two echoes lie off it."""
    times = (0.01, 0.02)
    magnitude = torch.ones(2, 5, 1, 1, dtype=torch.float64)
    magnitude[:, 1] = 0.1
    magnitude[:, 2] = 0
    phase = torch.tensor(times, dtype=torch.float64).reshape(2, 1, 1, 1) * 40 * torch.ones_like(magnitude)
    phase[:, 3] += torch.tensor([-0.5, 0.25], dtype=torch.float64).reshape(2, 1, 1)
    _, quality = fit_total_field(phase, magnitude, times, b0_tesla=B0_TESLA)
    good = 1 / (1 + 0.1**2)
    assert quality[0, 0].item() == pytest.approx(good)
    assert quality[0, 1].item() == pytest.approx(0.5)
    assert quality[0, 2].item() == 0
    off = (0.5**2 + 0.25**2) / 2 * 2  # orthogonal to t, so all of it is residual; two echoes, one parameter
    assert quality[0, 3].item() == pytest.approx(good * math.exp(-off / (2 * 0.3**2)))


def test_quality_tells_noise_from_signal() -> None:
    echoes, _, _, mask = signal()
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(echoes.shape, generator=generator, dtype=torch.complex128)
    echoes[:, 18:24, 18:24, 14:20] = noise[:, 18:24, 18:24, 14:20]
    magnitude, phase = echoes.abs().float(), echoes.angle().float()
    unwrapped = unwrap_echoes(phase, magnitude, TIMES_S, mask)
    _, quality = fit_total_field(unwrapped, magnitude, TIMES_S, b0_tesla=B0_TESLA, mask=mask)
    assert float(quality.min()) >= 0 and float(quality.max()) <= 1
    spoilt = torch.zeros_like(mask, dtype=torch.bool)
    spoilt[:, 18:24, 18:24, 14:20] = True
    assert float(quality[spoilt].median()) < 0.01
    assert float(quality[(mask > 0.5) & ~spoilt].quantile(0.01)) > 0.9


@pytest.mark.parametrize(("vendor", "sign"), [("GE", -1), ("Siemens", 1), (None, 1)])
def test_the_transform_takes_the_sign_of_the_vendor(vendor: str | None, sign: int) -> None:
    echoes, field, _, mask = signal()
    magnitude, phase = echoes.abs().float(), echoes.angle().float()
    unwrapped = unwrap_echoes(phase, magnitude, TIMES_S, mask)
    affine = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0])).double()
    data = {
        "unwrapped_phase": MetaTensor(unwrapped, affine=affine),
        "magnitude": magnitude,
        "mask": mask,
        "echo_times_s": TIMES_S,
        "b0_tesla": B0_TESLA,
        "vendor": vendor,
    }
    result = FitTotalFieldd()(data)
    assert torch.equal(result["total_field"].affine, affine) and result["field_quality"].shape == mask.shape
    error = (result["total_field"].as_tensor() - sign * field)[mask > 0.5]
    assert float(error.abs().median()) < 0.002
    single = {**data, "unwrapped_phase": unwrapped[:1], "magnitude": magnitude[:1], "echo_times_s": TIMES_S[:1]}
    assert bool(FitTotalFieldd(intercept=True)(single)["total_field"].isfinite().all())


def test_errors_say_what_was_expected() -> None:
    ones = torch.ones(2, 3, 3, 3)
    with pytest.raises(ValueError, match=r"of one number.*got 2, 2 and 3"):
        fit_total_field(ones, ones, (0.01, 0.02, 0.03), b0_tesla=3.0)
    with pytest.raises(ValueError, match="two or more with an intercept"):
        fit_total_field(ones[:1], ones[:1], (0.01,), b0_tesla=3.0, intercept=True)
    with pytest.raises(ValueError, match="sign"):
        fit_total_field(ones, ones, (0.01, 0.02), b0_tesla=3.0, sign=0)
