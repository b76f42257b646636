"""Data lists: BIDS derivatives and Model-Zoo style JSON, the loader of their volumes, and where results go."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ignite import distributed as idist
from monai.data import DistributedSampler, list_data_collate
from monai.data.folder_layout import FolderLayoutBase
from torch.utils.data import DataLoader, Dataset, IterableDataset

from custom_transforms import keys

Case = dict[str, str]

BIDS_SUFFIXES = {
    keys.LOCAL_FIELD: "localfield",  # ppm
    keys.R2PRIME: "R2primemap",  # 1/s
    keys.MASK: "desc-brain_mask",
    keys.CHI_PARA: "desc-para_Chimap",  # ppm
    keys.CHI_DIA: "desc-dia_Chimap",  # ppm
    keys.R2STAR: "R2starmap",  # 1/s
    keys.R2: "R2map",  # 1/s
    keys.MAGNITUDE: "T2starw",  # any unit; of all echoes
    keys.REGIONS: "dseg",
}
"""What the file of each map is called after the name of its case."""

LABELS = (keys.CHI_PARA, keys.CHI_DIA)
_VALIDATION_EVERY = 5  # one subject of five


def bids_path(dataset: Path, case: str, suffix: str) -> Path:
    """Give the file of a map of a case such as "sub-01" or "sub-01_ses-02" in a BIDS derivative."""
    return dataset.joinpath(*case.split("_"), "anat", f"{case}_{suffix}.nii.gz")


def required_maps(
    *, rate: str | None = keys.R2PRIME, magnitude: bool = False, labelled: bool = False
) -> tuple[str, ...]:
    """Name the maps that every case needs.

    Args:
        rate: "r2prime", "r2star" for gradient echoes alone, or None for the field alone.
        magnitude: the magnitude too.
        labelled: both susceptibility maps too.

    Returns:
        Keys.

    Raises:
        ValueError: another rate.
    """
    if rate not in (keys.R2PRIME, keys.R2STAR, None):
        raise ValueError(f"rate must be {keys.R2PRIME}, {keys.R2STAR} or None, got {rate!r}")
    rates = () if rate is None else (rate,)
    magnitudes = (keys.MAGNITUDE,) if magnitude else ()
    return (keys.LOCAL_FIELD, *rates, keys.MASK, *magnitudes, *(LABELS if labelled else ()))


def _check_files(name: str, case: Case, required: Sequence[str]) -> None:
    absent = [f"{key} ({case.get(key, 'no file')})" for key in required if not Path(case.get(key, "")).is_file()]
    if absent:
        raise FileNotFoundError(f"{name} lacks {', '.join(absent)}; every case needs {', '.join(required)}")


def bids_data_list(
    dataset_dir: str | Path | None,
    *,
    labelled: bool = False,
    rate: str | None = keys.R2PRIME,
    magnitude: bool = False,
) -> list[Case]:
    """List the subjects of a BIDS derivative, ``sub-*/anat`` or ``sub-*/ses-*/anat``.

    The files are ``_localfield`` (ppm), ``_R2primemap`` or ``_R2starmap`` (1/s), ``_desc-brain_mask`` and, where they
    are known, ``_desc-para_Chimap`` and ``_desc-dia_Chimap`` (ppm, magnitudes), all ``.nii.gz``; others of
    :data:`BIDS_SUFFIXES` are listed where they exist.

    Args:
        dataset_dir: folder of the derivative.
        labelled: both susceptibility maps must be there, see :func:`required_maps`.
        rate: "r2prime" or "r2star", the map that must be there, or None.
        magnitude: the magnitude must be there.

    Returns:
        For each subject and session the files by key, sorted by name.

    Raises:
        FileNotFoundError: no folder, no subject, or a file is missing.
        ValueError: another rate.
    """
    required = required_maps(rate=rate, magnitude=magnitude, labelled=labelled)
    folder = Path(dataset_dir or "")
    if dataset_dir is None or not folder.is_dir():
        raise FileNotFoundError(f"no dataset folder {dataset_dir}; name one with --dataset_dir")
    ending = f"_{BIDS_SUFFIXES[keys.LOCAL_FIELD]}.nii.gz"
    fields = sorted(folder.glob(f"sub-*/**/anat/*{ending}"))
    if not fields:
        raise FileNotFoundError(f"{folder} has no subject: expected files like sub-01/anat/sub-01{ending}")
    cases = []
    for field in fields:
        stem = str(field).removesuffix(ending)
        case = {key: f"{stem}_{suffix}.nii.gz" for key, suffix in BIDS_SUFFIXES.items()}
        _check_files(stem, case, required)
        cases.append({key: path for key, path in case.items() if Path(path).is_file()})
    return cases


def read_data_list(path: str | Path, section: str, *, labelled: bool = False, rate: str = keys.R2PRIME) -> list[Case]:
    """Read one section of a data list ``{"training": [{"local_field": ..., "r2prime": ..., ...}], "validation": ...}``.

    Args:
        path: JSON file; relative paths in it are relative to its folder.
        section: name of the section.
        labelled: both susceptibility maps must be there, see :func:`required_maps`.
        rate: "r2prime" or "r2star", the map that must be there.

    Returns:
        For each case the files by key, in the order of the list.

    Raises:
        FileNotFoundError: the list or a file in it is missing.
        ValueError: the section is missing or empty, or another rate.
    """
    required = required_maps(rate=rate, labelled=labelled)
    if not Path(path).is_file():
        raise FileNotFoundError(f"no data list {path}")
    content = json.loads(Path(path).read_text())
    if not content.get(section):
        raise ValueError(f"{path} must have a list {section!r}; it has {', '.join(map(repr, content)) or 'nothing'}")
    cases = [{key: str(Path(path).parent / file) for key, file in case.items()} for case in content[section]]
    for i, case in enumerate(cases):
        _check_files(f"{path}: case {i} of {section}", case, required)
    return cases


def training_data(
    dataset_dir: str | None, data_list: str | None, section: str | None, *, rate: str = keys.R2PRIME
) -> list[Case]:
    """List the user's own cases with known susceptibilities; none if neither a folder nor a list is given.

    Args:
        dataset_dir: folder, see :func:`bids_data_list`; every fifth subject, the first included, is for validation,
            with all sessions.
        data_list: JSON file, see :func:`read_data_list`.
        section: "training" or "validation", or any other of a list, such as "test"; None takes all subjects of a
            folder, or the list's "validation".
        rate: "r2prime" or "r2star", the map that must be there.

    Returns:
        Cases.

    Raises:
        FileNotFoundError: something is missing.
        ValueError: both are given, or a folder has too few subjects to validate on one, or no such section.
    """
    if dataset_dir is not None and data_list is not None:
        raise ValueError("give --dataset_dir or --data_list, not both")
    if data_list is not None:
        return read_data_list(data_list, section or "validation", labelled=True, rate=rate)
    if dataset_dir is None:
        return []
    cases = bids_data_list(dataset_dir, labelled=True, rate=rate)
    if section is None:
        return cases
    if section not in ("training", "validation"):
        raise ValueError(f"{dataset_dir} has training and validation cases, not {section!r}; give a --data_list")
    return _split(dataset_dir, cases, held_out=section == "validation")


def _split(dataset_dir: str, cases: Sequence[Case], *, held_out: bool) -> list[Case]:
    """Keep the cases of the subjects that are held out for validation, or those of the others."""
    subjects = sorted({subject_name(case) for case in cases})
    if len(subjects) < 2:
        raise ValueError(f"{dataset_dir} has one subject; training needs another one for validation")
    validation = subjects[::_VALIDATION_EVERY]
    return [case for case in cases if (subject_name(case) in validation) == held_out]


def share(dataset: Dataset, *, seed: int = 0, shuffle: bool = False) -> DistributedSampler:
    """Share the volumes of a data set among the ranks.

    Args:
        dataset: volumes.
        seed: see :func:`batch_loader`.
        shuffle: in an order that differs from epoch to epoch, some of the volumes twice where their number is not a
            multiple of the ranks, because all must take as many steps in training. Otherwise every volume once.

    Returns:
        The part of this rank; everything in a single process.

    Raises:
        ValueError: there are fewer volumes than ranks.
    """
    count, ranks = len(dataset), idist.get_world_size()  # type: ignore[arg-type]
    if count < ranks:
        raise ValueError(f"expected a volume for each of the {ranks} processes, got {count}; start {count} or fewer")
    return DistributedSampler(
        dataset, even_divisible=shuffle, num_replicas=ranks, rank=idist.get_rank(), shuffle=shuffle, seed=seed
    )


def batch_loader(dataset: Dataset, *, seed: int = 0, shuffle: bool = False) -> DataLoader:
    """Load batches: those that the dataset makes itself, or else one volume at a time.

    Args:
        dataset: an iterable dataset of batches, or volumes of any shape.
        seed: the order of volumes is a function of seed and epoch; see :class:`custom_transforms.handlers.SetEpoch`.
        shuffle: change the order of volumes in every epoch.

    Returns:
        The loader; in distributed training each rank gets its share, see :func:`share`.

    Raises:
        ValueError: see :func:`share`.
    """
    if isinstance(dataset, IterableDataset):
        return DataLoader(dataset, batch_size=None)
    sampler = share(dataset, seed=seed, shuffle=shuffle)
    return DataLoader(dataset, batch_size=1, sampler=sampler, collate_fn=list_data_collate)


def case_name(file: str | Path) -> str:
    """Name the case that a file belongs to: ``sub-01`` or ``sub-01_ses-02`` in BIDS, else folder and stem."""
    found = re.match(r"sub-[^_]+(_ses-[^_]+)?", Path(file).name)
    return found[0] if found else f"{Path(file).parent.name}_{Path(file).name.split('.')[0]}".lstrip("_")


def subject_name(case: Case) -> str:
    """Name the subject of a case, whatever its session."""
    return case_name(case[keys.LOCAL_FIELD]).split("_ses-")[0]


class CaseFolders(FolderLayoutBase):
    """Where the maps of a case go: ``output_dir/NAME.nii.gz``, or ``output_dir/CASE/NAME.nii.gz`` if there are several.

    Args:
        output_dir: folder of the results.
        name: name of the map.
        cases: all cases of the run.

    Raises:
        ValueError: two cases have the same name.
    """

    def __init__(self, *, output_dir: str, name: str, cases: Sequence[Case]) -> None:
        names = [case_name(case[keys.LOCAL_FIELD]) for case in cases]
        if len(set(names)) < len(names):
            raise ValueError(f"the names of the cases must differ, got {', '.join(sorted(names))}; rename their files")
        self.output_dir = Path(output_dir)
        self.name = name
        self.several = len(names) > 1

    def filename(self, *, subject: str = "", **kwargs: Any) -> Path:
        """Give the path of the map of the case that the file ``subject`` belongs to, and make its folder."""
        folder = self.output_dir / case_name(subject) if self.several else self.output_dir
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{self.name}.nii.gz"
