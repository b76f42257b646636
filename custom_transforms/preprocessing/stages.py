"""Stages of preprocessing: named steps that are replaced by the user's own maps and cached on disk.

A stage is a MONAI transform of a dictionary with a name. Its **fingerprint** is a hash of the stage's settings and of
the fingerprints of all that it reads; those of the raw data are hashes of their values. So a stage runs again exactly
if something that it depends on has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform
from torch import Tensor

from custom_transforms.keys import NOTES
from custom_transforms.provenance import versions
from custom_transforms.transforms.base import with_meta_of

Data = dict[Hashable, Any]
_SETTINGS = (str, int, float, bool, list, tuple, type(None))


def _digest(*parts: str | bytes | memoryview) -> str:
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part.encode() if isinstance(part, str) else part)
        sha.update(b"\0")
    return sha.hexdigest()


def fingerprint_of(value: Any) -> str:
    """Hash a value of the raw data: the shape, type, affine and numbers of a tensor, or the text of anything else."""
    if not isinstance(value, Tensor):
        return _digest(repr(value))
    array = np.ascontiguousarray(value.detach().cpu().numpy())
    affine = getattr(value, "affine", None)
    return _digest(str(array.shape), str(array.dtype), repr(None if affine is None else affine.tolist()), array.data)


class Stage(Transform):
    """A named step of preprocessing.

    Args:
        transform: what it does to the dictionary.
        name: for progress, cache and record.
        reads: keys it needs; where one is missing, the stage is left out.
        writes: keys it gives. The first that it does not read stands for the stage.
        replaced_by: keys of maps that make the stage pointless if the user brings them, such as a local field for the
            unwrapping of the phase; those it writes, but does not read, always do.
        uses: keys that it takes into account where they are there.
    """

    def __init__(
        self,
        transform: Transform,
        *,
        name: str,
        reads: Sequence[str],
        writes: Sequence[str],
        replaced_by: Sequence[str] = (),
        uses: Sequence[str] = (),
    ) -> None:
        self.transform = transform
        self.name = name
        self.reads = tuple(reads)
        self.writes = tuple(writes)
        self.uses = tuple(uses)
        self.replaced_by = frozenset(replaced_by) | (frozenset(writes[:1]) - frozenset(reads))

    def applies(self, data: Mapping[Hashable, Any], provided: Collection[str] = ()) -> bool:
        """Say whether the stage has work: all that it reads is there, and the user brought nothing that replaces it."""
        return self.replaced_by.isdisjoint(provided) and all(data.get(key) is not None for key in self.reads)

    def settings(self) -> dict[str, Any]:
        """Give the class of the transform and its plain attributes."""
        plain = {key: value for key, value in vars(self.transform).items() if isinstance(value, _SETTINGS)}
        return {"transform": type(self.transform).__name__, **{key: plain[key] for key in sorted(plain)}}

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Run it."""
        return dict(self.transform(data))


class StageCache:
    """What stages gave, in a folder, so that a run that was killed goes on.

    Args:
        folder: of one scan; made when something is stored. None stores nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._known: dict[str, str] = {}

    def _fingerprint(self, stage: Stage, data: Mapping[Hashable, Any]) -> str:
        keys = sorted({*stage.reads, *(key for key in stage.uses if data.get(key) is not None)})
        for key in keys:
            if key not in self._known:
                self._known[key] = fingerprint_of(data[key])
        settings = json.dumps(stage.settings(), sort_keys=True, default=str)
        return _digest(versions()["chisep"], stage.name, settings, *(f"{key}={self._known[key]}" for key in keys))

    def run(self, stage: Stage, data: Mapping[Hashable, Any]) -> tuple[Data, bool]:
        """Give what the stage makes of the data, from the folder if it is there.

        Args:
            stage: to be run.
            data: with all that it reads.

        Returns:
            The data with what the stage writes and its notes, and whether it came from the folder.
        """
        if self.folder is None:
            return stage(data), False
        fingerprint = self._fingerprint(stage, data)
        result = self._restore(stage, data, fingerprint)
        restored = result is not None
        if result is None:
            result = stage(data)
            self._store(stage, data, result, fingerprint)
        self._known |= {key: _digest(fingerprint, key) for key in stage.writes}
        return result, restored

    def _record(self, stage: Stage) -> Path:
        return (self.folder or Path()) / f"{stage.name}.json"

    def _array(self, stage: Stage, key: str) -> Path:
        return (self.folder or Path()) / f"{stage.name}_{key}.npy"

    def _restore(self, stage: Stage, data: Mapping[Hashable, Any], fingerprint: str) -> Data | None:
        try:
            record = json.loads(self._record(stage).read_text(encoding="utf-8"))
            if record["fingerprint"] != fingerprint:
                return None
            written = {key: torch.from_numpy(np.load(self._array(stage, key))) for key in record["writes"]}
        except (OSError, ValueError, KeyError):  # not there, or cut off when the run was killed
            return None
        grid = next(value for key in stage.reads if isinstance(value := data[key], Tensor))
        maps = {key: with_meta_of(value, grid).to(grid.device) for key, value in written.items()}
        return {**data, **maps, NOTES: [*data.get(NOTES, []), *record["notes"]]}

    def _store(self, stage: Stage, data: Mapping[Hashable, Any], result: Data, fingerprint: str) -> None:
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        self._record(stage).unlink(missing_ok=True)
        written = [key for key in stage.writes if isinstance(result.get(key), Tensor)]
        for key in written:
            np.save(self._array(stage, key), result[key].detach().cpu().numpy())
        notes = result.get(NOTES, [])[len(data.get(NOTES, [])) :]
        draft = self._record(stage).with_suffix(".draft")
        draft.write_text(json.dumps({"fingerprint": fingerprint, "writes": written, "notes": notes}), encoding="utf-8")
        os.replace(draft, self._record(stage))
