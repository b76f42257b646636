"""`chisep benchmark`: run every variant on every case of a labelled data set, as users run it, and score it.

The result of each case and variant is kept, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tqdm import tqdm

from custom_transforms import keys
from custom_transforms.benchmark.measurement import Failure, Measurement, Result, measure
from custom_transforms.benchmark.page import PAGE, write_scoreboard
from custom_transforms.checks import InputError
from custom_transforms.data import Case, bids_data_list, case_name
from custom_transforms.options import ALL, choose_device, choose_relaxivities, choose_variants
from custom_transforms.output import staged_folder
from custom_transforms.provenance import describe_files
from custom_transforms.variants import inference_config

RESULTS = "results"

Relaxivities = tuple[float | None, float | None, float | None]
"""Of both sources, of paramagnetic and of diamagnetic ones, in 1/s/ppm, as far as they are given."""

_NOT_GIVEN: Relaxivities = (None, None, None)
_B0_TESLA = 3.0


def list_cases(dataset: str, variants: Sequence[str]) -> list[Case]:
    """List the labelled cases of a data set, all with the maps that the variants read.

    Raises:
        FileNotFoundError: no such folder, no subject, or a file is missing.
    """
    if not Path(dataset).is_dir():
        raise FileNotFoundError(f"there is no data set {dataset}; name the folder of a BIDS derivative")
    rates = sorted({str(inference_config(name)["rate"]) for name in variants})
    for rate in rates:  # each says what is missing
        cases = bids_data_list(dataset, labelled=True, rate=rate)
    return cases


def region_labels(dataset: Path) -> dict[str, int]:
    """Read the label of each region by its name from dseg.tsv; none without that file.

    Raises:
        InputError: the file lacks the columns index and name.
    """
    path = dataset / "dseg.tsv"
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8") as file:
        try:
            return {row["name"]: int(row["index"]) for row in csv.DictReader(file, delimiter="\t")}
        except (KeyError, ValueError) as error:
            raise InputError(f"{path} must have the columns index and name, with whole numbers as index") from error


def simulated_scan(case: Case) -> dict[str, Any]:
    """Read how a simulated case was measured, as `chisep simulate` recorded it; nothing of other cases."""
    name = case_name(case[keys.LOCAL_FIELD])
    sidecar = Path(case[keys.LOCAL_FIELD]).parents[1] / f"{name}_simulation.json"
    return dict(json.loads(sidecar.read_text(encoding="utf-8"))["scan"]) if sidecar.is_file() else {}


def plan(
    dataset: str,
    variants: Sequence[str],
    *,
    device: str = "cpu",
    relaxivities: Relaxivities = _NOT_GIVEN,
    b0_tesla: float | None = None,
    jobs: int = 1,
) -> list[Measurement]:
    """List what is to be measured.

    Args:
        dataset: labelled data set in BIDS.
        variants: their names.
        device: where they run.
        relaxivities: those given; else those of the simulation, else the usual one.
        b0_tesla: main field in T, if given.
        jobs: how many run at a time, with a share of the processor each.

    Raises:
        InputError: relaxivities that do not fit together.
        FileNotFoundError: a file is missing.
    """
    labels = region_labels(Path(dataset))
    threads = None if jobs == 1 else max(1, (os.cpu_count() or 1) // jobs)
    planned = []
    for case in list_cases(dataset, variants):
        scan = simulated_scan(case)
        b0 = scan.get("b0_tesla", _B0_TESLA) if b0_tesla is None else b0_tesla
        recorded = (None, scan.get("relaxivity_para_per_s_ppm"), scan.get("relaxivity_dia_per_s_ppm"))
        given: Relaxivities = recorded if relaxivities == _NOT_GIVEN else relaxivities
        para, dia = choose_relaxivities(*given, b0)
        name, files = case_name(case[keys.LOCAL_FIELD]), describe_files(case)
        planned += [Measurement(name, v, files, labels, para, dia, b0, device, threads) for v in variants]
    return planned


def measure_all(planned: Iterable[Measurement], folder: Path, *, jobs: int = 1) -> tuple[list[Result], list[Failure]]:
    """Measure all, or read what was measured before.

    Args:
        planned: what to measure.
        folder: where results are kept.
        jobs: how many fresh processes run at a time.

    Returns:
        Results and failures, both in the order of what was planned.
    """
    with ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(measure, measurement, folder): measurement for measurement in planned}
        try:
            for done in tqdm(as_completed(waiting), total=len(waiting), desc="benchmark", unit="map", disable=None):
                done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    found = [future.result() for future in waiting]
    results = [outcome for outcome in found if isinstance(outcome, Result)]
    return results, [outcome for outcome in found if isinstance(outcome, Failure)]


def benchmark(
    dataset: str,
    *,
    output: str,
    variants: str = ALL,
    device: str = "auto",
    relaxivity: float | None = None,
    relaxivity_para: float | None = None,
    relaxivity_dia: float | None = None,
    b0_tesla: float | None = None,
    jobs: int = 1,
) -> None:
    """Run and score variants on labelled data, files to files: errors, wall time and peak memory in one scoreboard.

    Args:
        dataset: labelled data set in BIDS, such as chisep simulate writes.
        output: folder for scoreboard.md, scores.csv and figures, which are replaced, and for the results of each case
            and variant, which are not made again.
        variants: names with commas between them, or all that have weights.
        device: auto, cpu, cuda, cuda:1 and so on.
        relaxivity: R2' of 1 ppm in 1/s; if not given, that of the simulation, else 137 at 3 T, scaled with b0_tesla.
        relaxivity_para: that of paramagnetic sources alone, with relaxivity_dia.
        relaxivity_dia: that of diamagnetic sources alone, with relaxivity_para.
        b0_tesla: field strength in T; that of the simulation, else 3, if not given.
        jobs: how many to run at a time; with more than one, wall times are those of a shared machine.
    """
    if jobs < 1:
        raise InputError(f"--jobs must be positive, got {jobs}")
    torch_device, (chosen, left_out) = choose_device(device), choose_variants(variants)
    relaxivities = (relaxivity, relaxivity_para, relaxivity_dia)
    planned = plan(dataset, chosen, device=str(torch_device), relaxivities=relaxivities, b0_tesla=b0_tesla, jobs=jobs)
    folder = Path(output)
    with staged_folder(folder) as stage:
        results, failures = measure_all(planned, folder / RESULTS, jobs=jobs)
        print(write_scoreboard(stage, results, failures, left_out=left_out, jobs=jobs))
    print(f"{PAGE}, its numbers and figures are in {output}")
    if failures:
        names = ", ".join(sorted({failure.variant for failure in failures}))
        raise InputError(f"{len(failures)} of {len(planned)} failed ({names}); see {folder / PAGE}")
