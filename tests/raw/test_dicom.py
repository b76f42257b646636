"""DICOM folders: series are found and paired by their headers, and dcm2niix brings the numbers and the geometry."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from custom_transforms import keys
from custom_transforms.checks import InputError
from custom_transforms.raw import convert_dicom, load_scan
from custom_transforms.raw.dicom import find_candidates
from custom_transforms.raw.dicom_headers import Series, part_of, read_series

TIMES_S = (0.004, 0.009, 0.014)
Writer = Callable[..., Any]


def in_world(stored: np.ndarray, first_file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Give the values (N, X, Y, Z) at the corner of the first voxel, and the place of that corner in RAS+."""
    header = pydicom.dcmread(first_file, stop_before_pixels=True)
    return stored[:, 0, 0, 0], np.array(header.ImagePositionPatient, float) * (-1, -1, 1)


def at(image: Any, point: np.ndarray) -> np.ndarray:
    """Give the values of an image at a point of the world that is the centre of a voxel."""
    index = np.linalg.solve(image.affine.numpy(), [*point, 1.0])[:3]
    assert np.allclose(index, index.round(), atol=1e-3)
    return image.numpy()[(slice(None), *index.round().astype(int))]


def test_siemens_magnitude_and_phase(tmp_path: Path, siemens: Writer) -> None:
    magnitude, phase = siemens(tmp_path / "dicom")
    scan = convert_dicom(tmp_path / "dicom", tmp_path / "work", name="head")
    assert (scan.name, scan.echo_times_s, scan.b0_tesla, scan.vendor) == ("head", TIMES_S, 3.0, "Siemens")
    data = load_scan(scan)
    first = min((tmp_path / "dicom").iterdir())
    for key, stored in ((keys.MAGNITUDE, magnitude), (keys.PHASE, phase)):
        values, point = in_world(stored, first)
        assert np.array_equal(at(data[key], point), values)
        assert np.array_equal(np.sort(data[key].numpy(), axis=None), np.sort(stored, axis=None))
    assert scan.sidecar_orientation is not None
    assert len(data[keys.NOTES]) == 1  # how it was converted; the oblique affine agrees with the sidecar


def test_ge_real_and_imaginary(tmp_path: Path, ge: Writer) -> None:
    signal = ge(tmp_path / "dicom")
    data = load_scan(convert_dicom(tmp_path / "dicom", tmp_path / "work"))
    assert data["vendor"] == "GE"
    first = min((tmp_path / "dicom").iterdir())
    values, point = in_world(signal, first)
    assert np.allclose(at(data[keys.MAGNITUDE], point), np.abs(values), rtol=1e-5)
    assert np.allclose(at(data[keys.PHASE], point), np.angle(values), atol=1e-5)


def test_other_series_do_not_disturb(tmp_path: Path, siemens: Writer, dicom_series: Writer) -> None:
    """A structural image, a fieldmap of another grid's echoes and spin echoes lie in the same exam."""
    magnitude, _ = siemens(tmp_path / "exam" / "gre")
    common = {"manufacturer": "SIEMENS", "image_type": ("ORIGINAL", "PRIMARY", "M", "ND")}
    dicom_series(tmp_path / "exam" / "t1", magnitude[:1], number=2, times_ms=(2.5,), description="t1", **common)
    spin_ms = (20.0, 40.0)
    dicom_series(
        tmp_path / "exam" / "se", magnitude[:2], number=9, times_ms=spin_ms, description="se", sequence="SE", **common
    )
    (tmp_path / "exam" / "readme.txt").write_text("no DICOM")
    data = load_scan(convert_dicom(tmp_path / "exam", tmp_path / "work"))
    assert data[keys.ECHO_TIMES_S] == TIMES_S
    assert data[keys.SPIN_ECHO_TIMES_S] == (0.02, 0.04)
    assert np.array_equal(np.sort(data[keys.SPIN_ECHO].numpy(), axis=None), np.sort(magnitude[:2], axis=None))
    assert "spin echoes are series 9 (se: 2 x magnitude)" in data[keys.NOTES][1]


def series(number: int, part: str, grid: tuple[int, ...] = (16, 14)) -> Series:
    return Series(number, "gre", (), {part: (4.0, 9.0)}, frozenset({"GR"}), grid)


def test_a_phase_belongs_to_the_magnitude_before_it() -> None:
    """Also where the next magnitude is nearer in number; another grid or a lone magnitude is left out."""
    first, second, coarse = series(3, "magnitude"), series(8, "magnitude"), series(6, "magnitude", (8, 8))
    phases = series(7, "phase"), series(9, "phase")
    candidates = find_candidates([first, coarse, phases[0], second, phases[1]])
    assert [one.series for one in candidates] == [(first, phases[0]), (second, phases[1])]
    assert [one.series for one in find_candidates([phases[0], second])] == [(second, phases[0])]


def test_several_scans_are_listed(tmp_path: Path, siemens: Writer) -> None:
    siemens(tmp_path / "dicom", number=3, description="first")
    magnitude, _ = siemens(tmp_path / "dicom", number=11, seed=5, description="second")
    with pytest.raises(InputError, match=r"2 scans, series 3 \(first: 3 x magnitude\) \+ 4 .*--series=3"):
        convert_dicom(tmp_path / "dicom", tmp_path / "work")
    with pytest.raises(InputError, match=r"no scan in series 7; give --series with a number of: 3"):
        convert_dicom(tmp_path / "dicom", tmp_path / "work", series=7)
    for number in (11, 12):
        data = load_scan(convert_dicom(tmp_path / "dicom", tmp_path / "work", series=number))
        assert np.array_equal(np.sort(data[keys.MAGNITUDE].numpy(), axis=None), np.sort(magnitude, axis=None))


def test_no_phase_is_explained(tmp_path: Path, siemens: Writer) -> None:
    siemens(tmp_path / "dicom")
    for file in (tmp_path / "dicom").glob("*.6_*"):
        file.unlink()
    with pytest.raises(InputError, match=r"only series 5 \(gre: 3 x magnitude\); export the phase images"):
        convert_dicom(tmp_path / "dicom", tmp_path / "work")


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x" * 500)
    with pytest.raises(InputError, match="no DICOM images of MR"):
        convert_dicom(tmp_path, tmp_path / "work")


def test_damaged_pixels_are_refused_in_one_line(tmp_path: Path, siemens: Writer) -> None:
    siemens(tmp_path / "dicom")
    for file in (tmp_path / "dicom").iterdir():
        file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(InputError, match="dcm2niix") as caught:
        load_scan(convert_dicom(tmp_path / "dicom", tmp_path / "work"))
    assert "\n" not in str(caught.value)


def test_a_missing_echo_is_noticed(tmp_path: Path, siemens: Writer) -> None:
    """Without its third echo the phase belongs to no magnitude."""
    siemens(tmp_path / "dicom")
    for file in sorted((tmp_path / "dicom").glob("*.6_*"))[-4:]:
        file.unlink()
    with pytest.raises(InputError, match="2 x phase"):
        convert_dicom(tmp_path / "dicom", tmp_path / "work")


def test_a_second_conversion_replaces_the_first(tmp_path: Path, siemens: Writer, ge: Writer) -> None:
    siemens(tmp_path / "a")
    ge(tmp_path / "b")
    convert_dicom(tmp_path / "a", tmp_path / "work")
    scan = convert_dicom(tmp_path / "b", tmp_path / "work")
    assert {Path(path).name[0] for path in scan.real} == {"7"}
    load_scan(scan)


@pytest.mark.parametrize(
    ("manufacturer", "image_type", "ge_part", "component", "part"),
    [
        ("SIEMENS", ["ORIGINAL", "PRIMARY", "M", "ND"], None, None, "magnitude"),
        ("SIEMENS", ["ORIGINAL", "PRIMARY", "P", "ND"], None, None, "phase"),
        ("Philips Medical Systems", ["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"], None, None, "magnitude"),
        ("Philips Medical Systems", ["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"], None, None, "phase"),
        ("Philips Medical Systems", ["ORIGINAL", "PRIMARY", "PHASE MAP", "FFE"], None, None, "phase"),
        ("Philips Medical Systems", ["ORIGINAL", "PRIMARY", "R", "FFE", "R", "FFE"], None, None, "real"),
        ("Philips Medical Systems", ["ORIGINAL", "PRIMARY", "I", "FFE", "I", "FFE"], None, None, "imaginary"),
        ("UIH", ["ORIGINAL", "PRIMARY", "P"], None, None, "phase"),
        ("CANON_MEC", ["ORIGINAL", "PRIMARY", "OTHER", "NONE"], None, "PHASE", "phase"),
        ("GE MEDICAL SYSTEMS", ["ORIGINAL", "PRIMARY", "OTHER"], 0, None, "magnitude"),
        ("GE MEDICAL SYSTEMS", ["ORIGINAL", "PRIMARY", "OTHER"], 1, None, "phase"),
        ("GE MEDICAL SYSTEMS", ["ORIGINAL", "PRIMARY", "OTHER"], 2, None, "real"),
        ("GE MEDICAL SYSTEMS", ["ORIGINAL", "PRIMARY", "OTHER"], 3, None, "imaginary"),
        ("GE MEDICAL SYSTEMS", ["ORIGINAL", "PRIMARY", "OTHER"], None, None, "magnitude"),
        ("", None, None, None, "magnitude"),
    ],
)
def test_parts_of_every_vendor(
    manufacturer: str, image_type: list[str] | None, ge_part: int | None, component: str | None, part: str
) -> None:
    header = Dataset()
    header.Manufacturer = manufacturer
    if image_type is not None:
        header.ImageType = image_type
    if component is not None:
        header.ComplexImageComponent = component
    if ge_part is not None:
        header.add_new(0x0043102F, "SS", ge_part)
    assert part_of(header) == part


def test_frames_of_an_enhanced_file(tmp_path: Path, dicom_series: Writer) -> None:
    """One file with magnitude and phase of all echoes is a scan on its own."""
    dicom_series(
        tmp_path,
        np.ones((1, 16, 14, 4)),
        manufacturer="Philips",
        image_type=("ORIGINAL", "PRIMARY", "T1", "MIXED"),
        number=4,
        times_ms=(4.0,),
        sequence="",
    )
    files = sorted(tmp_path.iterdir())
    header = pydicom.dcmread(files[0])
    frames = []
    for component in ("MAGNITUDE", "PHASE"):
        for time_ms in (4.0, 9.0):
            frame, kind, echo = Dataset(), Dataset(), Dataset()
            kind.FrameType, kind.ComplexImageComponent = ["ORIGINAL", "PRIMARY", "T1", "NONE"], component
            echo.EffectiveEchoTime = time_ms
            frame.MRImageFrameTypeSequence, frame.MREchoSequence = Sequence([kind]), Sequence([echo])
            frames.append(frame)
    header.PerFrameFunctionalGroupsSequence = Sequence(frames)
    header.EchoPulseSequence = "GRADIENT"
    header.save_as(files[0])
    for file in files[1:]:
        file.unlink()
    (found,) = read_series(tmp_path)
    assert found.echo_times_ms == {"magnitude": (4.0, 9.0), "phase": (4.0, 9.0)}
    (candidate,) = find_candidates([found])
    assert candidate.echoes == 2
