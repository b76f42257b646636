"""Images of a BIDS dataset with their entities and inherited sidecars, by pybids."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from custom_transforms.checks import InputError

from .headers import check_sidecar_size

SHORT_ENTITIES = {"acquisition": "acq", "reconstruction": "rec", "direction": "dir", "run": "run"}
"""Entities that tell scans of one session apart, with what they are called in file names."""

_ENDINGS = [".nii", ".nii.gz"]
_NOT_NEEDED = ("code", "models", "sourcedata", "stimuli", "func", "dwi", "perf")


@dataclass(frozen=True)
class Image:
    """An image of a dataset.

    Attributes:
        path: its file.
        entities: of its name, by their long names.
        metadata: of its sidecars.
    """

    path: str
    entities: Mapping[str, Any]
    metadata: Mapping[str, Any]

    @property
    def suffix(self) -> str:
        """What the image is, such as MEGRE."""
        return str(self.entities.get("suffix", ""))

    @property
    def echo(self) -> int:
        """Its number among the echoes; 0 without one."""
        return int(self.entities.get("echo", 0))

    def text(self, entity: str) -> str | None:
        """Give an entity as it is in the file's name, None if it has none."""
        return str(self.entities[entity]) if entity in self.entities else None


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Leave out what pybids says of its own plans and of files that are not used here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(bids|bids_validator|universal_pathlib|upath)(\.|$)")
        yield


def subjects_of(root: Path) -> list[str]:
    """List the subjects of a dataset, without "sub-".

    Raises:
        InputError: the folder is no BIDS dataset.
    """
    if not root.is_dir():
        raise InputError(f"there is no folder {root}; check the path")
    subjects = sorted(path.name.removeprefix("sub-") for path in root.glob("sub-*") if path.is_dir())
    if subjects:
        return subjects
    if root.name.startswith("sub-") or (root.name.startswith("ses-") and root.parent.name.startswith("sub-")):
        dataset, subject = (root.parent, root) if root.name.startswith("sub-") else (root.parent.parent, root.parent)
        remedy = f"--participant_label={subject.name.removeprefix('sub-')}"
        raise InputError(f"{root} is one part of a dataset; give {dataset} with {remedy}")
    raise InputError(f"{root} is no BIDS dataset, it has no folder sub-*; give one, or name files with --magnitude")


def open_layout(root: Path, subjects: Sequence[str], *, derivative: bool = False) -> Any:
    """Index the files of some subjects with pybids.

    Raises:
        InputError: no such folder, or a sidecar is not JSON or too large.
    """
    if not root.is_dir():
        raise InputError(f"there is no folder {root}; check the path")
    _check_sidecars(root, subjects)
    chosen = "|".join(map(re.escape, subjects))
    ignore = [re.compile(rf"/({'|'.join(_NOT_NEEDED)})(/|$)"), re.compile(r"/\.")]
    ignore.append(re.compile(rf"^/sub-(?!({chosen})(/|_|$))"))
    with _without_warnings():
        from bids import BIDSLayout, BIDSLayoutIndexer  # takes a second

        try:
            indexer = BIDSLayoutIndexer(validate=False, index_metadata=True, ignore=ignore)
            known = ["bids", "derivatives"]  # names: the latter has label- and desc-, by which masks are told apart
            return BIDSLayout(root.absolute(), validate=False, is_derivative=derivative, config=known, indexer=indexer)
        except (OSError, ValueError, RecursionError) as error:
            file = re.search(r"filename='([^']*)'", str(error))
            damaged = file.group(1) if file else str(error).splitlines()[0]
            raise InputError(f"{root} cannot be read as a BIDS dataset; repair {damaged}, it is not JSON") from error


def _check_sidecars(root: Path, subjects: Sequence[str]) -> None:
    """Refuse sidecars that pybids would read whole, and that would fill the memory."""
    inherited = list(root.glob("*.json"))
    own = [file for label in subjects for file in (root / f"sub-{label}").rglob("*.json")]
    for file in [*inherited, *own]:
        if file.is_file():
            check_sidecar_size(file)


def images_of(layout: Any) -> list[Image]:
    """List the images of a dataset, sorted by their paths."""
    with _without_warnings():
        files = [file for file in layout.get(extension=_ENDINGS) if "subject" in file.get_entities()]
        images = [Image(str(file.path), dict(file.get_entities()), dict(file.get_metadata())) for file in files]
    return sorted(images, key=lambda image: image.path)
