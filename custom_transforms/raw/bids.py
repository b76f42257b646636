"""Scans of a BIDS dataset: gradient echoes, spin echoes and maps that somebody already made.

Gradient echoes are ``_MEGRE``, or ``_T2starw`` and ``_GRE``, with part-mag and part-phase or part-real and part-imag
for each echo; spin echoes are ``_MESE``. Sidecars are inherited by the rules of BIDS.

References:
    Gorgolewski et al. 2016, doi:10.1038/sdata.2016.44.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from custom_transforms import keys
from custom_transforms.checks import InputError

from .assembly import SPIN_ECHO, assemble
from .bids_layout import SHORT_ENTITIES, Image, images_of, open_layout, subjects_of
from .scan import RawScan

_GRADIENT_SUFFIXES = ("MEGRE", "T2starw", "GRE")  # the first that has echoes counts
_SPIN_SUFFIX = "MESE"
_MAP_SUFFIXES = {"R2map": keys.R2, "R2starmap": keys.R2STAR, "R2primemap": keys.R2PRIME, "mask": keys.MASK}
_PARTS = {"mag": "magnitude", "phase": "phase", "real": "real", "imag": "imaginary", None: "magnitude"}
_NATIVE_SPACES = (None, "orig", *_GRADIENT_SUFFIXES)
_BRAIN = (None, "brain")

Labels = str | int | Sequence[str | int] | None
_Group = tuple[str | None, ...]  # the values of SHORT_ENTITIES


@dataclass(frozen=True)
class _Session:
    """The images of one session of a subject."""

    name: str
    images: Sequence[Image]
    derived: Sequence[Image]


def _labels(given: Labels, prefix: str) -> list[str]:
    if given is None:
        return []
    listed = given.split(",") if isinstance(given, str) else [given] if isinstance(given, int) else given
    return [str(label).strip().removeprefix(prefix) for label in listed]


def find_bids(
    folder: str | Path,
    participant_label: Labels = None,
    session: Labels = None,
    *,
    derivatives: Sequence[str | Path] = (),
) -> list[RawScan]:
    """Find the scans of a BIDS dataset.

    Args:
        folder: the dataset, with folders sub-*.
        participant_label: one subject or several, with or without "sub-"; None for all.
        session: likewise, with or without "ses-".
        derivatives: folders of BIDS derivatives whose maps of R2, R2*, R2' and whose masks are taken; those of the
            dataset itself always are.

    Returns:
        The scans, sorted by name. One whose sidecars lack something is among them: :func:`load_scan` refuses it.

    Raises:
        InputError: no BIDS dataset, no such subject, or nobody has gradient echoes.
    """
    root = Path(folder)
    chosen = _chosen_subjects(root, _labels(participant_label, "sub-"))
    images = images_of(open_layout(root, chosen))
    derived = [image for path in derivatives for image in images_of(open_layout(Path(path), chosen, derivative=True))]
    sessions = _labels(session, "ses-")
    scans = []
    for one in _sessions(images, derived):
        if not sessions or one.name.partition("_ses-")[2] in sessions:
            scans += _scans_of(one)
    if not scans:
        listed = ", ".join(f"sub-{label}" for label in chosen)
        raise InputError(
            f"{folder} has no gradient echoes with a phase of {listed}; name them "
            "like sub-01/anat/sub-01_echo-1_part-phase_MEGRE.nii.gz, or give files with --magnitude and --phase"
        )
    return sorted(scans, key=lambda scan: scan.name)


def _chosen_subjects(root: Path, wanted: Sequence[str]) -> list[str]:
    present = subjects_of(root)
    absent = [label for label in wanted if label not in present]
    if absent:
        raise InputError(f"{root} has no subject {', '.join(absent)}; there are {', '.join(present)}")
    return list(wanted) or present


def _sessions(images: Sequence[Image], derived: Sequence[Image]) -> list[_Session]:
    def by_name(group: Sequence[Image]) -> dict[str, list[Image]]:
        named: dict[str, list[Image]] = defaultdict(list)
        for image in group:
            labels = [f"sub-{image.entities['subject']}"]
            labels += [f"ses-{image.entities['session']}"] if "session" in image.entities else []
            named["_".join(labels)].append(image)
        return named

    raw, made = by_name(images), by_name(derived)
    return [_Session(name, raw[name], made.get(name, [])) for name in sorted(raw)]


def _group_of(image: Image) -> _Group:
    return tuple(image.text(entity) for entity in SHORT_ENTITIES)


def _groups(images: Sequence[Image], suffix: str) -> dict[_Group, dict[str, list[Image]]]:
    """Sort the images of a suffix by scan, and then by part."""
    found: dict[_Group, dict[str, list[Image]]] = defaultdict(lambda: defaultdict(list))
    for image in images:
        part = image.text("part")
        if image.suffix == suffix and part in _PARTS:
            found[_group_of(image)][_PARTS[part]].append(image)
    return found


def _gradient_groups(images: Sequence[Image]) -> dict[_Group, dict[str, list[Image]]]:
    for suffix in _GRADIENT_SUFFIXES:
        groups = _groups(images, suffix)
        complete = {
            group: parts for group, parts in groups.items() if "phase" in parts or {"real", "imaginary"} <= parts.keys()
        }
        if suffix == _GRADIENT_SUFFIXES[0] and groups and not complete:
            complete = groups  # magnitudes alone: the error of load_scan says what is missing
        if complete:
            return complete
    return {}


def _scans_of(session: _Session) -> list[RawScan]:
    groups = _gradient_groups(session.images)
    varying = [i for i in range(len(SHORT_ENTITIES)) if len({group[i] for group in groups}) > 1]
    spin_groups = _groups(session.images, _SPIN_SUFFIX)
    scans = []
    for group, parts in groups.items():
        labels = [f"{list(SHORT_ENTITIES.values())[i]}-{group[i]}" for i in varying if group[i] is not None]
        notes: list[str] = []
        maps = _maps_of(session, group, notes)
        every = dict(parts) | {SPIN_ECHO: _spin_echoes_of(spin_groups, group, notes)}
        ordered = {key: sorted(images, key=lambda image: image.echo) for key, images in every.items()}
        files = {key: [image.path for image in images] for key, images in ordered.items()}
        sidecars = {key: [image.metadata for image in images] for key, images in ordered.items()}
        scans.append(assemble("_".join([session.name, *labels]), files, sidecars, maps=maps, notes=notes))
    return scans


def _fits(group: _Group, scan: _Group) -> bool:
    return all(entity is None or entity == other for entity, other in zip(group, scan, strict=True))


def _spin_echoes_of(groups: Mapping[_Group, dict[str, list[Image]]], scan: _Group, notes: list[str]) -> list[Image]:
    """Give the spin echoes of the same run and acquisition, else the only ones; several are not chosen from."""
    magnitudes = {group: parts["magnitude"] for group, parts in groups.items() if "magnitude" in parts}
    fitting = {group: images for group, images in magnitudes.items() if _fits(group, scan)} or magnitudes
    if len(fitting) > 1:
        files = ", ".join(Path(images[0].path).name for images in fitting.values())
        notes.append(f"there are several spin-echo scans ({files}); none is used, name one with --spin_echo")
        return []
    return next(iter(fitting.values()), [])


def _is_map(image: Image, scan: _Group) -> bool:
    if image.suffix not in _MAP_SUFFIXES or image.text("space") not in _NATIVE_SPACES:
        return False
    is_mask = image.suffix == "mask"
    return _fits(_group_of(image), scan) and not (
        is_mask and (image.text("label") not in _BRAIN or image.text("desc") not in _BRAIN)
    )


def _maps_of(session: _Session, scan: _Group, notes: list[str]) -> dict[str, str]:
    """Give the maps of a scan; those of derivatives, which were named, come before those of the dataset."""
    found: dict[str, str] = {}
    for image in [*session.derived, *session.images]:
        if not _is_map(image, scan):
            continue
        key = _MAP_SUFFIXES[image.suffix]
        if key in found:
            notes.append(f"{key}: {image.path} is not used, {found[key]} is")
        found.setdefault(key, image.path)
    return found
