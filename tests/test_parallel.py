"""Ten requests at once: in folders of their own all are done, in one folder one is, and the others are refused."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom_transforms import keys
from custom_transforms.checks import InputError
from custom_transforms.output import only_writer
from custom_transforms.reconstruct import RECORD, reconstruct
from custom_transforms.separation import MAPS

REQUESTS = 10
TWO_REQUESTS = """
import json, pathlib, sys, time
from custom_transforms.cli import main

ready, gate, own, shared, *options = sys.argv[1:]

def ask(output):
    sys.argv = ["chisep", "reconstruct", *options, f"--output={output}"]
    try:
        main()
    except SystemExit as stop:
        return stop.code
    return 0

first = ask(own)
pathlib.Path(ready).touch()
while not pathlib.Path(gate).exists():
    time.sleep(0.05)
print(json.dumps([first, ask(shared)]))
"""


def volumes(folder: Path) -> list[np.ndarray]:
    return [np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj) for name in MAPS]


@pytest.fixture(scope="module")
def requests(
    head: dict[str, np.ndarray], store: Callable[..., dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, str]]:
    """Files of ten subjects, whose fields differ; a corner of the head."""
    corner = {name: volume[6:22, 6:22, 4:20] for name, volume in head.items()}
    folder = tmp_path_factory.mktemp("requests")
    fields = [corner[keys.LOCAL_FIELD] * (1 + 0.05 * index) for index in range(REQUESTS)]
    return [store(folder / str(i), {**corner, keys.LOCAL_FIELD: field}) for i, field in enumerate(fields)]


def ask_at_once(
    requests: list[dict[str, str]], own: list[Path], shared: Path, work: Path
) -> list[tuple[list[int], str]]:
    """Ask for a folder of one's own, wait for the others, and all at once for the shared one; give codes and words."""
    work.mkdir()
    ready, gate = [work / str(index) for index in range(len(requests))], work / "gate"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = []
    for files, mark, folder in zip(requests, ready, own, strict=True):
        options = [f"--{key}={value}" for key, value in {**files, "field_unit": "ppm", "device": "cpu"}.items()]
        command = [sys.executable, "-c", TWO_REQUESTS, *map(str, (mark, gate, folder, shared)), *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, env=environment, **pipes))
    try:
        while not all(mark.exists() for mark in ready) and all(process.poll() is None for process in processes):
            time.sleep(0.1)
        gate.touch()
        said = [process.communicate() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [(json.loads(out.splitlines()[-1]), words) for out, words in said]


@pytest.mark.doors
@pytest.mark.processes
@pytest.mark.timeout(1200)
def test_ten_requests_at_once(requests: list[dict[str, str]], tmp_path: Path) -> None:
    own, shared = [tmp_path / "own" / str(index) for index in range(REQUESTS)], tmp_path / "shared" / "maps"
    answers = ask_at_once(requests, own, shared, tmp_path / "work")
    assert [codes[0] for codes, _ in answers] == [0] * REQUESTS, answers
    assert all(codes[1] in (0, 2) for codes, _ in answers), answers
    refused = [words for codes, words in answers if codes[1] == 2]
    assert refused
    assert all(words.count("another chisep writes to") == 1 for words in refused)
    record = json.loads((shared / RECORD).read_text())
    last = next(i for i, files in enumerate(requests) if files[keys.LOCAL_FIELD] in str(record["inputs"]))
    assert answers[last][0][1] == 0
    same = [[np.array_equal(a, b) for a, b in zip(volumes(shared), volumes(one), strict=True)] for one in own]
    assert [index for index, maps in enumerate(same) if all(maps)] == [last]  # the maps of one request, whole
    assert not any(any(maps) for index, maps in enumerate(same) if index != last)
    assert [path.name for path in shared.parent.iterdir()] == ["maps"]


def test_a_folder_that_is_taken_is_refused(requests: list[dict[str, str]], tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    with only_writer(folder), pytest.raises(InputError, match="another chisep writes to"):
        reconstruct(**requests[0], field_unit="ppm", output=str(folder))
    assert not list(tmp_path.iterdir())
    reconstruct(**requests[0], field_unit="ppm", output=str(folder))
    assert [path.name for path in tmp_path.iterdir()] == ["maps"]


def test_another_folder_is_free(tmp_path: Path) -> None:
    with only_writer(tmp_path / "a"), only_writer(tmp_path / "b"):
        pass
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written_the_lock_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with only_writer(tmp_path / "file" / "maps"):
        pass
