"""`chisep reconstruct`: source separation of a local field and R2' or R2*, with a record and a look at the maps."""

import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from custom_transforms import keys
from custom_transforms.checks import InputError, user_input
from custom_transforms.options import Settings, choose_device, choose_relaxivities, choose_variant
from custom_transforms.output import only_writer, staged_folder, write_json
from custom_transforms.physics import hz_per_ppm
from custom_transforms.report.figures import save_maps_figure
from custom_transforms.separation import MAPS, SourceSeparation
from custom_transforms.transforms.field import FieldUnit
from custom_transforms.transforms.geometry import unit_vector
from custom_transforms.transforms.reference import Reference
from custom_transforms.transforms.relaxometry import RateUnit

RECORD = "reconstruction.json"
FIGURE = "reconstruction.png"


def _tell(step: str) -> None:
    """Show progress to somebody who watches."""
    if sys.stderr.isatty():
        print(f"chisep: {step} ...", file=sys.stderr)


def _draw(folder: Path, names: Sequence[str], note: str) -> None:
    images = {name: nib.Nifti1Image.from_filename(folder / f"{name}.nii.gz") for name in names}
    maps = {name: image.get_fdata(dtype=np.float32) for name, image in images.items()}
    save_maps_figure(folder / FIGURE, maps, images[names[-1]].affine, note=note)


def reconstruct(
    *,
    local_field: str,
    field_unit: FieldUnit,
    mask: str,
    output: str,
    r2prime: str | None = None,
    r2star: str | None = None,
    magnitude: str | None = None,
    variant: str | None = None,
    field_sign: int = 1,
    echo_time_s: float | None = None,
    rate_unit: RateUnit = "per_s",
    b0_direction: tuple[float, float, float] | None = None,
    relaxivity: float | None = None,
    relaxivity_para: float | None = None,
    relaxivity_dia: float | None = None,
    b0_tesla: float = 3.0,
    reference: Reference = "none",
    uncertainty: bool = False,
    device: str = "auto",
    force: bool = False,
) -> None:
    """Separate paramagnetic from diamagnetic susceptibility: chi_para, chi_dia and chi_total in ppm.

    Args:
        local_field: NIfTI of the local field, background removed.
        field_unit: ppm of B0, hz, or rad (unwrapped phase at echo_time_s).
        mask: NIfTI of the brain mask, 1 inside and 0 outside.
        output: folder for the maps, reconstruction.json and reconstruction.png; files of these names are replaced.
        r2prime: NIfTI of R2' = R2* - R2.
        r2star: NIfTI of R2*, instead of R2' if there are no spin echoes; R2' is then predicted, not measured.
        magnitude: NIfTI of the magnitude, of one echo or of several, for the conventional methods that use it.
        variant: network or conventional method, one of the files in bundle/configs/variants; unrolled for R2',
            unrolled_r2star for R2*, if not given. Dipole inversions, such as tv, give chi_total alone without R2'.
        field_sign: -1 for a field map or phase that falls where the field grows, as some vendors store it.
        echo_time_s: echo time in seconds, for a field in rad.
        rate_unit: unit of R2' or R2*; per_s or per_ms.
        b0_direction: x,y,z along the axes of the stored image; that of the affine if not given.
        relaxivity: R2' of 1 ppm in 1/s at b0_tesla; 137 at 3 T, scaled with b0_tesla, if not given.
        relaxivity_para: that of paramagnetic sources alone, with relaxivity_dia.
        relaxivity_dia: that of diamagnetic sources alone, with relaxivity_para.
        b0_tesla: field strength in T.
        reference: zero of chi_total; none, csf (cerebrospinal fluid) or brain (mean of the mask).
        uncertainty: write chi_para_sd and chi_dia_sd too, the standard deviations of both maps.
        device: auto, cpu, cuda, cuda:1 and so on.
        force: go on with values that do not look like their unit, and threshold the mask at 0.5.
    """
    with user_input():
        hz_per_ppm(b0_tesla)
        direction = None if b0_direction is None else unit_vector(b0_direction).tolist()
    para, dia = choose_relaxivities(relaxivity, relaxivity_para, relaxivity_dia, b0_tesla)
    settings = Settings(field_unit, field_sign, echo_time_s, rate_unit, b0_tesla, para, dia, direction, reference)
    if echo_time_s is not None and field_unit != "rad":
        raise InputError(f"--echo_time_s is for a field in rad, not {field_unit}; give one or the other")
    if field_sign not in (1, -1):
        raise InputError(f"--field_sign is 1 or -1, got {field_sign}")
    rates = {key: path for key, path in {keys.R2PRIME: r2prime, keys.R2STAR: r2star}.items() if path is not None}
    magnitudes = {} if magnitude is None else {keys.MAGNITUDE: magnitude}
    files = {keys.LOCAL_FIELD: local_field, **rates, keys.MASK: mask, **magnitudes}
    separation = SourceSeparation(
        settings,
        variant=choose_variant(variant, rates),
        rate=next(iter(rates), None),
        magnitude=magnitude is not None,
        uncertainty=uncertainty,
        device=choose_device(device),
        force=force,
    )
    _tell("checking")
    maps, warnings = separation.check(files)
    with only_writer(Path(output)), staged_folder(Path(output)) as stage:
        _tell("separating")
        result = separation(files, maps, warnings, stage)
        _draw(stage, [name for name in MAPS if name in result.names], result.note)
        write_json(stage / RECORD, result.record)
    for warning in result.warnings:
        print(f"chisep: warning: {warning}", file=sys.stderr)
    print(f"{', '.join(f'{name}.nii.gz' for name in result.names)}, {RECORD} and {FIGURE} are in {output}")
