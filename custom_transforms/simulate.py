"""`chisep simulate`: simulated subjects as a BIDS derivative dataset, which `train.json` and `evaluate.json` read.

sub-01/anat/sub-01_localfield.nii.gz             ppm of B0, noisy
            sub-01_R2primemap.nii.gz             1/s, noisy: max(R2* - R2, 0)
            sub-01_R2starmap.nii.gz              1/s, noisy
            sub-01_R2map.nii.gz                  1/s, noisy
            sub-01_desc-brain_mask.nii.gz
            sub-01_desc-para_Chimap.nii.gz       ppm, the truth
            sub-01_desc-dia_Chimap.nii.gz        ppm, the truth, a magnitude
            sub-01_dseg.nii.gz                   regions; their names are in dseg.tsv
            sub-01_echo-1_part-mag_MEGRE.nii.gz  and part-phase (rad), on request
sub-01/sub-01_simulation.json                    everything the subject was made from
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from custom_transforms import keys
from custom_transforms.checks import InputError, user_input
from custom_transforms.data import BIDS_SUFFIXES
from custom_transforms.output import save_map, staged_folder, write_json
from custom_transforms.phantom.acquisition import Acquisition, GradientEchoProtocol
from custom_transforms.phantom.brain import AFFINE, AnatomicalBrain
from custom_transforms.phantom.structures import REGIONS
from custom_transforms.physics import relaxivity_at
from custom_transforms.provenance import versions

FILES = {**BIDS_SUFFIXES, keys.R2STAR: "R2starmap", keys.R2: "R2map", keys.REGIONS: "dseg"}
"""What the file of each map is called after the subject's name."""

UNITS = {
    keys.LOCAL_FIELD: "ppm",
    **dict.fromkeys((keys.R2PRIME, keys.R2STAR, keys.R2), "1/s"),
    **dict.fromkeys((keys.CHI_PARA, keys.CHI_DIA), "ppm"),
    keys.PHASE: "rad",
}


@dataclass(frozen=True)
class Scan:
    """How subjects are measured.

    Args:
        snr: signal of white matter at echo time 0 over the noise SD of one channel.
        b0_tesla: main field in T.
        relaxivity_per_s_ppm: Dr of both sources in 1/s/ppm.
        echoes: also write the gradient echoes.
    """

    snr: float = 100.0
    b0_tesla: float = 3.0
    relaxivity_per_s_ppm: float = 137.0
    echoes: bool = False


def map_path(dataset: Path, subject: str, key: str) -> Path:
    """Give the file of a subject's map in a dataset, for a key of :data:`FILES`."""
    return dataset / subject / "anat" / f"{subject}_{FILES[key]}.nii.gz"


def write_subject(dataset: Path, subject: str, *, brain: AnatomicalBrain, scan: Scan, seeds: tuple[int, int]) -> None:
    """Simulate a subject, measure it and write its files.

    Args:
        dataset: folder of the dataset.
        subject: name, such as "sub-01".
        brain: makes the subject.
        scan: how it is measured.
        seeds: of the subject and of its noise.
    """
    acquisition = Acquisition(
        gradient_echo=GradientEchoProtocol(b0_tesla=scan.b0_tesla),
        relaxivity_para_per_s_ppm=scan.relaxivity_per_s_ppm,
        relaxivity_dia_per_s_ppm=scan.relaxivity_per_s_ppm,
    )
    tissue = brain(seeds[0])
    noise = torch.Generator(tissue[keys.MASK].device).manual_seed(seeds[1])
    maps = acquisition(tissue, snr=scan.snr, generator=noise, echoes=scan.echoes)
    maps[keys.MASK] = maps[keys.MASK].byte()
    affine = tissue[AFFINE]
    for key in FILES:
        save_map(map_path(dataset, subject, key), maps[key], affine)
    if scan.echoes:
        _write_echoes(dataset / subject / "anat", subject, maps, acquisition.gradient_echo, affine)
    sidecar = {
        "subject_seed": seeds[0],
        "noise_seed": seeds[1],
        "scan": asdict(scan),
        "gradient_echo_times_s": acquisition.gradient_echo.echo_times_s,
        "spin_echo_times_s": acquisition.spin_echo.echo_times_s,
        "voxel_size_mm": brain.voxel_size_mm,
        "tilt_range_deg": brain.tilt_range_deg,
        "b0_direction": [round(b, 6) for b in tissue[keys.B0_DIRECTION].tolist()],
        "lesions": brain.lesions,
        "units": {suffix: UNITS[key] for key, suffix in FILES.items() if key in UNITS},
        "sign": "chi_para and chi_dia are magnitudes; the field is that of chi_para - chi_dia",
    }
    write_json(dataset / subject / f"{subject}_simulation.json", sidecar)


def _write_echoes(
    folder: Path, subject: str, maps: dict[str, Tensor], protocol: GradientEchoProtocol, affine: Tensor
) -> None:
    for part, key in (("mag", keys.MAGNITUDE), ("phase", keys.PHASE)):
        for i, echo_time_s in enumerate(protocol.echo_times_s):
            name = f"{subject}_echo-{i + 1}_part-{part}_MEGRE"
            save_map(folder / f"{name}.nii.gz", maps[key][i : i + 1], affine)
            unit = {"Units": UNITS[key]} if key in UNITS else {}
            sidecar = {"EchoTime": echo_time_s, "MagneticFieldStrength": protocol.b0_tesla, **unit}
            write_json(folder / f"{name}.json", sidecar)


def write_dataset_files(dataset: Path) -> None:
    """Write dataset_description.json and the table of regions."""
    description: dict[str, Any] = {
        "Name": "Simulated susceptibility sources",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "chisep", "Version": versions()["chisep"]}],
    }
    write_json(dataset / "dataset_description.json", description)
    rows = "".join(f"{index}\t{name}\n" for name, index in REGIONS.items())
    (dataset / "dseg.tsv").write_text(f"index\tname\n{rows}", encoding="utf-8")


def _draw_seeds(seed: int, subject: int) -> tuple[int, int]:
    # cohorts of neighbouring seeds share no subject
    anatomy, noise = np.random.SeedSequence([seed, subject]).generate_state(2)
    return int(anatomy), int(noise)


def simulate(
    *,
    output: str,
    subjects: int = 1,
    seed: int = 0,
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0),
    tilt_deg: float = 0.0,
    snr: float = 100.0,
    b0_tesla: float = 3.0,
    relaxivity: float | None = None,
    lesions: int = 0,
    echoes: bool = False,
) -> None:
    """Simulate anatomical subjects and their measurement, and write them as a BIDS derivative dataset.

    Args:
        output: folder of the dataset; it must be new or empty.
        subjects: number of subjects.
        seed: the same seed gives the same subjects.
        voxel_size: x,y,z in mm.
        tilt_deg: angle between the head and B0 in degrees; the side is random.
        snr: signal of white matter at echo time 0 over the noise SD of one channel.
        b0_tesla: field strength in T; it scales phase and R2', R2 stays that of 3 T.
        relaxivity: R2' of 1 ppm in 1/s, for both sources; 137 at 3 T, scaled with b0_tesla, if not given.
        lesions: number of haemorrhages and calcifications in each subject.
        echoes: also write the magnitude and phase of the gradient echoes.
    """
    folder = Path(output)
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"the output {folder} is not empty; choose a new folder")
    for name, value in {"subjects": subjects, "snr": snr, "b0_tesla": b0_tesla, "relaxivity": relaxivity}.items():
        if value is not None and value <= 0:
            raise InputError(f"--{name} must be positive, got {value:g}")
    for name, count in {"seed": seed, "lesions": lesions}.items():
        if count < 0:
            raise InputError(f"--{name} must not be negative, got {count}")
    with user_input():
        brain = AnatomicalBrain(voxel_size_mm=voxel_size, tilt_deg=tilt_deg, lesions=lesions)
    scan = Scan(snr, b0_tesla, relaxivity_at(b0_tesla) if relaxivity is None else relaxivity, echoes)
    with staged_folder(folder) as stage:
        for number in tqdm(range(1, subjects + 1), desc="simulating", unit="subject", disable=None):
            write_subject(stage, f"sub-{number:02d}", brain=brain, scan=scan, seeds=_draw_seeds(seed, number))
        write_dataset_files(stage)
    print(f"{subjects} simulated in {folder}")
