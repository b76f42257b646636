"""Phase offset: the true one within its noise, at the rim too, for any spacing and voxel size; bipolar readouts."""

import math

import pytest
import torch
from monai.data import MetaTensor

from custom_transforms.phantom.filters import gaussian_smooth
from custom_transforms.preprocessing.phase_offset import RemovePhaseOffsetd, bipolar_ramp, phase_offset
from custom_transforms.preprocessing.unwrapping import wrap

TIMES_S = (0.005, 0.011, 0.017, 0.023)
VOXEL_MM = (2.0, 2.5, 3.0)
SHAPE = (64, 50, 41)
RAD_PER_S_PPM = 2 * math.pi * 42.577 * 3.0
Simulated = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def simulate(
    times: tuple[float, ...] = TIMES_S, *, offset_rad: float = 1.0, snr: float = 60.0, bipolar_rad: float = 0.0
) -> Simulated:
    """Magnitude, phase, mask and true offset of a ball of 11 cm in a field of +-1 ppm with detail of 0.02 ppm.

    Even echoes of a bipolar readout have a ramp of ``bipolar_rad`` along the first axis.
    """
    generator = torch.Generator().manual_seed(1)
    x, y, z = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    mask = ((x**2 + y**2 + z**2) < 0.8)[None].float()
    detail = gaussian_smooth(torch.randn((1, *SHAPE), generator=generator), sigma_voxels=1.0)
    field = 0.6 * (2 * z**2 - 1) + 0.3 * x * y + 0.2 * detail
    field = field - field[mask > 0.5].median()
    offset = offset_rad * (1.2 * x + 0.8 * y**2 + 0.9 * z * y - 0.5 * z**3)[None]
    rate = 15 + 25 * torch.rand((1, *SHAPE), generator=generator)
    t = torch.tensor(times).reshape(-1, 1, 1, 1)
    even = (torch.arange(len(times)) % 2).reshape(-1, 1, 1, 1)
    phase = field * RAD_PER_S_PPM * t + offset + even * 0.5 * bipolar_rad * x
    noise = torch.randn(phase.shape, dtype=torch.complex64, generator=generator) * (math.sqrt(2) / snr)
    signal = torch.polar((1 + 0.3 * x - 0.2 * y) * (-t * rate).exp(), phase) + noise
    return signal.abs(), signal.angle(), mask, offset


def rim_of(mask: torch.Tensor) -> torch.Tensor:
    core = 1 - torch.nn.functional.max_pool3d(1 - mask[None], 3, stride=1, padding=1)[0]
    return (mask > 0.5) & (core < 0.5)


@pytest.mark.parametrize("times", [TIMES_S, (0.004, 0.013, 0.017), (0.006, 0.016), (0.004, 0.008, 0.012)])
def test_the_offset_is_found_for_any_spacing(times: tuple[float, ...]) -> None:
    magnitude, phase, mask, offset = simulate(times)
    error = wrap(phase_offset(magnitude, phase, times, VOXEL_MM, mask) - offset)
    rms = float(error[mask > 0.5].square().mean().sqrt())
    assert rms < 0.03
    assert float(wrap(offset)[mask > 0.5].square().mean().sqrt()) > 10 * rms  # no offset at all must fail


def test_at_the_rim_the_plane_beats_the_plain_average() -> None:
    """A Gaussian average of the true offset in the mask is off at the rim by its slope; the fit is not."""
    magnitude, phase, mask, offset = simulate()
    rim = rim_of(mask)
    estimate = wrap(phase_offset(magnitude, phase, TIMES_S, VOXEL_MM, mask) - offset)[rim]
    parts = gaussian_smooth(torch.cat([mask * offset.cos(), mask * offset.sin()]), sigma_voxels=6 / 2.5)
    average = wrap(torch.atan2(parts[1:], parts[:1]) - offset)[rim]
    assert float(estimate.square().mean().sqrt()) < 0.03
    assert float(average.square().mean().sqrt()) > 3 * float(estimate.square().mean().sqrt())


def test_an_offset_of_several_turns_is_unwrapped() -> None:
    magnitude, phase, mask, offset = simulate(offset_rad=6.0)
    estimate = phase_offset(magnitude, phase, TIMES_S, VOXEL_MM, mask)
    difference = (estimate - offset)[mask > 0.5]
    assert float((difference - difference.median()).abs().max()) < math.pi
    assert float(estimate[mask > 0.5].max() - estimate[mask > 0.5].min()) > 2 * math.pi
    assert not estimate[mask < 0.5].any()


def test_a_linear_offset_is_met_up_to_the_coarse_voxels() -> None:
    x, y, z = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in (32, 27, 24)], indexing="ij")
    mask = ((x**2 + y**2 + z**2) < 0.9)[None].float()
    offset = (1.5 * x - 0.7 * y + 0.4 * z + 0.3)[None]
    phase = wrap(torch.cat([offset, offset]))
    estimate = phase_offset(torch.ones_like(phase), phase, (0.005, 0.01), (1.5, 1.5, 1.5), mask)
    assert float((estimate - offset)[mask > 0.5].square().mean().sqrt()) < 0.02  # of 0.1 rad from voxel to voxel
    assert float((estimate - offset)[mask > 0.5].abs().max()) < 0.1


def test_bipolar_readouts_are_told_from_monopolar_ones() -> None:
    magnitude, phase, mask, _ = simulate(bipolar_rad=3.0)
    found = bipolar_ramp(magnitude, phase, TIMES_S, mask)
    assert found is not None and found[1] == 0
    span = float(mask[0].amax(dim=(1, 2)).sum() - 1) / (SHAPE[0] - 1)
    assert found[0] == pytest.approx(2 * 3.0 * span, rel=0.1)  # an even echo between two odd ones: twice its ramp
    magnitude, phase, mask, _ = simulate()
    found = bipolar_ramp(magnitude, phase, TIMES_S, mask)
    assert found is not None and found[0] < 0.1
    assert bipolar_ramp(magnitude[:2], phase[:2], TIMES_S[:2], mask) is None


def data_of(simulated: Simulated, times: tuple[float, ...] = TIMES_S) -> dict:
    affine = torch.diag(torch.tensor([*VOXEL_MM, 1.0])).double()
    magnitude, phase, mask, _ = simulated
    phase = MetaTensor(phase, affine=affine)
    size = torch.tensor(VOXEL_MM)
    return {"magnitude": magnitude, "phase": phase, "mask": mask, "echo_times_s": times, "voxel_size_mm": size}


def test_the_transform_leaves_phases_that_start_at_zero() -> None:
    simulated = simulate()
    data = data_of(simulated)
    before = data["phase"].clone()
    result = RemovePhaseOffsetd()(data)
    assert torch.equal(data["phase"], before) and torch.equal(result["phase"].affine, before.affine)
    assert result["notes"] == []
    inside = (simulated[2] > 0.5)[0]
    left = (torch.polar(torch.ones(1), result["phase"].as_tensor() - before.as_tensor() + simulated[3])).angle()
    assert float(left[:, inside].square().mean().sqrt()) < 0.03
    torch.testing.assert_close(result["phase"].as_tensor()[:, ~inside], before.as_tensor()[:, ~inside])


def test_bipolar_and_single_echoes_are_noted() -> None:
    notes = RemovePhaseOffsetd()(data_of(simulate(bipolar_rad=3.0)))["notes"]
    assert len(notes) == 1 and "bipolar" in notes[0] and "axis 1" in notes[0]
    single = data_of(simulate((0.005,)), (0.005,))
    result = RemovePhaseOffsetd()({**single, "notes": ["first"]})
    assert torch.equal(result["phase"], single["phase"])
    assert result["notes"][0] == "first" and "one echo" in result["notes"][1]


def test_errors_say_what_was_expected() -> None:
    magnitude, phase, mask, _ = simulate()
    with pytest.raises(ValueError, match="two echoes"):
        phase_offset(magnitude[:1], phase[:1], TIMES_S[:1], VOXEL_MM, mask)
    with pytest.raises(ValueError, match="positive smooth_mm"):
        phase_offset(magnitude, phase, TIMES_S, VOXEL_MM, mask, smooth_mm=0.0)
