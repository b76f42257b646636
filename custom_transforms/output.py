"""What the commands write: maps, JSON files, and folders that appear complete or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from filelock import FileLock, Timeout
from torch import Tensor

from custom_transforms.checks import InputError

_SCANNER = 1  # NIfTI code of an affine that leads to the scanner's coordinates


def _first_existing(folder: Path) -> Path:
    return next(parent for parent in folder.absolute().parents if parent.exists())


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Refuse a folder to which another process writes: results of two of them would be mixed.

    Where a file system has no locks, or nothing can be written, the folder is taken as it is.

    Args:
        folder: where the files shall go; it need not exist.

    Raises:
        InputError: another process has it.
    """
    lock = FileLock(_first_existing(folder) / f".chisep-{folder.name}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(f"another chisep writes to {folder}; wait for its end, or choose another --output") from error
    except OSError:
        yield
        return
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # before the release: who waits for this file makes a new one
        lock.release()


@contextmanager
def staged_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder whose files move into ``folder`` at the end, and only if there was no error.

    It lies beside ``folder``, so that moving is renaming. Files of the same name are replaced, others stay.

    Args:
        folder: where the files shall go; made if need be.

    Raises:
        InputError: nothing can be written there.
    """
    existing = _first_existing(folder)
    try:
        if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise NotADirectoryError
        stage = Path(tempfile.mkdtemp(prefix=".chisep-", dir=existing))
    except OSError as error:
        raise InputError(f"cannot write to the output {folder}; choose a folder that can be made or written") from error
    try:
        yield stage
        for file in sorted(path for path in stage.rglob("*") if path.is_file()):
            target = folder / file.relative_to(stage)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def save_map(path: Path, values: Tensor, affine: Tensor) -> None:
    """Write a map as NIfTI.

    Args:
        path: file that ends in .nii.gz; its folder is made if need be.
        values: (1, X, Y, Z); int16 stays, other integers become uint8, everything else float32.
        affine: (4, 4), voxel indices to scanner coordinates (RAS+) in mm.
    """
    array = values.squeeze(0).cpu().numpy()
    if array.dtype != np.int16:
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.uint8)
    image = nib.Nifti1Image(array, affine.cpu().numpy())
    image.set_sform(image.affine, _SCANNER)
    image.set_qform(image.affine, _SCANNER)
    image.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file that people can read, without NaN."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
