"""`chisep run` on a Dask cluster: dask_run.py BIDS OUT [--scheduler ADDRESS | --workers N] [-- options of chisep run].

Every scan is a task; without a scheduler N processes of this machine do them. The exit code is that of chisep run.
"""

import argparse
import ast
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from custom_transforms.checks import InputError
from custom_transforms.cli import check_arguments
from custom_transforms.pipeline.command import run_on
from custom_transforms.pipeline.run_options import RunOptions
from custom_transforms.pipeline.workers import Outcome, run_scan
from custom_transforms.raw import RawScan


def run_arguments(bids: str, output: str, options: list[str]) -> dict[str, Any]:
    """Convert options of chisep run; folders become absolute, as the workers' current folders are others."""
    dataset, derivative = (str(Path(folder).absolute()) for folder in (bids, output))
    _, *checked = check_arguments(["run", dataset, "--output", derivative, *options])
    if "--help" in checked:
        raise InputError("what comes after the -- are options of chisep run; see chisep run --help")
    given = {name: ast.literal_eval(value) for name, value in (text[2:].split("=", 1) for text in checked)}
    if "workers" in given or "," in given.get("device", ""):
        raise InputError("Dask deals the scans to its workers; write --workers before the --, and name one --device")
    return given


def deal(client: Any, scans: list[RawScan], options: RunOptions, output: Path, *, workers: int) -> Iterator[Outcome]:
    """Process scans on a Dask client, whose cluster says how many at once; a worker that dies is an outcome."""
    from dask.distributed import as_completed

    futures = {client.submit(run_scan, scan, options, output, bar=False, pure=False): scan.name for scan in scans}
    for future in as_completed(futures):
        error = future.exception()  # of Dask, not of the scan
        lost = " ".join(f"{type(error).__name__}: {error}".split())
        yield Outcome(futures[future], "failed", lost) if error else future.result()


def start_client(scheduler: str | None, workers: int) -> Any:
    """Connect to a scheduler, or start a cluster on this machine."""
    try:
        from dask.distributed import Client
    except ImportError as error:
        raise InputError("Dask is missing; pip install 'dask[distributed]' here and where the workers are") from error
    if workers < 1:
        raise InputError(f"--workers must be 1 or more, got {workers}")
    if scheduler:
        return Client(scheduler)
    client = Client(n_workers=workers, threads_per_worker=1, memory_limit=0, dashboard_address=None)
    client.run(torch.set_num_threads, max(1, (os.cpu_count() or 1) // workers))  # Dask allows each worker one
    return client


def main() -> None:
    """Run the command line; mistakes of the user end in one line on standard error and exit code 2."""
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    parser = argparse.ArgumentParser(usage=(__doc__ or "").splitlines()[0].split(": ")[1].rstrip("."))
    parser.add_argument("bids")
    parser.add_argument("output")
    parser.add_argument("--scheduler")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args(sys.argv[1:split])
    try:
        arguments = run_arguments(given.bids, given.output, sys.argv[split + 1 :])
        with start_client(given.scheduler, given.workers) as client:
            run_on(functools.partial(deal, client), arguments)
    except (InputError, OSError) as error:
        print(f"chisep: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
