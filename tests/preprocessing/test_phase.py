"""Scaling of stored phases: every vendor's numbers give the same rad; what is no wrapped phase is refused."""

import math

import pytest
import torch
from monai.data import MetaTensor

from custom_transforms.checks import InputError
from custom_transforms.preprocessing.phase import (
    PHASE_SIGN,
    ScalePhased,
    half_turn_every_second_slice,
    phase_sign,
    scale_phase,
    slice_alternation,
)

SHAPE = (3, 21, 20, 17)


def wrapped_phase() -> torch.Tensor:
    """Three echoes of a quadratic field with several wraps, float64, -pi to pi."""
    axes = [torch.linspace(-1, 1, n, dtype=torch.float64) for n in SHAPE[1:]]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    echoes = torch.arange(1, 4, dtype=torch.float64).reshape(-1, 1, 1, 1)
    return torch.remainder(echoes * (7 * z**2 + 3 * x * y + x) + math.pi, 2 * math.pi) - math.pi


def levels(count: int) -> torch.Tensor:
    """Give the phase in levels 0 to count - 1, as a scanner digitises it; the ends of the range are reached."""
    stored = ((wrapped_phase() + math.pi) / (2 * math.pi) * count).floor()
    stored[0, 0, 0, :2] = torch.tensor([0.0, count - 1])
    return stored


def distance(rad: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference in rad, on the circle."""
    return float(torch.polar(torch.ones_like(expected), rad.double() - expected).angle().abs().max())


@pytest.mark.parametrize(
    ("slope", "start", "count"),
    [
        (1.0, 0.0, 4096),  # unsigned 12 bit
        (2.0, -4096.0, 4096),  # -4096 to 4094
        (1.0, -2048.0, 4096),
        (1.0, 0.0, 65536),
        (math.pi / 855 / 2048, -math.pi / 855, 4096),  # floats from a header with a slope of its own
    ],
)
def test_every_stored_range_is_one_turn(slope: float, start: float, count: int) -> None:
    stored = levels(count)
    expected = stored * (2 * math.pi / count) - math.pi
    rad, note = scale_phase((slope * stored + start).float())
    assert distance(rad, expected) < 1e-3 * 2 * math.pi / 4096 + 1e-5
    assert note is not None and "one turn" in note


def test_the_level_that_is_missing_counts() -> None:
    """Ten levels 0 to 9: without the missing one the turn would be 9, and this must then be off by 0.7 rad."""
    stored = levels(10)
    rad, _ = scale_phase(stored.float())
    assert distance(rad, stored * (2 * math.pi / 10) - math.pi) < 1e-5
    assert distance(stored * (2 * math.pi / 9) - math.pi, stored * (2 * math.pi / 10) - math.pi) > 0.6


@pytest.mark.parametrize("bits", [10, 12])
def test_integers_whose_last_levels_no_voxel_reached_keep_their_turn(bits: int) -> None:
    stored = levels(2**bits).clamp(max=round(0.99 * 2**bits))
    rad, _ = scale_phase(stored.float())
    assert distance(rad, stored * (2 * math.pi / 2**bits) - math.pi) < 1e-5


def test_degrees_and_rad_from_zero() -> None:
    phase = wrapped_phase()
    for values in (phase.rad2deg(), torch.remainder(phase.rad2deg(), 360)):
        rad, note = scale_phase(values.float())
        assert distance(rad, phase) < 1e-4 and float(rad.abs().max()) <= math.pi + 1e-6
        assert note is not None and "degrees" in note
    rad, note = scale_phase(torch.remainder(phase, 2 * math.pi).float())
    assert distance(rad, phase) < 1e-5 and note is None


def test_rad_stays_exactly_as_it_is_at_zero_and_pi_too() -> None:
    phase = wrapped_phase().float()
    phase[:, 3:9, 4:8] = 0.0
    phase[1, 10:14] = math.pi
    phase[2, 10:14] = -math.pi
    rad, note = scale_phase(phase)
    assert torch.equal(rad, phase) and note is None


def test_zero_of_a_symmetric_range_stays_zero() -> None:
    stored = (2 * levels(4096) - 4096).float()
    stored[:, 3:9, 4:8] = 0.0
    assert not scale_phase(stored)[0][:, 3:9, 4:8].any()


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_no_wrapped_phase_is_refused(seed: int) -> None:
    axes = [torch.linspace(-1, 1, n) for n in SHAPE[1:]]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    for values in (9 * (7 * z**2 + x * y) + 0.1 * noise, 80 * (z**2 - x * y) + noise, 0.02 * noise):
        with pytest.raises(InputError, match=r"phase runs from .* without the jumps.*--phase_unit"):
            scale_phase(values.expand(SHAPE).clone())


def test_an_explicit_unit_is_believed_within_a_turn() -> None:
    flat = 0.1 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(scale_phase(flat, unit="rad")[0], flat)
    torch.testing.assert_close(scale_phase(flat, unit="degrees")[0], flat.deg2rad())
    with pytest.raises(InputError, match="more than a turn in rad"):
        scale_phase(4 * wrapped_phase().float(), unit="rad")
    with pytest.raises(ValueError, match="auto, rad, degrees or scaled"):
        scale_phase(flat, unit="hz")  # type: ignore[arg-type]


def test_constant_and_nan_are_refused_in_one_line() -> None:
    phase = wrapped_phase().float()
    constant = phase.clone()
    constant[1] = 0.5
    with pytest.raises(InputError, match="one value only in echo 2"):
        scale_phase(constant)
    phase[0, 5, 5, 5] = math.nan
    phase[2, 6, 6, 6] = math.inf
    with pytest.raises(InputError, match="2 NaN or infinite"):
        scale_phase(phase)
    inside = torch.ones(1, *SHAPE[1:])
    inside[0, 5:7, 5:7, 5:7] = 0
    rad, _ = scale_phase(phase, inside=inside)
    assert rad[0, 5, 5, 5] == 0 and rad[2, 6, 6, 6] == 0
    assert torch.equal(rad[1], phase[1])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_alternating_sign_of_slices_is_found_and_undone(axis: int) -> None:
    phase = (wrapped_phase() / 5).float()
    magnitude = torch.ones(SHAPE)
    assert slice_alternation(magnitude, phase) is None
    alternating = half_turn_every_second_slice(phase, axis)
    assert slice_alternation(magnitude, alternating) == axis
    torch.testing.assert_close(half_turn_every_second_slice(alternating, axis), phase, rtol=0, atol=1e-6)


def test_the_transform_names_the_file_keeps_the_affine_and_its_input() -> None:
    stored = (2 * levels(4096) - 4096).float()
    affine = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0])).double()
    stored[:, 0] = math.nan
    magnitude = torch.ones(SHAPE)
    magnitude[:, 0] = 0
    phase = MetaTensor(stored, affine=affine, meta={"filename_or_obj": "ph.nii.gz"})
    data = {"phase": phase, "magnitude": magnitude, "notes": ["first"]}
    result = ScalePhased()(data)
    assert torch.equal(result["phase"].affine, affine)
    assert result["notes"][0] == "first" and "phase (ph.nii.gz)" in result["notes"][1] and len(data["notes"]) == 1
    assert bool(data["phase"][:, 0].isnan().all()) and bool(result["phase"].isfinite().all())
    data["magnitude"] = torch.ones(SHAPE)
    with pytest.raises(InputError, match=r"phase \(ph.nii.gz\) has \d+ NaN"):
        ScalePhased()(data)


def test_alternation_is_noted() -> None:
    phase = half_turn_every_second_slice(wrapped_phase().float(), 2)
    result = ScalePhased()({"phase": phase, "magnitude": torch.ones(SHAPE)})
    assert distance(result["phase"], wrapped_phase()) < 1e-5
    assert "axis 3" in result["notes"][0]


def test_the_table_of_signs() -> None:
    assert phase_sign("GE MEDICAL SYSTEMS") == phase_sign("GE") == -1
    assert all(phase_sign(name) == 1 for name in ("SIEMENS", "Philips Medical Systems", None, "Esaote"))
    assert set(PHASE_SIGN.values()) == {1, -1}
