"""Many scans: skip what is done, go on after a failure, use several processes or GPUs."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from custom_transforms.checks import InputError
from custom_transforms.output import write_json
from custom_transforms.pipeline.case import process_scan
from custom_transforms.pipeline.derivatives import RECORD, WORK, read_record, scan_path
from custom_transforms.pipeline.run_options import RunOptions
from custom_transforms.provenance import versions
from custom_transforms.raw import RawScan

State = Literal["done", "skipped", "failed"]
_OF_NO_CONSEQUENCE = ("device", "verbose", "keep_work")


class Outcome(NamedTuple):
    """What became of a scan.

    Attributes:
        name: of the scan.
        state: done now, skipped as it was done before, or failed.
        message: why it failed, in one line; or empty.
        warnings: what its report says on top.
        seconds: that it took.
    """

    name: str
    state: State
    message: str = ""
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0


def scan_fingerprint(scan: RawScan, options: RunOptions) -> str:
    """Hash all that the result of a scan depends on: its files, by size and time, its acquisition and the options."""
    described = asdict(scan)
    files = [*scan.magnitude, *scan.phase, *scan.real, *scan.imaginary, *scan.spin_echo, *scan.maps.values()]
    stats = [(file, os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files if Path(file).is_file()]
    chosen = {key: value for key, value in asdict(options).items() if key not in _OF_NO_CONSEQUENCE}
    text = json.dumps([described, stats, chosen, versions()["chisep"]], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def is_done(scan: RawScan, options: RunOptions, output: Path) -> bool:
    """Say whether the same scan was processed with the same options."""
    record = read_record(output, scan.name)
    return record is not None and record.get("fingerprint") == scan_fingerprint(scan, options)


def run_scan(scan: RawScan, options: RunOptions, output: Path, *, bar: bool = True) -> Outcome:
    """Process a scan, unless it is done; a failure is an outcome.

    Args:
        scan: its files.
        options: how.
        output: folder of the derivative.
        bar: see :func:`custom_transforms.pipeline.case.process_scan`.
    """
    start = time.monotonic()
    if is_done(scan, options, output):
        return Outcome(scan.name, "skipped")
    try:
        record = process_scan(scan, options, output, bar=bar)
        record["fingerprint"] = scan_fingerprint(scan, options)
        write_json(scan_path(output, scan.name, RECORD), record)
    except Exception as error:  # one scan must not end a cohort
        cause = _user_error(error)
        message = str(cause) if cause else f"{type(error).__name__}: {error}; see {_write_traceback(output, scan.name)}"
        return Outcome(scan.name, "failed", " ".join(message.split()), seconds=time.monotonic() - start)
    return Outcome(scan.name, "done", "", tuple(record["warnings"]), time.monotonic() - start)


def _user_error(error: BaseException | None) -> BaseException | None:
    """Find an error of the user among the causes of an error; MONAI wraps those of its configs."""
    while error is not None and not isinstance(error, InputError | FileNotFoundError):
        error = error.__cause__
    return error


def _write_traceback(output: Path, name: str) -> Path:
    """Write where an error of ours comes from; call it where it is handled."""
    path = output / WORK / name / "traceback.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(traceback.format_exc(), encoding="utf-8")
    return path


def _start_worker(threads: int) -> None:
    torch.set_num_threads(threads)


def run_scans(scans: Sequence[RawScan], options: RunOptions, output: Path, *, workers: int = 1) -> Iterator[Outcome]:
    """Process scans, one after another or on several processes; yield each outcome when it is there.

    Args:
        scans: to be processed.
        options: how; a device such as "cuda:0,cuda:1" deals the scans to several GPUs.
        output: folder of the derivative.
        workers: number of processes, which share the cores.

    Yields:
        Outcomes, in the order in which they come.
    """
    devices = options.device.split(",")
    jobs = [(scan, replace(options, device=devices[i % len(devices)])) for i, scan in enumerate(scans)]
    if workers == 1:
        yield from (run_scan(scan, chosen, output) for scan, chosen in jobs)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")  # a fork would share CUDA and threads that do not survive it
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(threads,)) as pool:
        futures = [pool.submit(run_scan, scan, chosen, output, bar=False) for scan, chosen in jobs]
        for future in as_completed(futures):
            yield future.result()
