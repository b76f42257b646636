"""`chisep simulate`: simulated subjects as a BIDS derivative dataset, which `train.json` and `evaluate.json` read.

sub-01/anat/sub-01_localfield.nii.gz             ppm of B0, noisy
            sub-01_R2primemap.nii.gz             1/s, noisy: max(R2* - R2, 0)
            sub-01_R2starmap.nii.gz              1/s, noisy
            sub-01_R2map.nii.gz                  1/s, noisy
            sub-01_T2starw.nii.gz                magnitude of all gradient echoes, root of the sum of squares
            sub-01_T2starw.nii.gz                magnitude, noisy: root of the sum of squares of all echoes
            sub-01_desc-brain_mask.nii.gz
            sub-01_desc-para_Chimap.nii.gz       ppm, the truth
            sub-01_desc-dia_Chimap.nii.gz        ppm, the truth, a magnitude
            sub-01_dseg.nii.gz                   regions; their names are in dseg.tsv
            sub-01_echo-1_part-mag_MEGRE.nii.gz  and part-phase (rad), on request
sub-01/sub-01_simulation.json                    everything the subject was made from

With several head orientations each is a session, sub-01/ses-01/anat/sub-01_ses-01_localfield.nii.gz and so on, and has

            ..._desc-cosmos_Chimap.nii.gz        ppm, COSMOS chi_total of all orientations
            ..._desc-cosmospara_Chimap.nii.gz    ppm, label made from it and the mean R2'
            ..._desc-cosmosdia_Chimap.nii.gz     ppm, label, a magnitude
truth.json, cosmos.json                          data lists with the truth, and with those labels
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
from custom_transforms.cohort import SPLIT, check_orientations, turned_heads, write_cosmos_labels, write_data_lists
from custom_transforms.data import BIDS_SUFFIXES, bids_path
from custom_transforms.options import choose_relaxivities
from custom_transforms.output import save_map, staged_folder, write_json
from custom_transforms.phantom.acquisition import Acquisition, GradientEchoProtocol
from custom_transforms.phantom.brain import AFFINE, AnatomicalBrain
from custom_transforms.phantom.structures import REGIONS
from custom_transforms.physics import relaxivity_weights
from custom_transforms.provenance import versions
from custom_transforms.relaxometry import combine_echoes

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
        relaxivity_para_per_s_ppm: Dr of paramagnetic sources in 1/s/ppm.
        relaxivity_dia_per_s_ppm: Dr of diamagnetic sources in 1/s/ppm.
        echoes: also write the gradient echoes.
    """

    snr: float = 100.0
    b0_tesla: float = 3.0
    relaxivity_para_per_s_ppm: float = 137.0
    relaxivity_dia_per_s_ppm: float = 137.0
    echoes: bool = False

    @property
    def relaxivity_per_s_ppm(self) -> float:
        """The mean of both, by which R2' is divided."""
        return relaxivity_weights(self.relaxivity_para_per_s_ppm, self.relaxivity_dia_per_s_ppm)[0]


def map_path(dataset: Path, case: str, key: str) -> Path:
    """Give the file of a case's map in a dataset, for a key of :data:`custom_transforms.data.BIDS_SUFFIXES`."""
    return bids_path(dataset, case, BIDS_SUFFIXES[key])


def write_subject(
    dataset: Path, subject: str, *, brain: AnatomicalBrain, scan: Scan, seeds: tuple[int, int], orientations: int = 1
) -> None:
    """Simulate a subject, measure it and write its files.

    Args:
        dataset: folder of the dataset.
        subject: name, such as "sub-01".
        brain: makes the subject.
        scan: how it is measured.
        seeds: of the subject and of its noise.
        orientations: of the head to B0, each measured with noise of its own; with 3 or more, labels are made from them.
    """
    acquisition = Acquisition(
        gradient_echo=GradientEchoProtocol(b0_tesla=scan.b0_tesla),
        relaxivity_para_per_s_ppm=scan.relaxivity_para_per_s_ppm,
        relaxivity_dia_per_s_ppm=scan.relaxivity_dia_per_s_ppm,
    )
    tissue = brain(seeds[0])
    noise = torch.Generator(tissue[keys.MASK].device).manual_seed(seeds[1])
    scans = {}
    for number, head in enumerate(turned_heads(tissue, orientations, seeds[0]), start=1):
        case = subject if orientations == 1 else f"{subject}_ses-{number:02d}"
        maps = acquisition(head, snr=scan.snr, generator=noise, echoes=True)
        written = {**maps, keys.MASK: maps[keys.MASK].byte(), keys.MAGNITUDE: combine_echoes(maps[keys.MAGNITUDE])}
        for key in BIDS_SUFFIXES:
            save_map(map_path(dataset, case, key), written[key], maps[AFFINE])
        if scan.echoes:
            _write_echoes(dataset, case, maps, acquisition.gradient_echo)
        sidecar = _sidecar(brain, scan, seeds, acquisition, head[keys.B0_DIRECTION])
        if orientations > 1:
            sidecar |= {"orientation": number, "orientations": orientations}
        write_json(dataset.joinpath(*case.split("_")) / f"{case}_simulation.json", sidecar)
        scans[case] = {key: value for key, value in maps.items() if key not in (keys.MAGNITUDE, keys.PHASE)}
    if orientations > 1:
        write_cosmos_labels(dataset, scans, scan.relaxivity_per_s_ppm)


def _sidecar(
    brain: AnatomicalBrain, scan: Scan, seeds: tuple[int, int], acquisition: Acquisition, b0_direction: Tensor
) -> dict[str, Any]:
    return {
        "subject_seed": seeds[0],
        "noise_seed": seeds[1],
        "scan": asdict(scan),
        "gradient_echo_times_s": acquisition.gradient_echo.echo_times_s,
        "spin_echo_times_s": acquisition.spin_echo.echo_times_s,
        "voxel_size_mm": brain.voxel_size_mm,
        "tilt_range_deg": brain.tilt_range_deg,
        "b0_direction": [round(b, 6) for b in b0_direction.tolist()],
        "lesions": brain.lesions,
        "units": {suffix: UNITS[key] for key, suffix in BIDS_SUFFIXES.items() if key in UNITS},
        "sign": "chi_para and chi_dia are magnitudes; the field is that of chi_para - chi_dia",
    }


def _write_echoes(dataset: Path, case: str, maps: dict[str, Tensor], protocol: GradientEchoProtocol) -> None:
    for part, key in (("mag", keys.MAGNITUDE), ("phase", keys.PHASE)):
        for i, echo_time_s in enumerate(protocol.echo_times_s):
            path = bids_path(dataset, case, f"echo-{i + 1}_part-{part}_MEGRE")
            save_map(path, maps[key][i : i + 1], maps[AFFINE])
            unit = {"Units": UNITS[key]} if key in UNITS else {}
            sidecar = {"EchoTime": echo_time_s, "MagneticFieldStrength": protocol.b0_tesla, **unit}
            write_json(path.with_suffix("").with_suffix(".json"), sidecar)


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


def draw_seeds(seed: int, subject: int) -> tuple[int, int]:
    """Give the seeds of a subject's anatomy and noise; cohorts of neighbouring seeds share no subject."""
    anatomy, noise = np.random.SeedSequence([seed, subject]).generate_state(2)
    return int(anatomy), int(noise)


def simulate(
    *,
    output: str,
    subjects: int = 1,
    orientations: int = 1,
    seed: int = 0,
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0),
    tilt_deg: float = 0.0,
    snr: float = 100.0,
    b0_tesla: float = 3.0,
    relaxivity: float | None = None,
    relaxivity_para: float | None = None,
    relaxivity_dia: float | None = None,
    lesions: int = 0,
    echoes: bool = False,
) -> None:
    """Simulate anatomical subjects and their measurement, and write them as a BIDS derivative dataset.

    Args:
        output: folder of the dataset; it must be new or empty.
        subjects: number of subjects.
        orientations: of each head to B0: 1, or 3 and more, which also gives labels by COSMOS, and data lists that split
            three or more subjects 4:1:3.
        seed: the same seed gives the same subjects.
        voxel_size: x,y,z in mm.
        tilt_deg: angle between the head and B0 in degrees, in the first orientation; the side is random.
        snr: signal of white matter at echo time 0 over the noise SD of one channel.
        b0_tesla: field strength in T; it scales phase and R2', R2 stays that of 3 T.
        relaxivity: R2' of 1 ppm in 1/s, for both sources; 137 at 3 T, scaled with b0_tesla, if not given.
        relaxivity_para: that of paramagnetic sources alone, with relaxivity_dia.
        relaxivity_dia: that of diamagnetic sources alone, with relaxivity_para; one orientation only.
        lesions: number of haemorrhages and calcifications in each subject.
        echoes: also write the magnitude and phase of the gradient echoes.
    """
    folder = Path(output)
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"the output {folder} is not empty; choose a new folder")
    for name, value in {"subjects": subjects, "snr": snr, "b0_tesla": b0_tesla}.items():
        if value <= 0:
            raise InputError(f"--{name} must be positive, got {value:g}")
    for name, count in {"seed": seed, "lesions": lesions}.items():
        if count < 0:
            raise InputError(f"--{name} must not be negative, got {count}")
    with user_input():
        check_orientations(orientations)
        brain = AnatomicalBrain(voxel_size_mm=voxel_size, tilt_deg=tilt_deg, lesions=lesions)
    para, dia = choose_relaxivities(relaxivity, relaxivity_para, relaxivity_dia, b0_tesla)
    if orientations > 1 and para != dia:
        raise InputError("labels by COSMOS are made with a single relaxivity; give --relaxivity, or one orientation")
    scan = Scan(snr, b0_tesla, para, dia, echoes)
    with staged_folder(folder) as stage:
        for number in tqdm(range(1, subjects + 1), desc="simulating", unit="subject", disable=None):
            seeds = draw_seeds(seed, number)
            write_subject(stage, f"sub-{number:02d}", brain=brain, scan=scan, seeds=seeds, orientations=orientations)
        write_dataset_files(stage)
        if orientations > 1 and subjects >= len(SPLIT):
            write_data_lists(stage)
    print(f"{subjects} simulated in {folder}")
