"""The cohort of several head orientations: geometry, noise, labels, and a split that shares no subject."""

import json
from itertools import combinations
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from custom_transforms import keys
from custom_transforms.cohort import COSMOS_FILES, TURN_DEG, cosmos_labels, split_subjects, turned_heads
from custom_transforms.data import bids_data_list, bids_path, read_data_list, subject_name, training_data
from custom_transforms.phantom.acquisition import Acquisition
from custom_transforms.phantom.brain import AFFINE, AnatomicalBrain
from custom_transforms.physics import dipole_kernel
from custom_transforms.simulate import map_path, simulate
from custom_transforms.transforms import b0_direction_from_affine

CASES = ("sub-01_ses-01", "sub-01_ses-02", "sub-01_ses-03")
TISSUE = {
    AFFINE: torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0], dtype=torch.float64)),
    keys.B0_DIRECTION: torch.tensor([0.0, 0.0, 1.0]),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "dataset"
    simulate(output=str(folder), subjects=3, orientations=3, voxel_size=(6.0, 6.0, 6.0), tilt_deg=5.0)
    return folder


def load(path: Path) -> np.ndarray:
    return nib.load(path).get_fdata()


def test_heads_turn_by_the_stated_angles_to_all_sides() -> None:
    heads = turned_heads(TISSUE, 6, seed=3)
    assert torch.equal(heads[0][AFFINE], TISSUE[AFFINE])
    directions = torch.stack([head[keys.B0_DIRECTION] for head in heads]).double()
    angles = torch.rad2deg(torch.acos(directions[1:, 2]))
    assert bool(((angles >= TURN_DEG[0]) & (angles <= TURN_DEG[1])).all())
    assert angles.max() - angles.min() > 15
    sides = torch.rad2deg(torch.atan2(directions[1:, 1], directions[1:, 0])).sort().values
    torch.testing.assert_close(sides.diff(), torch.full((4,), 72.0, dtype=torch.float64), atol=1e-3, rtol=0)
    for head in heads:
        rotation = head[AFFINE][:3, :3] / torch.tensor([1.0, 2.0, 3.0])
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))
        torch.testing.assert_close(rotation[2].float(), head[keys.B0_DIRECTION])


@pytest.mark.parametrize("seed", range(4))
def test_no_zero_is_common_to_all_dipoles(seed: int) -> None:
    voxel = torch.ones(1, 3)
    squares = [
        dipole_kernel([32, 32, 32], voxel, h[keys.B0_DIRECTION][None]) ** 2 for h in turned_heads(TISSUE, 6, seed)
    ]
    assert torch.stack(squares).mean(dim=0).flatten()[1:].min() > 1e-3
    assert squares[0].flatten()[1:].min() < 1e-4  # which a single one has


def test_orientations_share_the_head_and_nothing_else(dataset: Path) -> None:
    assert not (dataset / "sub-01" / "anat").exists()
    for key in (keys.CHI_PARA, keys.CHI_DIA, keys.MASK, keys.REGIONS):
        maps = [load(map_path(dataset, case, key)) for case in CASES]
        assert all(np.array_equal(maps[0], other) for other in maps[1:])
    for key in (keys.R2STAR, keys.LOCAL_FIELD):
        first, second = (load(map_path(dataset, case, key)) for case in CASES[:2])
        assert not np.allclose(first, second, rtol=1e-3)
    for number, case in enumerate(CASES, start=1):
        sidecar = json.loads((dataset / "sub-01" / case[7:] / f"{case}_simulation.json").read_text())
        assert (sidecar["orientation"], sidecar["orientations"]) == (number, 3)
        affine = nib.load(map_path(dataset, case, keys.LOCAL_FIELD)).affine
        assert np.allclose(sidecar["b0_direction"], b0_direction_from_affine(affine), atol=1e-5)
    tilt = json.loads((dataset / "sub-01/ses-01/sub-01_ses-01_simulation.json").read_text())["b0_direction"][2]
    assert np.rad2deg(np.arccos(tilt)) == pytest.approx(5.0, abs=0.01)


def test_the_labels_lie_beside_every_orientation(dataset: Path) -> None:
    for suffix in COSMOS_FILES.values():
        images = [nib.load(bids_path(dataset, case, suffix)) for case in CASES]
        assert all(np.array_equal(images[0].get_fdata(), image.get_fdata()) for image in images[1:])
        for case, image in zip(CASES, images, strict=True):
            assert np.allclose(image.affine, nib.load(map_path(dataset, case, keys.MASK)).affine)


def test_labels_are_near_the_truth() -> None:
    tissue = AnatomicalBrain(voxel_size_mm=(4.0, 4.0, 4.0))(1)
    acquisition, noise = Acquisition(), torch.Generator().manual_seed(2)
    scans = [acquisition(head, snr=100.0, generator=noise) for head in turned_heads(tissue, 6, seed=3)]
    labels = cosmos_labels(scans, acquisition.relaxivity_para_per_s_ppm)
    inside = tissue[keys.MASK] > 0
    for key in (keys.CHI_PARA, keys.CHI_DIA):
        assert bool((labels[key] >= 0).all()) and not labels[key][~inside].any()
        assert (labels[key] - tissue[key]).norm() < 0.15 * tissue[key].norm()
    swapped = (labels[keys.CHI_DIA] - tissue[keys.CHI_PARA]).norm()
    assert swapped > 0.5 * tissue[keys.CHI_PARA].norm()
    total = (tissue[keys.CHI_PARA] - tissue[keys.CHI_DIA])[inside]
    assert (labels[keys.CHI_TOTAL][inside] - total).std() < 0.15 * total.std()


def test_lists_share_no_subject_and_name_the_labels(dataset: Path) -> None:
    for name, suffix in (("truth", "desc-para_Chimap"), ("cosmos", "desc-cosmospara_Chimap")):
        path = dataset / f"{name}.json"
        sections = {s: read_data_list(path, s, labelled=True, rate=keys.R2STAR) for s in json.loads(path.read_text())}
        assert {s: len(cases) for s, cases in sections.items()} == {"training": 3, "validation": 3, "test": 3}
        subjects = [{subject_name(case) for case in cases} for cases in sections.values()]
        assert not any(a & b for a, b in combinations(subjects, 2))
        cases = [case for section in sections.values() for case in section]
        assert all(Path(file).is_file() for case in cases for file in case.values())
        assert all(case[keys.CHI_PARA].endswith(f"_{suffix}.nii.gz") and keys.REGIONS in case for case in cases)
        assert training_data(None, str(path), "test") == sections["test"]
    assert len(bids_data_list(dataset, labelled=True)) == 9
    assert training_data(str(dataset), None, "validation") == bids_data_list(dataset, labelled=True)[:3]


@pytest.mark.parametrize(("count", "sizes"), [(3, (1, 1, 1)), (4, (2, 1, 1)), (8, (4, 1, 3)), (16, (8, 2, 6))])
def test_split(count: int, sizes: tuple[int, ...]) -> None:
    names = [f"sub-{i}" for i in range(count)]
    split = split_subjects(names)
    assert tuple(map(len, split.values())) == sizes and list(split) == ["training", "validation", "test"]
    assert [name for section in split.values() for name in section] == names


def test_two_subjects_are_too_few_to_split(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected 3 or more subjects to split, got 2"):
        split_subjects(["sub-01", "sub-02"])
    simulate(output=str(tmp_path), orientations=3, voxel_size=(8.0, 8.0, 8.0))
    assert [path.name for path in tmp_path.glob("*.json")] == ["dataset_description.json"]
