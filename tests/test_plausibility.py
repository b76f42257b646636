"""Values that do not fit their unit are found, by file and with the remedy; usual values pass."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom_transforms.checks import InputError, check_maps
from custom_transforms.keys import LOCAL_FIELD, MASK, R2PRIME, R2STAR
from custom_transforms.plausibility import doubtful_sign, implausible, notes

HZ_PER_PPM_3T = 3 * 42.577
UNITS = {
    "field_unit": "ppm",
    "rate_unit": "per_s",
    "b0_tesla": 3.0,
    "echo_time_s": None,
    "relaxivities_per_s_ppm": (137.0, 137.0),
}

NOTES = {"rate_unit": "per_s", "b0_tesla": 3.0, "b0_direction": None}

Maps = dict[str, MetaTensor]


@pytest.mark.parametrize("name", ["maps", "r2star_maps"])
def test_good_maps_pass(name: str, request: pytest.FixtureRequest) -> None:
    maps = request.getfixturevalue(name)
    assert implausible(maps, **UNITS) == []
    assert notes(maps, **NOTES) == []


def test_harmless_maps_pass(maps: Maps) -> None:
    maps[R2PRIME].affine[0, 3] = 0.05
    maps[R2PRIME][maps[MASK].as_tensor() < 0.5] = float("nan")
    assert implausible(maps, **UNITS) == []


def scale(key: str, factor: float) -> Callable[[Maps], None]:
    def change(maps: Maps) -> None:
        maps[key] *= factor

    return change


@pytest.mark.parametrize(
    ("change", "units", "words"),
    [
        (scale(LOCAL_FIELD, HZ_PER_PPM_3T), {}, ["local_field.nii.gz", "--field_unit hz"]),
        (scale(LOCAL_FIELD, 1), {"field_unit": "hz"}, ["local_field.nii.gz", "--field_unit ppm"]),
        (scale(LOCAL_FIELD, 1e-6), {}, ["local_field.nii.gz", "check its unit"]),
        (scale(LOCAL_FIELD, 1), {"field_unit": "rad", "echo_time_s": 20.0}, ["20 s looks like ms"]),
        (scale(R2PRIME, 1e-3), {}, ["r2prime.nii.gz", "--rate_unit per_ms"]),
        (scale(R2PRIME, 1), {"rate_unit": "per_ms"}, ["r2prime.nii.gz", "--rate_unit per_s"]),
        (scale(R2PRIME, 1e9), {}, ["r2prime.nii.gz", "check its unit"]),
        (scale(R2PRIME, 1 / 137), {}, ["r2prime.nii.gz", "not yet divided by the relaxivity"]),
        (scale(R2PRIME, 1), {"relaxivities_per_s_ppm": (137.0, 0.137)}, ["relaxivity of 0.137", "15 and 1500"]),
        (scale(R2PRIME, 1), {"b0_tesla": 3000.0}, ["3000 T", "--b0_tesla in tesla"]),
        (scale(MASK, 255), {}, ["mask.nii.gz", "other than 0 and 1"]),
    ],
)
def test_implausible_maps(maps: Maps, change: Callable[[Maps], None], units: dict, words: list[str]) -> None:
    change(maps)
    check_maps(maps)
    findings = implausible(maps, **UNITS | units)
    assert findings
    assert not [word for word in words if word not in findings[0]]


@pytest.mark.parametrize(
    ("change", "units", "words"),
    [
        (scale(R2STAR, 1e-3), {}, ["--rate_unit per_ms"]),
        (scale(R2STAR, 1), {"rate_unit": "per_ms"}, ["--rate_unit per_s"]),
        (scale(R2STAR, 1 / 137), {}, ["that it is R2* and not yet divided by the relaxivity"]),
        (scale(R2STAR, 1e6), {}, ["check its unit"]),
        (scale(R2STAR, 6 / 18), {}, ["it looks like R2': give it as --r2prime"]),
    ],
)
def test_implausible_r2star(r2star_maps: Maps, change: Callable[[Maps], None], units: dict, words: list[str]) -> None:
    change(r2star_maps)
    (finding,) = implausible(r2star_maps, **UNITS | units)
    assert "r2star.nii.gz" in finding
    assert not [word for word in words if word not in finding]


@pytest.mark.parametrize(
    ("change", "units"),
    [
        (scale(LOCAL_FIELD, HZ_PER_PPM_3T), {"field_unit": "hz"}),
        (scale(LOCAL_FIELD, 2 * np.pi * 0.02 * HZ_PER_PPM_3T), {"field_unit": "rad", "echo_time_s": 0.02}),
        (scale(R2PRIME, 1e-3), {"rate_unit": "per_ms"}),
    ],
)
def test_the_right_unit_passes(maps: Maps, change: Callable[[Maps], None], units: dict) -> None:
    change(maps)
    assert implausible(maps, **UNITS | units) == []


@pytest.mark.parametrize("b0_tesla", [0.5, 3.0, 7.0, 21.0])
def test_usual_relaxivities_pass(maps: Maps, b0_tesla: float) -> None:
    settings = {"b0_tesla": b0_tesla, "relaxivities_per_s_ppm": (38 * b0_tesla, 108 * b0_tesla)}
    assert implausible(maps, **UNITS | settings) == []


def test_a_phase_needs_its_echo_time(maps: Maps) -> None:
    with pytest.raises(InputError, match="echo_time_s"):
        implausible(maps, **UNITS | {"field_unit": "rad"})


def test_notes(maps: Maps) -> None:
    maps[R2PRIME][0, 3, 3, 3] = -1
    maps[LOCAL_FIELD].meta["has_orientation"] = False
    negative, orientation = notes(maps, **NOTES)
    assert "r2prime (r2prime.nii.gz) is negative in 1.0% of the mask" in negative
    assert "no orientation" in orientation
    assert notes(maps, **NOTES | {"b0_direction": (0.0, 0.0, 1.0)}) == [negative]


def test_r2prime_that_may_be_r2star(maps: Maps) -> None:
    maps[R2PRIME] += 12
    (said,) = notes(maps, **NOTES)
    assert "r2prime (r2prime.nii.gz) has a median of 18 1/s, as R2* has; if it is R2*, give it as --r2star" in said
    assert notes(maps, **NOTES | {"b0_tesla": 7.0}) == []


@pytest.mark.parametrize(("b0_tesla", "noted"), [(2.89, False), (3.0, False), (1.5, True), (7.0, True)])
def test_r2_was_learnt_at_one_field_strength(r2star_maps: Maps, b0_tesla: float, noted: bool) -> None:
    said = notes(r2star_maps, **NOTES | {"b0_tesla": b0_tesla})
    assert [f"the part of R2* that is R2 is that of 3 T; at {b0_tesla:g} T" in note for note in said] == [True] * noted


QUARTER_TURN = ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))


@pytest.mark.parametrize(
    ("affine", "b0_direction", "blurred"),
    [
        (np.eye(3), None, False),
        (QUARTER_TURN, None, False),
        (np.eye(3), (0.0, -1.0, 0.0), False),
        (np.eye(3), (0.0, 0.1, 1.0), True),
        (np.diag([1.0, 1.0, 2.0]), None, True),
        (0.5 * np.eye(3), None, True),
    ],
)
def test_direct_networks_resample(
    maps: Maps, affine: np.ndarray, b0_direction: tuple[float, float, float] | None, blurred: bool
) -> None:
    """Whole turns at their voxel size cost nothing; whatever else is interpolated is said."""
    maps[LOCAL_FIELD].affine = torch.block_diag(torch.as_tensor(np.array(affine)), torch.ones(1, 1))
    said = notes(maps, **NOTES | {"b0_direction": b0_direction}, axial_mm=1.0)
    assert [
        "resampled to 1 mm voxels with B0 along +z, all that the network knows, and back; expect blurring" in s
        for s in said
    ] == ([True] * blurred)


@pytest.mark.parametrize(
    ("size", "trained"),
    [
        ((1.0, 1.0, 4.2), False),
        ((3.0, 3.0, 3.0), False),
        ((2.0, 2.0, 6.0), False),
        ((0.4, 0.4, 0.4), False),
        ((1.0, 1.0, 4.0), True),
        ((2.5, 2.5, 5.0), True),
        ((2.0, 1.0, 1.0), True),
        ((0.5, 0.5, 0.5), True),
    ],
)
def test_voxels_that_the_network_never_saw(maps: Maps, size: tuple[float, float, float], trained: bool) -> None:
    maps[LOCAL_FIELD].affine = torch.diag(torch.tensor([*size, 1.0], dtype=torch.float64))
    said = notes(maps, **NOTES)
    assert len(said) == (0 if trained else 1)
    if not trained:
        named = " x ".join(f"{v:g}" for v in size)
        assert f"voxels of {named} mm are not of the network's training data, 0.5 to 2.5 mm" in said[0]


def test_sign_self_test(maps: Maps) -> None:
    """chi_total follows R2' in its sign: right, and turned around."""
    r2prime = maps[R2PRIME].numpy()[0]
    assert doubtful_sign(r2prime / 137, maps) == []
    (said,) = doubtful_sign(-r2prime / 137, maps)
    assert "where R2' is highest" in said
    assert "--field_sign -1" in said


def test_sign_self_test_with_r2star(r2star_maps: Maps) -> None:
    r2star = r2star_maps[R2STAR].numpy()[0]
    assert doubtful_sign(r2star / 137, r2star_maps) == []
    (said,) = doubtful_sign(-r2star / 137, r2star_maps)
    assert "where R2* is highest" in said
