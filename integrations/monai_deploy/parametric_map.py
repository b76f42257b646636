"""Maps as DICOM parametric maps: float32, with unit, and in the study of a series that was measured with them."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian

from custom_transforms.checks import InputError
from custom_transforms.provenance import versions

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_PPM = hd.sr.CodedConcept("[ppm]", "UCUM", "parts per million")
_WINDOW_PPM = 0.2


def read_series(folder: Path) -> list[pydicom.Dataset]:
    """Read the headers of the series that a map shall refer to.

    Raises:
        InputError: there is none, or more than one.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    datasets = [pydicom.dcmread(path, stop_before_pixels=True) for path in files if pydicom.misc.is_dicom(path)]
    series = {str(dataset.get("SeriesInstanceUID")) for dataset in datasets}
    if len(series) != 1:
        raise InputError(f"{folder} holds {len(series)} DICOM series; put one series of the same study there")
    return datasets


def parametric_map(
    name: str, values: np.ndarray, affine: np.ndarray, series: list[pydicom.Dataset]
) -> hd.pm.ParametricMap:
    """Make a parametric map.

    Args:
        name: chi_para, chi_dia or chi_total.
        values: (X, Y, Z) in ppm.
        affine: (4, 4), voxel indices to scanner coordinates (RAS+) in mm.
        series: whose patient, study and frame of reference it takes.

    Returns:
        One frame a slice along Z: rows are Y, columns X.
    """
    lps = _RAS_TO_LPS @ affine
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    axes = lps[:3, :3] / sizes
    patient = hd.CoordinateSystemNames.PATIENT
    positions = [
        hd.PlanePositionSequence(patient, tuple(lps[:3, :3] @ (0, 0, k) + lps[:3, 3])) for k in range(values.shape[2])
    ]
    return hd.pm.ParametricMap(
        source_images=series,
        pixel_array=np.ascontiguousarray(values.transpose(2, 1, 0).astype(np.float32)),
        series_instance_uid=hd.UID(),
        series_number=9000,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="chisep",
        manufacturer_model_name="chisep",
        software_versions=versions()["chisep"],
        device_serial_number="none",
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[_in_ppm(name)],
        window_center=0.0 if name == "chi_total" else _WINDOW_PPM / 2,
        window_width=_WINDOW_PPM,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        content_label=name.upper(),
        content_description=f"{name} in ppm",
        series_description=f"{name} (ppm)",
        pixel_measures=hd.PixelMeasuresSequence((sizes[1], sizes[0]), slice_thickness=sizes[2]),
        plane_orientation=hd.PlaneOrientationSequence(patient, (*axes[:, 0], *axes[:, 1])),
        plane_positions=positions,
    )


def _in_ppm(name: str) -> hd.pm.RealWorldValueMapping:
    """Say that the stored numbers are ppm."""
    return hd.pm.RealWorldValueMapping(
        lut_label=name[:16],
        lut_explanation="magnetic susceptibility",
        unit=_PPM,
        value_range=(-1000.0, 1000.0),
        intercept=0.0,
        slope=1.0,
    )
