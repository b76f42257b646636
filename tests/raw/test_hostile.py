"""Sidecars and DICOM files that were made to harm: one line with a remedy, exit code 2, nothing written."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest

from custom_transforms.checks import InputError
from custom_transforms.cli import main
from custom_transforms.raw import explicit_scan, find_bids, load_scan
from custom_transforms.raw.dicom import convert_dicom
from custom_transforms.raw.explicit import file_list
from custom_transforms.raw.headers import read_sidecar, scanner_of

Writer = Callable[..., Any]
SEQUENCE = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"  # opens an item of a sequence
LONG_ELEMENT = b"\x08\x00\x08\x00OB\0\0\xfe\xff\xff\x7f" + bytes(50)  # says that it has 2 GiB
HUGE = 10**400  # JSON has whole numbers of any length


@pytest.mark.parametrize("content", ["[" * 200_000, '{"EchoTime":' * 100_000, '{"EchoTime": 1' + "0" * 6000 + "}", "{"])
def test_nested_and_endless_sidecars(tmp_path: Path, content: str, echoes: Any, save_echoes: Writer) -> None:
    paths = save_echoes(tmp_path, "magnitude", echoes[0])
    Path(paths[1].replace(".nii.gz", ".json")).write_text(content)
    with pytest.raises(InputError, match="not JSON; repair or remove it"):
        explicit_scan(magnitude=paths)


def test_a_sidecar_of_many_bytes_is_not_read(tmp_path: Path, echoes: Any, save_echoes: Writer) -> None:
    """A GiB of a sparse file; JSON of that size takes several GiB of memory."""
    root = tmp_path / "bids"
    paths = save_echoes(root / "sub-01" / "anat", "sub-01_part-mag_echo-", echoes[0], ending="_MEGRE.nii.gz")
    sidecar = Path(paths[0].replace(".nii.gz", ".json"))
    with sidecar.open("wb") as file:
        file.truncate(2**30)
    for read in (lambda: read_sidecar(paths[0]), lambda: find_bids(root)):
        with pytest.raises(InputError, match=r"1073741824 bytes, .* remove it"):
            read()
    sidecar.write_text("[" * 200_000)
    with pytest.raises(InputError, match="it is not JSON"):
        find_bids(root)


@pytest.mark.parametrize(
    ("entries", "finding"),
    [
        ({"EchoTime": HUGE}, "no echo times"),
        ({"EchoTime": float("inf")}, "must be positive"),
        ({"EchoTime": -1e308}, "must be positive"),
        ({"EchoTime": [[[]]]}, "no echo times"),
        ({"EchoTime": True}, "no echo times"),
        ({"MagneticFieldStrength": HUGE}, "no field strength"),
        ({"MagneticFieldStrength": "3; rm -rf"}, "no field strength"),
        ({"MagneticFieldStrength": float("nan")}, "no scanner"),
        ({"MagneticFieldStrength": 1e308}, "no scanner"),
    ],
)
def test_absurd_values_of_sidecars(
    tmp_path: Path, echoes: Any, save_echoes: Writer, entries: dict[str, Any], finding: str
) -> None:
    good = [{"EchoTime": time, "MagneticFieldStrength": 3} for time in (0.004, 0.009, 0.014)]
    phase = save_echoes(tmp_path, "phase", echoes[1], sidecars=good)
    load_scan(explicit_scan(magnitude=save_echoes(tmp_path, "magnitude", echoes[0], sidecars=good), phase=phase))
    bad = [{**good[0], **entries}, *good[1:]]
    phase = save_echoes(tmp_path, "phase", echoes[1], sidecars=bad)
    magnitude = save_echoes(tmp_path, "magnitude", echoes[0], sidecars=bad)
    with pytest.raises(InputError, match=finding) as refused:
        load_scan(explicit_scan(magnitude=magnitude, phase=phase))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("orientation", [["x"] * 6, [HUGE] * 6, [None] * 6, [float("nan")] * 6, "123456", 5, {"a": 1}])
def test_absurd_orientations_are_not_taken(orientation: object) -> None:
    assert scanner_of([{"ImageOrientationPatientDICOM": orientation}])["sidecar_orientation"] is None
    assert scanner_of([{"ImageOrientationPatientDICOM": [1, 0, 0, 0, 1, 0]}])["sidecar_orientation"] is not None


def test_a_list_longer_than_a_file_name() -> None:
    """A list of files with commas may be longer than the name of any file."""
    names = [f"echo_{index:03d}_part-mag.nii.gz" for index in range(200)]
    assert file_list(",".join(names)) == tuple(names)


def change(**tags: Any) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        header = pydicom.dcmread(path)
        for name, value in tags.items():
            setattr(header, name, value)
        header.save_as(path)

    return apply


def replaced(tail: bytes) -> Callable[[Path], None]:
    """Keep the preamble of a file alone, and give it another rest."""
    return lambda path: path.write_bytes(path.read_bytes()[:132] + tail) and None


def cut(begin: int, end: int | None) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[begin:end]) and None


HOSTILE_DICOM = {
    "enormous rows and columns": change(Rows=65535, Columns=65535),
    "no rows": change(Rows=0),
    "two billion frames": change(NumberOfFrames="2147483647"),
    "64 bits": change(BitsAllocated=64),
    "voxels of 1e300 mm": change(PixelSpacing=["1e300", "-1"]),
    "cut header": cut(0, 400),
    "cut pixels": cut(0, -200),
    "noise": replaced(bytes(range(256)) * 8),
    "20000 sequences in each other": replaced(SEQUENCE * 20_000),
    "element of two GiB": replaced(LONG_ELEMENT),
}


@pytest.mark.parametrize("name", HOSTILE_DICOM)
def test_hostile_dicom(
    name: str, tmp_path: Path, siemens: Writer, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    siemens(tmp_path / "dicom")
    for path in sorted((tmp_path / "dicom").iterdir()):
        HOSTILE_DICOM[name](path)
    maps = tmp_path / "maps"
    monkeypatch.setattr(sys, "argv", ["chisep", "run", str(tmp_path / "dicom"), f"--output={maps}", "--device=cpu"])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capfd.readouterr().err
    assert (stop.value.code, said.count("\n")) == (2, 1), said
    assert said.startswith("chisep: ")
    assert not list(maps.glob("sub-*"))


def test_one_hostile_file_beside_good_ones(tmp_path: Path, siemens: Writer) -> None:
    siemens(tmp_path / "dicom")
    good = next((tmp_path / "dicom").iterdir()).read_bytes()
    (tmp_path / "dicom" / "evil.dcm").write_bytes(good[:132] + SEQUENCE * 20_000)
    assert len(load_scan(convert_dicom(tmp_path / "dicom", tmp_path / "work"))["magnitude"]) == 3


def test_names_of_series_reach_no_shell(tmp_path: Path, siemens: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    siemens(tmp_path / "dicom", description="../../a; touch mark; $(touch mark) `touch mark` %s")
    scan = convert_dicom(tmp_path / "dicom", tmp_path / "work")
    assert not (tmp_path / "mark").exists()
    assert all(Path(path).resolve().is_relative_to(tmp_path / "work") for path in scan.magnitude)
    assert len(load_scan(scan)["magnitude"]) == 3
    subprocess.run("echo $(touch mark)", shell=True, check=True, capture_output=True)  # a shell would have made it
    assert (tmp_path / "mark").exists()
