"""`chisep reconstruct`: check the input, run the bundle's inference.json on it, record what was done."""

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from custom_transforms import keys
from custom_transforms.checks import InputError, check_maps, rate_key, read_map, user_input
from custom_transforms.inferers import AxialInferer, GeometryInferer
from custom_transforms.networks.uncertainty import INTERVALS
from custom_transforms.options import (
    Settings,
    check_magnitude,
    check_plausible,
    check_uncertainty,
    choose_device,
    choose_relaxivities,
    choose_variant,
    refuse_two_relaxivities,
)
from custom_transforms.output import staged_folder, write_json
from custom_transforms.physics import hz_per_ppm
from custom_transforms.plausibility import doubtful_sign, notes
from custom_transforms.provenance import (
    describe_convergence,
    describe_files,
    describe_geometry,
    describe_weights,
    peak_memory_gib,
    versions,
)
from custom_transforms.report.figures import save_maps_figure
from custom_transforms.transforms.field import FieldUnit
from custom_transforms.transforms.geometry import unit_vector
from custom_transforms.transforms.reference import Reference
from custom_transforms.transforms.relaxometry import RateUnit
from custom_transforms.transforms.sources import SD_SUFFIX
from custom_transforms.variants import inference_config

MAPS = (keys.CHI_PARA, keys.CHI_DIA, keys.CHI_TOTAL)
SD_MAPS = tuple(f"{name}{SD_SUFFIX}" for name in MAPS[:2])
RECORD = "reconstruction.json"
FIGURE = "reconstruction.png"
R2PRIME_SOURCE = {keys.R2PRIME: "measured", keys.R2STAR: "predicted from R2*", None: "not used"}


def run_inference(config: ConfigParser, files: Mapping[str, str], output: Path) -> None:
    """Run the bundle's inference.json on one subject.

    Args:
        config: inference.json of a variant, with its settings.
        files: paths of local_field, r2prime or r2star, and mask.
        output: folder for chi_para, chi_dia and chi_total, and for what else the config saves.
    """
    config.update({"datalist": [dict(files)], "output_dir": str(output)})
    logging.getLogger("monai.data.image_writer").setLevel(logging.WARNING)  # it would name the temporary files
    for step in ("initialize", "run"):
        config.get_parsed_content(step)


def _read_checked(
    files: Mapping[str, str], settings: Settings, config: ConfigParser, *, force: bool
) -> tuple[dict[str, MetaTensor], list[str]]:
    """Check the maps; give them, and what to warn of."""
    maps = {key: read_map(key, path) for key, path in files.items()}
    check_maps(maps)
    findings = check_plausible(maps, settings, force=force)
    inferer: GeometryInferer = config.get_parsed_content("inferer")
    return maps, findings + notes(
        maps,
        rate_unit=settings.rate_unit,
        b0_tesla=settings.b0_tesla,
        b0_direction=settings.b0_direction,
        axial_mm=inferer.voxel_size_mm if isinstance(inferer, AxialInferer) else None,
        learned=bool(config["model_file"]),
    )


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
    start = time.monotonic()
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
    chosen = choose_variant(variant, rates)
    torch_device = choose_device(device)
    if uncertainty:
        check_uncertainty(chosen, rates)
    config = inference_config(chosen, device=torch_device, qsm=not rates, uncertainty=uncertainty)
    config.update({**asdict(settings), "magnitude": bool(magnitudes)})
    weights = describe_weights(config)
    refuse_two_relaxivities(config)
    check_magnitude(chosen, magnitude)
    _tell("checking")
    maps, warnings = _read_checked(files, settings, config, force=force)
    record = {
        "variant": chosen,
        "r2prime": R2PRIME_SOURCE[rate_key(files)],
        "inputs": describe_files(files),
        "settings": asdict(settings),
        "forced": force,
        "geometry": describe_geometry(maps[keys.LOCAL_FIELD], settings.b0_direction),
        "unit": "ppm; chi_para and chi_dia are magnitudes, chi_total = chi_para - chi_dia",
        "intervals": {f"{share:.2%}": f"± {factor:g} sd" for share, factor in INTERVALS.items()}
        if uncertainty
        else None,
        "weights": weights,
        "device": str(torch_device),
        "versions": versions(),
    }
    note = f"R2' is not measured but {R2PRIME_SOURCE[keys.R2STAR]} (variant {chosen})" if keys.R2STAR in files else ""
    names = MAPS if rates else MAPS[-1:]
    files_written = names + SD_MAPS if uncertainty else names
    with staged_folder(Path(output)) as stage:
        _tell("separating")
        run_inference(config, files, stage)
        warnings += doubtful_sign(nib.Nifti1Image.from_filename(stage / f"{keys.CHI_TOTAL}.nii.gz").get_fdata(), maps)
        warnings += [note] if note else []
        convergence = describe_convergence(config.get_parsed_content("network"))
        if convergence and not convergence["converged"]:
            warnings.append(f"{chosen} has not converged after {convergence['iteration']} iterations; look at {RECORD}")
        _draw(stage, names, note)
        cost = {"wall_time_s": round(time.monotonic() - start, 1), "peak_memory_gib": round(peak_memory_gib(), 2)}
        write_json(stage / RECORD, {**record, "convergence": convergence, "warnings": warnings, **cost})
    for warning in warnings:
        print(f"chisep: warning: {warning}", file=sys.stderr)
    print(f"{', '.join(f'{name}.nii.gz' for name in files_written)}, {RECORD} and {FIGURE} are in {output}")
