"""The sign of the phase: found on simulated brains, left alone in noise, and what is done about it."""

import math
from collections.abc import Mapping

import pytest
import torch
from monai.data import MetaTensor

from custom_transforms import keys
from custom_transforms.phantom import Acquisition, AnatomicalBrain
from custom_transforms.phantom.filters import smooth_noise
from custom_transforms.preprocessing.phase_sign import CheckPhaseSignd, SignTest, check_sign

Brain = Mapping[str, torch.Tensor]


def measured(seed: int, voxel_size_mm: tuple[float, float, float], tilt_deg: float) -> Brain:
    tissue = AnatomicalBrain(voxel_size_mm=voxel_size_mm, tilt_deg=tilt_deg)(seed)
    generator = torch.Generator().manual_seed(seed)
    return Acquisition()(tissue, snr=50.0, generator=generator, echoes=True)


@pytest.fixture(scope="module")
def brain() -> Brain:
    return measured(1, (3.0, 3.0, 3.0), 20.0)


def finding(brain: Brain, field: torch.Tensor, **contrast: object) -> SignTest:
    geometry = (brain[key] for key in (keys.MASK, keys.VOXEL_SIZE_MM, keys.B0_DIRECTION))
    return check_sign(field, *geometry, **contrast)  # type: ignore[arg-type]


def test_the_sign_is_told_from_r2star_and_from_echoes(brain: Brain) -> None:
    field, times = brain[keys.LOCAL_FIELD], Acquisition().gradient_echo.echo_times_s
    for contrast in (
        {"r2star": brain[keys.R2STAR]},
        {"magnitude": brain[keys.MAGNITUDE], "echo_times_s": times},
        {"magnitude": brain[keys.MAGNITUDE][3:4], "echo_times_s": times[3:4]},
    ):
        assert finding(brain, field, **contrast).sign == 1
        assert finding(brain, -field, **contrast).sign == -1


def test_the_sign_is_told_in_exact_maps_of_another_geometry() -> None:
    tissue = AnatomicalBrain(voxel_size_mm=(1.6, 2.0, 4.0), tilt_deg=30.0)(3)
    exact = Acquisition().exact(tissue)
    found = finding(exact, exact[keys.LOCAL_FIELD], r2star=exact[keys.R2STAR])
    assert found.sign == 1 and found.difference_ppm == pytest.approx(0.08, abs=0.05)
    assert finding(exact, -exact[keys.LOCAL_FIELD], r2star=exact[keys.R2STAR]).sign == -1


def test_rest_of_the_background_does_not_change_the_finding(brain: Brain) -> None:
    field = brain[keys.LOCAL_FIELD]
    generator = torch.Generator().manual_seed(0)
    shape = (field.shape[1], field.shape[2], field.shape[3])
    rest = 0.01 * brain[keys.MASK] * smooth_noise(shape, length_voxels=8.0, channels=1, generator=generator)
    assert finding(brain, field + rest, r2star=brain[keys.R2STAR]).sign == 1
    assert finding(brain, rest - field, r2star=brain[keys.R2STAR]).sign == -1


def test_noise_and_an_early_echo_tell_nothing(brain: Brain) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = 0.02 * brain[keys.MASK] * torch.randn(brain[keys.MASK].shape, generator=generator)
    assert finding(brain, noise, r2star=brain[keys.R2STAR]).sign == 0
    assert finding(brain, brain[keys.LOCAL_FIELD], magnitude=brain[keys.MAGNITUDE][:1]).sign == 0


def test_a_few_voxels_tell_nothing(brain: Brain) -> None:
    small = torch.zeros_like(brain[keys.MASK])
    centre = [n // 2 for n in small.shape[1:]]
    small[:, centre[0] : centre[0] + 4, centre[1] : centre[1] + 4, centre[2]] = 1
    geometry = (brain[keys.VOXEL_SIZE_MM], brain[keys.B0_DIRECTION])
    assert check_sign(brain[keys.LOCAL_FIELD], small, *geometry, r2star=brain[keys.R2STAR]).sign == 0
    assert SignTest(0.1, math.inf, 0).sign == 0


def data_of(brain: Brain, *, stored: int, vendor: str | None) -> dict:
    """Fields as they come out of the fit: right if the scanner stores the sign that the vendor's entry says."""
    affine = torch.diag(torch.tensor([3.0, 3.0, 3.0, 1.0])).double()
    table = -1 if vendor == "GE" else 1
    names = (keys.MASK, keys.VOXEL_SIZE_MM, keys.B0_DIRECTION, keys.R2STAR)
    local = MetaTensor(table * stored * brain[keys.LOCAL_FIELD], affine=affine)
    total = local + 0.5 * brain[keys.MASK]
    fields = {keys.LOCAL_FIELD: local, keys.TOTAL_FIELD: total}
    return {**{name: brain[name] for name in names}, **fields, "vendor": vendor, keys.NOTES: ["first"]}


@pytest.mark.parametrize("vendor", ["Siemens", "GE", None])
@pytest.mark.parametrize("stored", [1, -1])
def test_auto_finds_the_sign_whatever_the_table_says(brain: Brain, vendor: str | None, stored: int) -> None:
    data = data_of(brain, stored=stored, vendor=vendor)
    before = {key: data[key].clone() for key in (keys.LOCAL_FIELD, keys.TOTAL_FIELD)}
    result = CheckPhaseSignd()(data)
    torch.testing.assert_close(result[keys.LOCAL_FIELD].as_tensor(), brain[keys.LOCAL_FIELD])
    flipped = stored != (-1 if vendor == "GE" else 1)
    for key, value in before.items():
        assert torch.equal(data[key], value)
        torch.testing.assert_close(result[key].as_tensor(), (-1 if flipped else 1) * value.as_tensor())
        assert torch.equal(result[key].affine, value.affine)
    assert result[keys.NOTES][0] == "first" and len(result[keys.NOTES]) == 1 + flipped
    assert not flipped or "inverted" in result[keys.NOTES][1]


def test_an_explicit_sign_rules_and_a_test_that_disagrees_is_noted(brain: Brain) -> None:
    data = data_of(brain, stored=-1, vendor="Siemens")
    right, wrong = CheckPhaseSignd(sign=-1)(data), CheckPhaseSignd(sign=1)(data)
    torch.testing.assert_close(right[keys.LOCAL_FIELD].as_tensor(), brain[keys.LOCAL_FIELD])
    assert len(right[keys.NOTES]) == 1
    torch.testing.assert_close(wrong[keys.LOCAL_FIELD].as_tensor(), -brain[keys.LOCAL_FIELD])
    assert "look inverted" in wrong[keys.NOTES][1]
    from_ge = CheckPhaseSignd(sign=1)(data_of(brain, stored=1, vendor="GE"))
    torch.testing.assert_close(from_ge[keys.LOCAL_FIELD].as_tensor(), brain[keys.LOCAL_FIELD])


def test_without_a_finding_the_table_rules_and_that_is_noted(brain: Brain) -> None:
    data = data_of(brain, stored=1, vendor="Siemens")
    generator = torch.Generator().manual_seed(0)
    data[keys.LOCAL_FIELD] = 0.02 * brain[keys.MASK] * torch.randn(brain[keys.MASK].shape, generator=generator)
    for contrast in (brain[keys.R2STAR], None):
        result = CheckPhaseSignd()({**data, keys.R2STAR: contrast})
        assert torch.equal(result[keys.LOCAL_FIELD], data[keys.LOCAL_FIELD])
        assert "could not be tested" in result[keys.NOTES][1] and "Siemens" in result[keys.NOTES][1]


def test_errors_say_what_was_expected(brain: Brain) -> None:
    with pytest.raises(ValueError, match="r2star or magnitude"):
        finding(brain, brain[keys.LOCAL_FIELD])
    with pytest.raises(ValueError, match="auto, 1 or -1"):
        CheckPhaseSignd(sign=0)  # type: ignore[arg-type]
