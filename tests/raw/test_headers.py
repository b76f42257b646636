"""Echo times, field strengths, vendors and orientations: what can be right passes, the rest explains itself."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from custom_transforms.checks import InputError
from custom_transforms.raw.headers import (
    check_b0_tesla,
    check_echo_times,
    deobliqued_note,
    echo_times_of,
    read_sidecar,
    scanner_of,
    vendor_of,
)


@pytest.mark.parametrize("times", [(0.004, 0.009, 0.02), (0.02, 0.004, 0.009), (0.0005, 0.499, 0.1)])
def test_echo_times_in_any_order_pass(times: Sequence[float]) -> None:
    check_echo_times("sub-01", times, 3)


@pytest.mark.parametrize(
    ("times", "finding"),
    [
        ((), "no echo times.*--echo_times_s"),
        ((0.004, 0.008), "3 echoes and 2 echo times"),
        ((4, 8, 12), "look like ms.*--echo_times_s=0.004,0.008,0.012"),
        ((0.004, 0.6, 0.008), "look like ms"),
        ((0.004, 0.008, 0.004), "0.004 s twice"),
        ((0.0, 0.004, 0.008), "positive"),
        ((0.004, math.nan, 0.008), "positive"),
    ],
)
def test_impossible_echo_times_are_refused(times: Sequence[float], finding: str) -> None:
    with pytest.raises(InputError, match=finding) as caught:
        check_echo_times("sub-01", times, 3)
    assert str(caught.value).startswith("sub-01")


@pytest.mark.parametrize("b0_tesla", [0.05, 1.5, 2.8936, 3, 7.0, 11.7])
def test_fields_of_scanners_pass(b0_tesla: float) -> None:
    assert check_b0_tesla("sub-01", b0_tesla) == b0_tesla


@pytest.mark.parametrize(
    ("b0_tesla", "finding"),
    [
        (None, "no field strength.*--b0_tesla"),
        (15000, "gauss.*--b0_tesla=1.5"),
        (30000.0, "gauss.*--b0_tesla=3$"),
        (2893.6, "mT.*--b0_tesla=2.8936"),
        (127.7, "no scanner"),
        (0.0, "no scanner"),
        (-3.0, "no scanner"),
        (math.nan, "no scanner"),
    ],
)
def test_other_fields_are_refused(b0_tesla: float | None, finding: str) -> None:
    with pytest.raises(InputError, match=finding):
        check_b0_tesla("sub-01", b0_tesla)


@pytest.mark.parametrize(
    ("manufacturer", "vendor"),
    [
        ("GE MEDICAL SYSTEMS", "GE"),
        ("General Electric", "GE"),
        ("SIEMENS", "Siemens"),
        ("Siemens Healthineers", "Siemens"),
        ("Philips Medical Systems", "Philips"),
        ("CANON_MEC", "Canon"),
        ("TOSHIBA", "Canon"),
        ("UIH", "UIH"),
        ("Bruker", None),
        ("", None),
        (None, None),
    ],
)
def test_vendors(manufacturer: str | None, vendor: str | None) -> None:
    assert vendor_of(manufacturer) == vendor


def test_scanner_of_sidecars_takes_the_first_that_says_it() -> None:
    orientation = [1, 0, 0, 0, 1, 0]
    sidecars = [{}, {"Manufacturer": "GE", "MagneticFieldStrength": 3}, {"ImageOrientationPatientDICOM": orientation}]
    expected = {"b0_tesla": 3.0, "vendor": "GE", "sidecar_orientation": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)}
    assert scanner_of(sidecars) == expected
    assert set(scanner_of([{}]).values()) == {None}


def test_echo_times_of_files_and_of_one_file() -> None:
    assert echo_times_of([{"EchoTime": 0.004}, {"EchoTime": 0.008}]) == (0.004, 0.008)
    assert echo_times_of([{"EchoTime": [0.004, 0.008]}]) == (0.004, 0.008)
    assert echo_times_of([{"EchoTime": 0.004}, {}]) == ()
    assert echo_times_of([{"EchoTime": "4 ms"}]) == ()


@pytest.mark.parametrize("image", ["a.nii", "a.nii.gz", "a.nrrd"])
def test_sidecar_lies_beside_the_image(tmp_path: Path, image: str) -> None:
    assert read_sidecar(str(tmp_path / image)) == {}
    (tmp_path / "a.json").write_text(json.dumps({"EchoTime": 0.004}))
    assert read_sidecar(str(tmp_path / image)) == {"EchoTime": 0.004}


def test_sidecar_that_is_not_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match=r"a\.json is not JSON"):
        read_sidecar(str(tmp_path / "a.nii"))


def tilted(degrees: float) -> tuple[float, ...]:
    """Give the orientation of axial slices turned about the left-right axis."""
    angle = math.radians(degrees)
    return (1.0, 0.0, 0.0, 0.0, math.cos(angle), math.sin(angle))


def ras_axes(orientation: Sequence[float]) -> np.ndarray:
    axes = np.stack([orientation[:3], orientation[3:], np.cross(orientation[:3], orientation[3:])], axis=1)
    return np.diag([-1.0, -1.0, 1.0]) @ axes


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_deobliqued_image_gives_the_direction_of_its_sidecar(flip: tuple[int, ...], order: tuple[int, ...]) -> None:
    """A true image's axes are those of the sidecar, reordered and flipped; its direction is a row of its affine."""
    true = (ras_axes(tilted(20)) * flip)[:, order]
    pretended = np.eye(4)
    pretended[:3, :3] = np.round(true) * (0.8, 0.8, 2.0)
    note = deobliqued_note(pretended, tilted(20))
    assert note is not None
    assert "20.0 degrees" in note
    numbers = re.search(r"b0_direction=([-\d.,]+)", note)
    assert numbers is not None
    assert np.allclose([float(value) for value in numbers.group(1).split(",")], true[2], atol=1e-4)


@pytest.mark.parametrize(
    ("affine_deg", "sidecar_deg"),
    [(0, 0.5), (20, 20), (0, 0), (0, 90)],
    ids=["less than a degree", "honest affine", "axial", "coronal"],
)
def test_honest_images_have_no_note(affine_deg: float, sidecar_deg: float) -> None:
    affine = np.eye(4)
    affine[:3, :3] = ras_axes(tilted(affine_deg))
    assert deobliqued_note(affine, tilted(sidecar_deg)) is None
    assert deobliqued_note(affine, None) is None
