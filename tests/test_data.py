"""Data lists name the files that are missing; loaders depend on seed and epoch alone; results have their places."""

import json
from itertools import product
from pathlib import Path

import pytest
from torch.utils.data import Dataset

from custom_transforms.data import (
    BIDS_SUFFIXES,
    LABELS,
    CaseFolders,
    batch_loader,
    bids_data_list,
    bids_path,
    case_name,
    read_data_list,
    required_maps,
    subject_name,
    training_data,
)

INPUTS = required_maps()


def make_subjects(root: Path, count: int, keys: tuple[str, ...] = INPUTS + LABELS) -> Path:
    for number in range(1, count + 1):
        folder = root / f"sub-{number:02d}" / "anat"
        folder.mkdir(parents=True)
        for key in keys:
            (folder / f"sub-{number:02d}_{BIDS_SUFFIXES[key]}.nii.gz").touch()
    return root


def test_bids(tmp_path: Path) -> None:
    cases = bids_data_list(make_subjects(tmp_path, 2), labelled=True)
    assert [Path(case["local_field"]).name for case in cases] == [f"sub-0{n}_localfield.nii.gz" for n in (1, 2)]
    assert all(case.keys() == set(INPUTS + LABELS) and all(Path(p).is_file() for p in case.values()) for case in cases)


def test_bids_sessions_without_labels(tmp_path: Path) -> None:
    folder = tmp_path / "sub-1/ses-b/anat"
    folder.mkdir(parents=True)
    for key in INPUTS:
        (folder / f"sub-1_ses-b_{BIDS_SUFFIXES[key]}.nii.gz").touch()
    (case,) = bids_data_list(tmp_path)
    assert case.keys() == set(INPUTS)
    with pytest.raises(FileNotFoundError, match=r"sub-1_ses-b lacks chi_para .*desc-para_Chimap"):
        bids_data_list(tmp_path, labelled=True)


def test_bids_gradient_echoes_alone(tmp_path: Path) -> None:
    """R2* takes the place of R2'."""
    folder = make_subjects(tmp_path, 1, ("local_field", "r2star", "mask", *LABELS))
    (case,) = bids_data_list(folder, rate="r2star")
    assert case.keys() == {"local_field", "r2star", "mask", *LABELS}
    with pytest.raises(FileNotFoundError, match=r"sub-01 lacks r2prime \(.*R2primemap.nii.gz\); every case needs"):
        bids_data_list(folder)
    with pytest.raises(ValueError, match="rate must be r2prime, r2star or None, got 'r2'"):
        bids_data_list(folder, rate="r2")


def test_bids_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no dataset folder None; name one with --dataset_dir"):
        bids_data_list(None)
    with pytest.raises(FileNotFoundError, match="expected files like sub-01/anat/sub-01_localfield"):
        bids_data_list(tmp_path)


def test_list_is_relative_to_its_folder(tmp_path: Path) -> None:
    for key in INPUTS:
        (tmp_path / f"{key}.nii").touch()
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"training": [{key: f"{key}.nii" for key in INPUTS}], "validation": []}))
    assert read_data_list(path, "training") == [{key: str(tmp_path / f"{key}.nii") for key in INPUTS}]
    with pytest.raises(ValueError, match="must have a list 'validation'; it has 'training', 'validation'"):
        read_data_list(path, "validation")
    with pytest.raises(FileNotFoundError, match=r"case 0 of training lacks chi_para \(no file\), chi_dia"):
        read_data_list(path, "training", labelled=True)


def test_training_and_validation_are_apart(tmp_path: Path) -> None:
    folder = str(make_subjects(tmp_path, 7))
    training, validation, everything = (training_data(folder, None, s) for s in ("training", "validation", None))
    assert [Path(case["mask"]).name[:6] for case in validation] == ["sub-01", "sub-06"]
    assert len(training) == 5 and not [case for case in training if case in validation]
    assert len(everything) == 7
    assert training_data(None, None, "training") == []
    with pytest.raises(ValueError, match="not both"):
        training_data(folder, "list.json", "training")


def test_sessions_of_a_subject_stay_together(tmp_path: Path) -> None:
    for subject, session in product(("sub-1", "sub-2", "sub-3"), ("ses-a", "ses-b")):
        for key in INPUTS + LABELS:
            path = bids_path(tmp_path, f"{subject}_{session}", BIDS_SUFFIXES[key])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    training, validation = (training_data(str(tmp_path), None, s) for s in ("training", "validation"))
    assert [subject_name(case) for case in validation] == ["sub-1"] * 2
    assert [subject_name(case) for case in training] == ["sub-2"] * 2 + ["sub-3"] * 2
    with pytest.raises(ValueError, match="has training and validation cases, not 'test'; give a --data_list"):
        training_data(str(tmp_path), None, "test")


def test_one_subject_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one subject"):
        training_data(str(make_subjects(tmp_path, 1)), None, "training")


class Numbers(Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, int]:
        return {"value": index}


def order(seed: int, epoch: int) -> list[int]:
    loader = batch_loader(Numbers(), seed=seed, shuffle=True)
    loader.sampler.set_epoch(epoch)
    return [int(batch["value"]) for batch in loader]


def test_order_is_a_function_of_seed_and_epoch() -> None:
    assert order(0, 3) == order(0, 3)
    assert sorted(order(0, 3)) == list(range(8))
    assert order(0, 3) != order(0, 4)
    assert order(0, 3) != order(1, 3)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a/sub-01/anat/sub-01_localfield.nii.gz", "sub-01"),
        ("sub-01_ses-2_acq-x_localfield.nii.gz", "sub-01_ses-2"),
        ("patients/ada/field.nii.gz", "ada_field"),
        ("field.nii", "field"),
    ],
)
def test_case_names(file: str, name: str) -> None:
    assert case_name(file) == name


def test_places_of_results(tmp_path: Path) -> None:
    cases = [{"local_field": f"p/{name}/field.nii"} for name in ("ada", "bob")]
    one = CaseFolders(output_dir=str(tmp_path / "one"), name="chi_para", cases=cases[:1])
    assert one.filename(subject="p/ada/field.nii", idx=None) == tmp_path / "one/chi_para.nii.gz"
    two = CaseFolders(output_dir=str(tmp_path / "two"), name="chi_para", cases=cases)
    assert two.filename(subject="p/bob/field.nii", idx=None) == tmp_path / "two/bob_field/chi_para.nii.gz"
    with pytest.raises(ValueError, match="must differ"):
        CaseFolders(output_dir=str(tmp_path), name="chi_para", cases=[cases[0], cases[0]])
