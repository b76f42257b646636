"""Small heads as files of scanners: NIfTI by echo, and DICOM as Siemens and GE write it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

TIMES_MS = (4.0, 9.0, 14.0)
SPACING_MM = (1.2, 1.0, 2.0)  # of columns (x), rows (y), slices
ORIENTATION = (1.0, 0.0, 0.0, 0.0, float(np.cos(0.3)), float(np.sin(0.3)))
SHAPE = (16, 14, 4)  # columns, rows, slices


def head(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Give magnitude 0 to 4000 and phase in rad, (E, X, Y, Z)."""
    rng = np.random.default_rng(seed)
    decay = np.exp(-np.array(TIMES_MS) * 0.03)[:, None, None, None]
    magnitude = rng.uniform(800, 4000, SHAPE) * decay
    phase = rng.uniform(-0.2, 0.2, SHAPE) * np.array(TIMES_MS)[:, None, None, None]
    return magnitude, phase


def _frame(manufacturer: str, study: str, series: str, number: int, description: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    frame = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    frame.SOPClassUID, frame.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
    frame.StudyInstanceUID, frame.SeriesInstanceUID, frame.FrameOfReferenceUID = study, series, study + ".1"
    frame.Modality, frame.Manufacturer, frame.MagneticFieldStrength = "MR", manufacturer, "3"
    frame.PatientName, frame.PatientID, frame.PatientPosition = "Test", "1", "HFS"
    frame.StudyDate, frame.StudyTime, frame.AcquisitionTime, frame.AcquisitionDate = (
        "20200101",
        "101010",
        "101010",
        "20200101",
    )
    frame.SeriesNumber, frame.SeriesDescription, frame.ProtocolName = number, description, description
    frame.MRAcquisitionType, frame.RepetitionTime, frame.FlipAngle = "3D", "40", "15"
    frame.ScanningSequence, frame.SequenceVariant = "GR", "SP"
    frame.Rows, frame.Columns, frame.SamplesPerPixel = SHAPE[1], SHAPE[0], 1
    frame.PhotometricInterpretation, frame.BitsAllocated, frame.BitsStored, frame.HighBit = "MONOCHROME2", 16, 16, 15
    frame.PixelSpacing = [SPACING_MM[1], SPACING_MM[0]]
    frame.SliceThickness = frame.SpacingBetweenSlices = SPACING_MM[2]
    frame.ImageOrientationPatient = [f"{value:.8f}" for value in ORIENTATION]
    return frame


def write_series(
    folder: Path,
    echoes: np.ndarray,
    *,
    manufacturer: str,
    image_type: tuple[str, ...],
    number: int,
    description: str = "gre",
    study: str = "1.2.3.4",
    series: str = "",
    ge_kind: int | None = None,
    slope: tuple[float, float] | None = None,
    sequence: str = "GR",
    times_ms: tuple[float, ...] = TIMES_MS,
    signed: bool = True,
    first_instance: int = 1,
) -> None:
    """Write a file a slice and echo of integers (E, X, Y, Z)."""
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(ORIENTATION[:3], ORIENTATION[3:])
    series = series or f"{study}.{number}"
    instance = first_instance
    for e, time_ms in enumerate(times_ms):
        for z in range(SHAPE[2]):
            frame = _frame(manufacturer, study, series, number, description)
            frame.ImageType, frame.ScanningSequence = list(image_type), sequence
            frame.EchoTime, frame.EchoNumbers, frame.InstanceNumber, frame.AcquisitionNumber = (
                f"{time_ms:g}",
                e + 1,
                instance,
                1,
            )
            frame.ImagePositionPatient = [
                f"{value:.8f}" for value in np.array([-9.0, -7.0, -4.0]) + z * SPACING_MM[2] * normal
            ]
            frame.SliceLocation = f"{z * SPACING_MM[2]:g}"
            frame.PixelRepresentation = int(signed)
            if ge_kind is not None:
                frame.add_new((0x0043, 0x0010), "LO", "GEMS_PARM_01")
                frame.add_new((0x0043, 0x102F), "SS", ge_kind)
            if slope is not None:
                frame.RescaleSlope, frame.RescaleIntercept = f"{slope[0]:g}", f"{slope[1]:g}"
            pixels = np.round(echoes[e, :, :, z]).T.astype(np.int16 if signed else np.uint16)
            frame.PixelData = np.ascontiguousarray(pixels).tobytes()
            frame.save_as(folder / f"{series}_{instance:04d}.dcm", enforce_file_format=True)
            instance += 1


def write_siemens(
    folder: Path, *, number: int = 5, seed: int = 0, description: str = "gre"
) -> tuple[np.ndarray, np.ndarray]:
    """Write magnitude and phase in two series; the phase 0 to 4095 with the slope 2 and the intercept -4096."""
    magnitude, phase = head(seed)
    wrapped = np.angle(np.exp(1j * phase))
    stored = np.clip(np.round((wrapped / np.pi + 1) * 2048), 0, 4095)
    common = {"manufacturer": "SIEMENS", "signed": False, "description": description}
    write_series(folder, magnitude, image_type=("ORIGINAL", "PRIMARY", "M", "ND"), number=number, **common)
    write_series(
        folder, stored, image_type=("ORIGINAL", "PRIMARY", "P", "ND"), number=number + 1, slope=(2, -4096), **common
    )
    return np.round(magnitude), 2 * stored - 4096


def write_ge(folder: Path, *, number: int = 7, seed: int = 1) -> np.ndarray:
    """Write magnitude, real and imaginary parts in one series; give the complex signal."""
    magnitude, phase = head(seed)
    signal = magnitude * np.exp(1j * phase)
    parts = {0: magnitude, 2: signal.real, 3: signal.imag}
    count = len(TIMES_MS) * SHAPE[2]
    for i, (kind, values) in enumerate(parts.items()):
        write_series(
            folder,
            values,
            manufacturer="GE MEDICAL SYSTEMS",
            image_type=("ORIGINAL", "PRIMARY", "OTHER"),
            number=number,
            ge_kind=kind,
            first_instance=1 + i * count,
        )
    return np.round(signal.real) + 1j * np.round(signal.imag)


@pytest.fixture(scope="session")
def dicom_series() -> Callable[..., None]:
    """Write one series of DICOM files."""
    return write_series


@pytest.fixture(scope="session")
def siemens() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Write magnitude and phase of Siemens; give what is stored."""
    return write_siemens


@pytest.fixture(scope="session")
def ge() -> Callable[..., np.ndarray]:
    """Write magnitude, real and imaginary parts of GE; give the complex signal."""
    return write_ge


@pytest.fixture
def echoes() -> tuple[np.ndarray, np.ndarray]:
    """Magnitude, and phase in rad, (3, 8, 7, 6)."""
    rng = np.random.default_rng(4)
    shape = (3, 8, 7, 6)
    return rng.uniform(100, 1000, shape).astype(np.float32), rng.uniform(-3, 3, shape).astype(np.float32)


@pytest.fixture(scope="session")
def save_echoes(oblique_affine: np.ndarray) -> Callable[..., list[str]]:
    """Write a file an echo, with sidecars where there are any."""

    def save(
        folder: Path,
        name: str,
        values: np.ndarray,
        *,
        sidecars: list[dict[str, Any]] | None = None,
        affine: np.ndarray = oblique_affine,
        ending: str = ".nii.gz",
    ) -> list[str]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{name}{index + 1}{ending}" for index in range(len(values))]
        for index, path in enumerate(paths):
            nib.save(nib.Nifti1Image(values[index], affine), path)
            if sidecars is not None:
                path.with_name(f"{name}{index + 1}.json").write_text(json.dumps(sidecars[index]))
        return list(map(str, paths))

    return save
