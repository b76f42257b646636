"""Files named one by one: lists and texts, what sidecars say, and what the user says against them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from custom_transforms import keys
from custom_transforms.checks import InputError
from custom_transforms.raw import explicit_scan, load_scan

Echoes = tuple[np.ndarray, np.ndarray]
Save = Callable[..., list[str]]

TIMES = (0.004, 0.009, 0.02)
ORIENTATION = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
SIDECARS: list[dict[str, Any]] = [
    {
        "EchoTime": time,
        "MagneticFieldStrength": 7,
        "Manufacturer": "Philips Medical Systems",
        "ImageOrientationPatientDICOM": ORIENTATION,
    }
    for time in TIMES
]


def test_commas_and_lists_are_the_same() -> None:
    text = explicit_scan(magnitude="a.nii, b.nii", phase="c.nii,d.nii", echo_times_s=(0.01, 0.02), b0_tesla=3)
    files = explicit_scan(
        magnitude=["a.nii", "b.nii"], phase=("c.nii", "d.nii"), echo_times_s=[0.01, 0.02], b0_tesla=3.0
    )
    assert text == files
    assert text.magnitude == ("a.nii", "b.nii")
    assert text.echo_times_s == (0.01, 0.02)
    assert explicit_scan(magnitude="a.nii", phase="b.nii", echo_times_s=0.02).echo_times_s == (0.02,)


def test_a_comma_in_the_name_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a,b.nii"
    file.touch()
    assert explicit_scan(magnitude=str(file)).magnitude == (str(file),)


def test_sidecars_say_what_the_user_does_not(tmp_path: Path, echoes: Echoes, save_echoes: Save) -> None:
    magnitude, phase = (save_echoes(tmp_path, n, e, sidecars=SIDECARS) for n, e in zip("mp", echoes, strict=True))
    scan = explicit_scan(magnitude=magnitude, phase=phase)
    assert scan.echo_times_s == scan.phase_echo_times_s == TIMES
    assert (scan.b0_tesla, scan.vendor, scan.sidecar_orientation) == (7.0, "Philips", tuple(ORIENTATION))
    told = explicit_scan(magnitude=magnitude, phase=phase, echo_times_s=(0.1, 0.2, 0.3), b0_tesla=3, vendor="ge")
    assert (told.echo_times_s, told.b0_tesla, told.vendor) == ((0.1, 0.2, 0.3), 3.0, "GE")
    load_scan(told)


@pytest.mark.parametrize("both", [True, False], ids=["all have sidecars", "magnitude has none"])
def test_files_out_of_order(tmp_path: Path, echoes: Echoes, save_echoes: Save, both: bool) -> None:
    """Magnitude and phase each go by their own sidecars, or together by those that are there."""
    order, phase_order = [2, 0, 1], [1, 0, 2] if both else [2, 0, 1]
    magnitude = save_echoes(tmp_path, "m", echoes[0], sidecars=SIDECARS if both else None)
    phase = save_echoes(tmp_path, "p", echoes[1], sidecars=SIDECARS)
    scan = explicit_scan(magnitude=[magnitude[i] for i in order], phase=[phase[i] for i in phase_order], b0_tesla=7)
    data = load_scan(scan)
    assert data[keys.ECHO_TIMES_S] == TIMES
    assert np.array_equal(data[keys.MAGNITUDE].numpy(), echoes[0])
    assert np.array_equal(data[keys.PHASE].numpy(), echoes[1])


def test_sidecars_of_two_scans_are_refused(tmp_path: Path, echoes: Echoes, save_echoes: Save) -> None:
    later = [sidecar | {"EchoTime": sidecar["EchoTime"] + 0.001} for sidecar in SIDECARS]
    magnitude = save_echoes(tmp_path, "m", echoes[0], sidecars=SIDECARS)
    phase = save_echoes(tmp_path, "p", echoes[1], sidecars=later)
    with pytest.raises(InputError, match=r"magnitude have the echo times 0\.004, .* phase 0\.005"):
        load_scan(explicit_scan(magnitude=magnitude, phase=phase))


def test_no_echo_times_anywhere(tmp_path: Path, echoes: Echoes, save_echoes: Save) -> None:
    magnitude, phase = (save_echoes(tmp_path, name, e) for name, e in zip("mp", echoes, strict=True))
    with pytest.raises(InputError, match=r"no echo times; add EchoTime .* --echo_times_s"):
        load_scan(explicit_scan(magnitude=magnitude, phase=phase, b0_tesla=3))


def test_spin_echoes_have_their_own_times(tmp_path: Path, echoes: Echoes, save_echoes: Save) -> None:
    spin = save_echoes(tmp_path, "s", echoes[0], sidecars=SIDECARS)
    assert explicit_scan(magnitude="m.nii", spin_echo=spin).spin_echo_times_s == TIMES
    told = explicit_scan(magnitude="m.nii", spin_echo=spin, spin_echo_times_s=(0.01, 0.02, 0.03))
    assert told.spin_echo_times_s == (0.01, 0.02, 0.03)
    assert told.echo_times_s == ()


@pytest.mark.parametrize(
    ("options", "finding"),
    [
        ({}, "no file is given"),
        ({"magnitude": "m.nii", "vendor": "Bruker"}, "vendor 'Bruker' is not known"),
        ({"magnitude": "m.nii", "maps": {"t1": "t1.nii"}}, "no map called t1; maps are mask"),
        ({"magnitude": "m.nii", "echo_times_s": "short"}, "must be numbers in s"),
    ],
)
def test_settings_that_mean_nothing(options: dict[str, Any], finding: str) -> None:
    with pytest.raises(InputError, match=finding):
        explicit_scan(**options)
