"""Labels of heads that were measured turned, each orientation on a grid of its own: motion, B0, truth, training."""

import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from scipy.ndimage import affine_transform
from torch import Tensor

from custom_transforms import keys
from custom_transforms.bundle_path import bundle_path
from custom_transforms.checks import InputError
from custom_transforms.data import bids_data_list, read_data_list, training_data
from custom_transforms.labels import labels
from custom_transforms.output import save_map
from custom_transforms.phantom.acquisition import Acquisition
from custom_transforms.phantom.brain import AFFINE, AnatomicalBrain
from custom_transforms.phantom.warp import rotation_matrix
from custom_transforms.physics import hz_per_ppm
from custom_transforms.simulate import map_path
from custom_transforms.transforms import b0_direction_from_affine

VOXEL_MM = 5.0
SHAPE = (52, 50, 48)  # of the turned grids
TURNS_DEG = ((0.0, 0.0), (22.0, 30.0), (28.0, 190.0))  # angle, and side of the axis
SUBJECTS = ("sub-01", "sub-02", "sub-03")
MAPS = (keys.LOCAL_FIELD, keys.R2PRIME, keys.R2STAR, keys.MASK)


def motion_of(angle_deg: float, side_deg: float) -> Tensor:
    side = math.radians(side_deg)
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3] = rotation_matrix(torch.tensor([math.cos(side), math.sin(side), 0.2]).double(), angle_deg)
    motion[:3, 3] = torch.tensor([0.1, -0.2, 0.3]) * angle_deg
    return motion


def turned(tissue: dict[str, Tensor], motion: Tensor) -> dict[str, Tensor]:
    """The tissue on an upright grid, which the head has left: interpolated by SciPy."""
    middle = torch.tensor([*((torch.tensor(tissue[keys.MASK].shape[1:]) - 1) / 2).tolist(), 1.0], dtype=torch.float64)
    grid = torch.diag(torch.tensor([VOXEL_MM] * 3 + [1.0], dtype=torch.float64))
    grid[:3, 3] = (motion @ tissue[AFFINE] @ middle)[:3] - VOXEL_MM * (torch.tensor(SHAPE) - 1) / 2
    step = np.linalg.inv((motion @ tissue[AFFINE]).numpy()) @ grid.numpy()

    def moved(values: Tensor) -> Tensor:
        found = affine_transform(values[0].numpy(), step[:3, :3], step[:3, 3], output_shape=SHAPE, order=1)
        return torch.from_numpy(found)[None]

    names = (keys.CHI_PARA, keys.CHI_DIA, keys.R2, keys.PROTON_DENSITY, keys.MASK)
    maps = {name: moved(tissue[name]) for name in names}
    maps[keys.MASK] = (maps[keys.MASK] > 0.5).float()
    return tissue | maps | {AFFINE: grid, keys.B0_DIRECTION: torch.tensor([0.0, 0.0, 1.0])}


def write_scan(dataset: Path, case: str, tissue: dict[str, Tensor], seed: int) -> None:
    scan = Acquisition()(tissue, snr=100.0, generator=torch.Generator().manual_seed(seed))
    for key in MAPS:
        save_map(map_path(dataset, case, key), scan[key] * scan[keys.MASK], tissue[AFFINE])


@pytest.fixture(scope="module")
def heads() -> dict[str, dict[str, Tensor]]:
    brain = AnatomicalBrain(voxel_size_mm=(VOXEL_MM,) * 3)
    return {subject: brain(seed) for seed, subject in enumerate(SUBJECTS, start=1)}


@pytest.fixture(scope="module")
def dataset(heads: dict[str, dict[str, Tensor]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three heads in three orientations."""
    folder = tmp_path_factory.mktemp("measured")
    for subject, tissue in heads.items():
        for number, turn in enumerate(TURNS_DEG, start=1):
            scanned = tissue if number == 1 else turned(tissue, motion_of(*turn))
            write_scan(folder, f"{subject}_ses-{number:02d}", scanned, number)
    return folder


@pytest.fixture(scope="module")
def labelled(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels") / "new"
    labels(dataset_dir=str(dataset), output=str(folder))
    return folder


def load(path: Path) -> Tensor:
    return torch.from_numpy(nib.load(path).get_fdata(dtype=np.float32))[None]


def test_motions_and_b0_are_found(labelled: Path, heads: dict[str, dict[str, Tensor]]) -> None:
    for subject, tissue in heads.items():
        record = json.loads((labelled / subject / f"{subject}_labels.json").read_text())
        assert record["registered_with"] == keys.R2STAR and record["cosmos"]["relative_gradient"] <= 1e-5
        for (case, found), turn in zip(record["orientations"].items(), TURNS_DEG, strict=True):
            expected = motion_of(*turn)
            assert found["rotation_deg"] == pytest.approx(turn[0], abs=0.5)
            b0 = b0_direction_from_affine(expected @ tissue[AFFINE])
            affine = nib.load(map_path(labelled, case, keys.LOCAL_FIELD)).affine
            for direction in (torch.tensor(found["b0_direction_voxel_axes"]), b0_direction_from_affine(affine)):
                assert math.degrees(math.acos(min(1.0, float(direction @ b0)))) < 0.5
            if turn[0] > 0:
                wrong = b0_direction_from_affine(torch.linalg.inv(expected) @ tissue[AFFINE])
                assert math.degrees(math.acos(float(wrong @ b0))) > 20
                assert 0.8 < found["correlation"] < 1


def test_labels_are_near_the_truth(labelled: Path, heads: dict[str, dict[str, Tensor]]) -> None:
    for subject, tissue in heads.items():
        inside = load(map_path(labelled, f"{subject}_ses-01", keys.MASK)) > 0
        assert 0.95 < inside.sum() / tissue[keys.MASK].sum() <= 1
        for key, other in ((keys.CHI_PARA, keys.CHI_DIA), (keys.CHI_DIA, keys.CHI_PARA)):
            label = load(map_path(labelled, f"{subject}_ses-01", key))
            assert bool((label >= 0).all()) and not label[~inside].any()
            truth, swapped = ((tissue[name] * inside) for name in (key, other))
            assert (label - truth).norm() < 0.22 * truth.norm()
            assert (label - swapped).norm() > 0.5 * swapped.norm()


def test_every_orientation_is_a_case_of_its_own(labelled: Path, dataset: Path) -> None:
    cases = bids_data_list(labelled, labelled=True)
    assert len(cases) == 9 and len(training_data(str(labelled), None, "validation")) == 3
    sections = {name: read_data_list(labelled / "cosmos.json", name, labelled=True) for name in ("training", "test")}
    assert [len(section) for section in sections.values()] == [3, 3] and keys.R2STAR in sections["test"][0]
    shape = nib.load(map_path(dataset, "sub-01_ses-01", keys.MASK)).shape
    for case in cases[:3]:
        assert {nib.load(path).shape for path in case.values()} == {shape}
        for key in (keys.MASK, keys.CHI_PARA, keys.CHI_DIA):
            assert torch.equal(load(Path(case[key])), load(Path(cases[0][key])))
    fields = [load(Path(case[keys.LOCAL_FIELD])) for case in cases[:3]]
    assert (fields[0] - fields[1]).norm() > 0.2 * fields[0].norm()
    assert json.loads((labelled / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    assert sorted(path.name for path in labelled.glob("sub-*/*.png")) == [f"{s}_labels.png" for s in SUBJECTS]


def test_training_reads_them(labelled: Path, tmp_path: Path) -> None:
    options = {"channels": [4, 4, 8], "iterations": 2, "max_epochs": 1, "device": "cpu", "output_dir": str(tmp_path)}
    workflow = ConfigWorkflow(
        config_file=[str(bundle_path() / "configs" / f"{name}.json") for name in ("train", "quick")],
        run_id="training",
        logging_file=False,
        workflow_type=None,
        bundle_root=str(bundle_path()),
        dataset_dir=str(labelled),
        **options,
    )
    for step in (workflow.initialize, workflow.run, workflow.finalize):
        step()
    assert torch.load(tmp_path / "checkpoints/last.pt", weights_only=True)["trainer"]["iteration"] == 6
    batch = next(iter(workflow.parser.get_parsed_content("train::dataloader")))
    assert float(batch["label"].amax()) > 0.05


def test_finished_subjects_are_left_alone(
    labelled: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("made again")

    monkeypatch.setattr("custom_transforms.labels.align", refuse)
    labels(dataset_dir=str(dataset), output=str(labelled))
    with pytest.raises(InputError, match="sub-01: made again"):
        labels(dataset_dir=str(dataset), output=str(labelled), relaxivity=120.0)
    with pytest.raises(InputError, match="sub-01: made again"):
        labels(dataset_dir=str(dataset), output=str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


@pytest.fixture
def one_head(heads: dict[str, dict[str, Tensor]], tmp_path: Path) -> Path:
    """One head, which lies in the same orientation thrice."""
    for number in (1, 2, 3):
        write_scan(tmp_path / "in", f"sub-01_ses-{number:02d}", heads["sub-01"], number)
    return tmp_path / "in"


def test_refuses_what_gives_no_labels(one_head: Path, tmp_path: Path) -> None:
    def refused(words: str, error: type[Exception] = InputError, **options: object) -> None:
        with pytest.raises(error, match=words):
            labels(dataset_dir=str(one_head), output=str(tmp_path / "out"), **options)
        assert not (tmp_path / "out").exists()

    refused("sub-01: the 3 head orientations are nearly parallel: the largest angle .* 0.. degrees")
    refused("no .*_desc-rss_MEGRE.nii.gz to register with", FileNotFoundError, registration_image="desc-rss_MEGRE")
    refused("sub-01: .* if its unit is hz", field_unit="hz")
    with pytest.raises(InputError, match="is the dataset itself"):
        labels(dataset_dir=str(one_head), output=str(one_head))
    map_path(one_head, "sub-01_ses-03", keys.R2PRIME).unlink()
    refused("sub-01_ses-03 lacks r2prime", FileNotFoundError)
    map_path(one_head, "sub-01_ses-03", keys.LOCAL_FIELD).unlink()
    refused("sub-01 has 2 sessions; labels need 3 or more head orientations")


def test_units_and_the_image_to_register_with(
    dataset: Path, labelled: Path, heads: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    for number in (1, 2, 3):
        case = f"sub-01_ses-{number:02d}"
        for key in (keys.LOCAL_FIELD, keys.R2PRIME, keys.MASK):
            image = nib.load(map_path(dataset, case, key))
            scale = {keys.LOCAL_FIELD: -hz_per_ppm(3.0), keys.R2PRIME: 1e-3}.get(key, 1.0)
            values = torch.from_numpy(image.get_fdata(dtype=np.float32) * np.float32(scale))[None]
            save_map(map_path(tmp_path / "in", case, key), values, torch.from_numpy(image.affine))
        image = nib.load(map_path(dataset, case, keys.R2STAR))
        magnitude = tmp_path / "in" / "sub-01" / case[7:] / "anat" / f"{case}_desc-rss_MEGRE.nii.gz"
        echoes = np.stack([image.get_fdata(dtype=np.float32) * decay for decay in (0.8, 0.6)], axis=-1)
        nib.save(nib.Nifti1Image(echoes, image.affine), magnitude)
    labels(
        dataset_dir=str(tmp_path / "in"),
        output=str(tmp_path / "out"),
        field_unit="hz",
        field_sign=-1,
        rate_unit="per_ms",
        registration_image="desc-rss_MEGRE",
    )
    assert json.loads((tmp_path / "out/sub-01/sub-01_labels.json").read_text())["registered_with"] == keys.MAGNITUDE
    combined = load(map_path(tmp_path / "out", "sub-01_ses-01", keys.MAGNITUDE))  # sqrt(0.8^2 + 0.6^2) = 1
    r2star = load(map_path(labelled, "sub-01_ses-01", keys.R2STAR))
    torch.testing.assert_close(combined, r2star, atol=1e-2, rtol=1e-3)
    for key in (keys.LOCAL_FIELD, keys.R2PRIME, keys.CHI_PARA, keys.CHI_DIA):
        one, other = (load(map_path(folder, "sub-01_ses-02", key)) for folder in (labelled, tmp_path / "out"))
        assert (one - other).norm() < 1e-3 * one.norm()
