"""`chisep run`: raw multi-echo data in, susceptibility maps and a report out."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from custom_transforms.checks import InputError, user_input
from custom_transforms.options import choose_device
from custom_transforms.output import staged_folder
from custom_transforms.pipeline.derivatives import REPORT, WORK, scan_path, write_description
from custom_transforms.pipeline.pages import write_cohort_regions
from custom_transforms.pipeline.run_options import RunOptions
from custom_transforms.pipeline.workers import Outcome, run_scans
from custom_transforms.preprocessing import BackgroundMethod, PhaseUnit, R2StarMethod
from custom_transforms.raw import MAPS, RawScan, explicit_scan, find_scans
from custom_transforms.transforms.geometry import unit_vector
from custom_transforms.transforms.reference import Reference

_FAILED = 1  # exit code of a cohort in which some scan failed
_FILES = ("magnitude", "phase", "spin_echo")
_SAID = ("echo_times_s", "b0_tesla", "vendor", "spin_echo_times_s")
_PREPROCESSING = ("phase_unit", "background", "r2star_method", "skip_first_spin_echo", "register_spin_echo")


def run(
    input: str | None = None,
    *,
    output: str,
    magnitude: str | None = None,
    phase: str | None = None,
    echo_times_s: tuple[float, ...] | None = None,
    b0_tesla: float | None = None,
    vendor: str | None = None,
    spin_echo: str | None = None,
    spin_echo_times_s: tuple[float, ...] | None = None,
    mask: str | None = None,
    unwrapped_phase: str | None = None,
    total_field: str | None = None,
    local_field: str | None = None,
    r2star: str | None = None,
    r2: str | None = None,
    r2prime: str | None = None,
    participant_label: str | None = None,
    session_label: str | None = None,
    series: int | None = None,
    derivatives: str | None = None,
    variant: str | None = None,
    phase_unit: PhaseUnit = "auto",
    phase_sign: str = "auto",
    background: BackgroundMethod = "pdf",
    r2star_method: R2StarMethod = "weighted",
    skip_first_spin_echo: bool = False,
    register_spin_echo: bool = True,
    b0_direction: tuple[float, float, float] | None = None,
    relaxivity: float | None = None,
    relaxivity_para: float | None = None,
    relaxivity_dia: float | None = None,
    reference: Reference = "none",
    uncertainty: bool = False,
    refine: bool = True,
    regions: bool = True,
    device: str = "auto",
    workers: int = 1,
    force: bool = False,
    keep_work: bool = False,
    verbose: bool = False,
) -> None:
    """Go from raw multi-echo data to chi_para, chi_dia, chi_total and a report, as a BIDS derivative.

    Args:
        input: BIDS dataset (MEGRE magnitude and phase, MESE or R2map if there) or folder of DICOM files; or none, and
            files are named.
        output: folder of the derivative; scans that are done there are skipped.
        magnitude: one file with all echoes, or one an echo with commas between them.
        phase: likewise; its unit and sign are found out.
        echo_times_s: in seconds, with commas between them; from the sidecars if not given.
        b0_tesla: field strength in T; from the sidecars if not given.
        vendor: GE, Siemens, Philips, Canon or UIH; from the sidecars if not given.
        spin_echo: magnitude of spin echoes, for R2, as for magnitude.
        spin_echo_times_s: their echo times in seconds.
        mask: your own brain mask, which is honoured.
        unwrapped_phase: your own, in rad, instead of unwrapping.
        total_field: your own, in ppm, instead of fitting it.
        local_field: your own, in ppm, instead of removing the background.
        r2star: your own, in 1/s.
        r2: your own, in 1/s; on any grid.
        r2prime: your own, in 1/s.
        participant_label: subjects of the BIDS dataset, with commas between them, all if not given; of other input the
            name of its subject.
        session_label: sessions, likewise.
        series: number of the DICOM series, if there are several that it could be.
        derivatives: folder of BIDS derivatives with masks or R2 maps of the subjects.
        variant: network or conventional method; see chisep reconstruct.
        phase_unit: auto, rad, degrees or scaled (integers of a scanner).
        phase_sign: auto (by vendor, tested on veins and deep grey matter), 1 or -1.
        background: removal by pdf, which keeps the whole mask, vsharp, or pdf+vsharp.
        r2star_method: weighted or arlo.
        skip_first_spin_echo: leave the first spin echo out of the fit of R2.
        register_spin_echo: find the motion between gradient and spin echoes; False trusts the headers.
        b0_direction: x,y,z along the axes of the stored image; that of the affine if not given.
        relaxivity: R2' of 1 ppm in 1/s; 137 at 3 T, scaled with the field strength, if not given.
        relaxivity_para: that of paramagnetic sources alone, with relaxivity_dia.
        relaxivity_dia: that of diamagnetic sources alone, with relaxivity_para.
        reference: zero of chi_total; none, csf or brain.
        uncertainty: write standard deviations too.
        refine: remove the background and separate the sources a second time, given the sources of the first.
        regions: register the template and write a table of regions.
        device: auto, cpu, cuda, cuda:1 and so on; several with commas between them are used in turn.
        workers: number of scans at once.
        force: warn of implausible values instead of refusing them.
        keep_work: leave the cache of scans that are done.
        verbose: write a line for each stage.
    """
    run_on(run_scans, locals())


class Runner(Protocol):
    """Processes scans and yields each outcome when it is there, as :func:`run_scans` does."""

    def __call__(
        self, scans: Sequence[RawScan], options: RunOptions, output: Path, *, workers: int
    ) -> Iterator[Outcome]:
        """Process the scans, ``workers`` at once."""
        ...


def run_on(runner: Runner, arguments: Mapping[str, Any]) -> None:
    """Do what :func:`run` does, with another runner of the scans, such as one that sends them to a cluster.

    Args:
        runner: processes the scans.
        arguments: those of run, by their names; the others have their defaults.
    """
    bound = inspect.signature(run).bind(**arguments)
    bound.apply_defaults()
    given = bound.arguments
    folder = Path(given["output"])
    options = _options(given)
    scans = _scans(given, folder)
    with staged_folder(folder) as stage:
        write_description(stage, given["input"] or "files named one by one")
    outcomes = _run_all(runner, scans, options, folder, given["workers"])
    write_cohort_regions(folder)
    _report(outcomes, folder)


def _options(given: Mapping[str, Any]) -> RunOptions:
    """Check how scans shall be processed."""
    for name in given["device"].split(","):
        choose_device(name)
    if given["workers"] < 1:
        raise InputError(f"--workers must be 1 or more, got {given['workers']}")
    sign, direction = given["phase_sign"], given["b0_direction"]
    if sign not in ("auto", "1", "-1"):
        raise InputError(f"--phase_sign is auto, 1 or -1, got {sign}")
    with user_input():
        unit = None if direction is None else unit_vector(direction).tolist()
    preprocessing = {name: given[name] for name in _PREPROCESSING}
    preprocessing |= {"phase_sign": sign if sign == "auto" else int(sign), "b0_direction": unit}
    others = {field.name: given[field.name] for field in fields(RunOptions) if field.name != "preprocessing"}
    return RunOptions(preprocessing, **others)


def _scans(given: Mapping[str, Any], folder: Path) -> list[RawScan]:
    """Find the scans, with what the user says of them."""
    source, label = given["input"], given["participant_label"]
    maps = {key: given[key] for key in MAPS if given[key] is not None}
    said = {**{name: given[name] for name in _SAID}, "maps": maps}
    named = {name: given[name] for name in _FILES}
    if source is None:
        scans = [explicit_scan(**named, **said)]
    else:
        _refuse_files_with(source, named)
        found = find_scans(
            source,
            folder / WORK,
            participant_label=label,
            session=given["session_label"],
            derivatives=[given["derivatives"]] if given["derivatives"] else (),
            series=given["series"],
        )
        _refuse_maps_of_several(source, maps, len(found))
        scans = [scan.with_settings(**said) for scan in found]
    return [replace(scan, name=_bids_name(scan.name, label)) for scan in scans]


def _refuse_files_with(source: str, files: dict[str, str | None]) -> None:
    named = [f"--{key}" for key, path in files.items() if path is not None]
    if named:
        raise InputError(f"{', '.join(named)} and the folder {source} are given; give one or the other")


def _refuse_maps_of_several(source: str, maps: dict[str, str], count: int) -> None:
    if maps and count > 1:
        named = ", ".join(f"--{key}" for key in maps)
        raise InputError(f"{named} is of one scan, but {source} has {count}; name one with --participant_label")


def _bids_name(name: str, participant_label: str | None) -> str:
    """Give the name of a scan that comes from DICOM or from single files the form of BIDS."""
    if name.startswith("sub-"):
        return name
    letters = "".join(filter(str.isalnum, participant_label or name))
    return f"sub-{letters or '01'}"


def _run_all(
    runner: Runner, scans: Sequence[RawScan], options: RunOptions, folder: Path, workers: int
) -> list[Outcome]:
    outcomes = []
    several = len(scans) > 1
    with tqdm(total=len(scans), desc="scans", unit="scan", position=1, disable=None if several else True) as bar:
        for outcome in runner(scans, options, folder, workers=workers):
            outcomes.append(outcome)
            bar.update()
            for warning in outcome.warnings:
                tqdm.write(f"chisep: warning: {outcome.name}: {warning}", file=sys.stderr)
            if several and outcome.state == "failed":
                tqdm.write(f"chisep: {outcome.name} failed: {outcome.message}", file=sys.stderr)
    return outcomes


def _report(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Say what became of the scans; one that failed alone is an error of its user's."""
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if failed and len(outcomes) == 1:
        raise InputError(failed[0].message)
    count = {state: sum(outcome.state == state for outcome in outcomes) for state in ("done", "skipped", "failed")}
    first = next((outcome for outcome in outcomes if outcome.state != "failed"), None)
    where = f"; look at {scan_path(folder, first.name, REPORT)}" if first else ""
    print(f"{count['done']} done, {count['skipped']} were done before, {count['failed']} failed, in {folder}{where}")
    if failed:
        for outcome in failed:
            print(f"chisep: {outcome.name}: {outcome.message}", file=sys.stderr)
        sys.exit(_FAILED)
