"""`chisep simulate-raw`: simulated heads as a scanner leaves them, a raw BIDS dataset, and the truth beside it.

sub-01/anat/sub-01_echo-1_part-mag_MEGRE.nii.gz    gradient echoes, arbitrary unit, whole numbers
            sub-01_echo-1_part-phase_MEGRE.nii.gz  wrapped phase, 4096 levels from -4096 (-pi) to 4094
            sub-01_echo-1_MESE.nii.gz              spin echoes, magnitude
derivatives/truth/sub-01/anat/sub-01_localfield.nii.gz and all other maps that `chisep simulate` writes, here exact
                              sub-01_totalfield.nii.gz  ppm of B0, the field that the phase shows
                  sub-01/sub-01_simulation.json         everything the subject was made from

Every image has a JSON file with its echo time, field strength, manufacturer and the slices' orientation. The first
voxel axis leads to the patient's left, as in images converted from DICOM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from custom_transforms import keys
from custom_transforms.checks import InputError, user_input
from custom_transforms.data import BIDS_SUFFIXES, bids_path
from custom_transforms.output import save_map, staged_folder, write_json
from custom_transforms.phantom.acquisition import Acquisition, GradientEchoProtocol
from custom_transforms.phantom.brain import AFFINE, AnatomicalBrain
from custom_transforms.phantom.head import surround_with_head
from custom_transforms.phantom.raw_acquisition import RawAcquisition
from custom_transforms.preprocessing.phase import PHASE_SIGN
from custom_transforms.provenance import versions
from custom_transforms.relaxometry import combine_echoes
from custom_transforms.simulate import draw_seeds, write_dataset_files

TOTAL_FIELD_SUFFIX = "totalfield"
PHASE_LEVELS = 4096  # stored as every second number from -4096
MAGNITUDE_UNIT = 2000  # of white matter's signal at echo time 0


@dataclass(frozen=True)
class RawMeasurement:
    """How heads are measured.

    Args:
        snr: signal of white matter at echo time 0 over the noise SD of one channel.
        b0_tesla: main field in T.
        vendor: name of the manufacturer, which decides on the sign of the phase.
        spin_echo: write spin echoes too.
    """

    snr: float = 100.0
    b0_tesla: float = 3.0
    vendor: str = "Siemens"
    spin_echo: bool = True


def write_raw_dataset(
    folder: Path, subjects: int, *, brain: AnatomicalBrain, scan: RawMeasurement | None = None, seed: int = 0
) -> None:
    """Simulate heads and write their raw data and the truth.

    Args:
        folder: of the dataset.
        subjects: number of subjects.
        brain: makes them.
        scan: how they are measured.
        seed: the same seed gives the same subjects.
    """
    scan = scan or RawMeasurement()
    truth = folder / "derivatives" / "truth"
    for number in tqdm(range(1, subjects + 1), desc="simulating", unit="subject", disable=None):
        write_raw_subject(folder, truth, f"sub-{number:02d}", brain=brain, scan=scan, seeds=draw_seeds(seed, number))
    write_dataset_files(truth)
    description = {
        "Name": "Simulated multi-echo data of whole heads",
        "BIDSVersion": "1.10.0",
        "DatasetType": "raw",
        "GeneratedBy": [{"Name": "chisep", "Version": versions()["chisep"]}],
    }
    write_json(folder / "dataset_description.json", description)


def write_raw_subject(
    dataset: Path, truth: Path, subject: str, *, brain: AnatomicalBrain, scan: RawMeasurement, seeds: tuple[int, int]
) -> None:
    """Simulate a head, measure it and write its files.

    Args:
        dataset: folder of the raw dataset.
        truth: folder of the derivative with the exact maps.
        subject: name, such as "sub-01".
        brain: makes the brain.
        scan: how the head is measured.
        seeds: of the anatomy, and of coil and noise.
    """
    acquisition = Acquisition(gradient_echo=GradientEchoProtocol(b0_tesla=scan.b0_tesla))
    measure = RawAcquisition(acquisition, sign=PHASE_SIGN[scan.vendor])
    head = flip_first_axis(surround_with_head(brain(seeds[0]), seed=seeds[0]))
    maps = measure(head, snr=scan.snr, generator=torch.Generator().manual_seed(seeds[1]))
    _write_echoes(dataset, subject, maps, acquisition, scan)
    mask = maps[keys.MASK]
    exact = {**maps, keys.R2: mask * maps[keys.R2], keys.MASK: mask.byte()}
    exact[keys.MAGNITUDE] = combine_echoes(maps[keys.MAGNITUDE])
    for key, suffix in {**BIDS_SUFFIXES, keys.TOTAL_FIELD: TOTAL_FIELD_SUFFIX}.items():
        save_map(bids_path(truth, subject, suffix), exact[key], maps[AFFINE])
    sidecar = {
        "subject_seed": seeds[0],
        "noise_seed": seeds[1],
        "scan": asdict(scan),
        "phase_sign": measure.sign,
        "gradient_echo_times_s": acquisition.gradient_echo.echo_times_s,
        "spin_echo_times_s": acquisition.spin_echo.echo_times_s,
        "relaxivity_para_per_s_ppm": acquisition.relaxivity_para_per_s_ppm,
        "relaxivity_dia_per_s_ppm": acquisition.relaxivity_dia_per_s_ppm,
        "voxel_size_mm": brain.voxel_size_mm,
        "tilt_range_deg": brain.tilt_range_deg,
        "b0_direction": [round(b, 6) for b in maps[keys.B0_DIRECTION].tolist()],
        "sign": "chi_para and chi_dia are magnitudes; the fields are those of chi_para - chi_dia",
    }
    write_json(truth / subject / f"{subject}_simulation.json", sidecar)


def flip_first_axis(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the first voxel axis round in all maps (C, X, Y, Z), the affine and the direction of B0."""
    flipped = {key: value.flip(1) if value.ndim == 4 else value for key, value in maps.items()}
    turn = torch.eye(4, dtype=torch.float64)
    turn[0, 0], turn[0, 3] = -1, maps[keys.MASK].shape[1] - 1
    flipped[AFFINE] = maps[AFFINE] @ turn
    flipped[keys.B0_DIRECTION] = maps[keys.B0_DIRECTION] * torch.tensor([-1.0, 1.0, 1.0])
    return flipped


def orientation_patient_dicom(affine: Tensor) -> list[float]:
    """Give DICOM's ImageOrientationPatient: unit vectors along a row and along a column, L, P, S.

    A row is read along the first voxel axis; columns go against the second one, as images are stored from the top.

    Args:
        affine: (4, 4), voxel indices to scanner coordinates (RAS+) in mm.

    Returns:
        Six numbers.
    """
    axes = affine[:3, :2] / affine[:3, :2].norm(dim=0) * torch.tensor([[-1.0], [-1.0], [1.0]]).to(affine)
    return [round(value, 8) + 0.0 for value in (*axes[:, 0].tolist(), *(-axes[:, 1]).tolist())]


def _write_echoes(
    dataset: Path, subject: str, maps: Mapping[str, Tensor], acquisition: Acquisition, scan: RawMeasurement
) -> None:
    images = {"part-mag_MEGRE": (_as_integers(maps[keys.MAGNITUDE]), acquisition.gradient_echo.echo_times_s)}
    images["part-phase_MEGRE"] = (_as_levels(maps[keys.PHASE]), acquisition.gradient_echo.echo_times_s)
    if scan.spin_echo:
        images["MESE"] = (_as_integers(maps[keys.SPIN_ECHO]), acquisition.spin_echo.echo_times_s)
    for suffix, (volumes, echo_times_s) in images.items():
        for number, echo_time_s in enumerate(echo_times_s, start=1):
            path = bids_path(dataset, subject, f"echo-{number}_{suffix}")
            save_map(path, volumes[number - 1][None], maps[AFFINE])
            sidecar: dict[str, Any] = {
                "Manufacturer": scan.vendor,
                "MagneticFieldStrength": scan.b0_tesla,
                "EchoNumber": number,
                "EchoTime": echo_time_s,
                "ImageOrientationPatientDICOM": orientation_patient_dicom(maps[AFFINE]),
                "Units": "arbitrary",
            }
            write_json(path.with_suffix("").with_suffix(".json"), sidecar)


def _as_integers(magnitude: Tensor) -> Tensor:
    return (MAGNITUDE_UNIT * magnitude).round_().clamp_(max=torch.iinfo(torch.int16).max).short()


def _as_levels(phase_rad: Tensor) -> Tensor:
    level = ((phase_rad / torch.pi + 1) * (PHASE_LEVELS / 2)).round_().short() % PHASE_LEVELS
    return 2 * level - PHASE_LEVELS


def simulate_raw(
    *,
    output: str,
    subjects: int = 1,
    seed: int = 0,
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0),
    tilt_deg: float = 0.0,
    snr: float = 100.0,
    b0_tesla: float = 3.0,
    vendor: str = "Siemens",
    spin_echo: bool = True,
) -> None:
    """Simulate whole heads and write what a scanner would give of them, as a raw BIDS dataset with the truth beside it.

    Args:
        output: folder of the dataset; it must be new or empty.
        subjects: number of subjects.
        seed: the same seed gives the same subjects.
        voxel_size: x,y,z in mm.
        tilt_deg: angle between the head and B0 in degrees; the side is random.
        snr: signal of white matter at echo time 0 over the noise SD of one channel.
        b0_tesla: field strength in T; it scales phase and R2', R2 stays that of 3 T.
        vendor: Siemens, GE, Philips, Canon or UIH; the phase of GE has the opposite sign.
        spin_echo: also write spin echoes, from which R2 is fitted.
    """
    folder = Path(output)
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"the output {folder} is not empty; choose a new folder")
    for name, value in {"subjects": subjects, "snr": snr, "b0_tesla": b0_tesla}.items():
        if value <= 0:
            raise InputError(f"--{name} must be positive, got {value:g}")
    if seed < 0:
        raise InputError(f"--seed must not be negative, got {seed}")
    if vendor not in PHASE_SIGN:
        raise InputError(f"--vendor must be one of {', '.join(PHASE_SIGN)}, got {vendor!r}")
    with user_input():
        brain = AnatomicalBrain(voxel_size_mm=voxel_size, tilt_deg=tilt_deg)
    scan = RawMeasurement(snr, b0_tesla, vendor, spin_echo)
    with staged_folder(folder) as stage:
        write_raw_dataset(stage, subjects, brain=brain, scan=scan, seed=seed)
    print(f"{subjects} simulated in {folder}")
