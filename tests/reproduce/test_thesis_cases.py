"""Lesions with known values that do not touch; heads read back from a small cohort."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from custom_transforms import keys
from custom_transforms.cohort import COSMOS_FILES
from custom_transforms.data import BIDS_SUFFIXES, LABELS, bids_path
from custom_transforms.metrics import connected_components
from custom_transforms.output import save_map
from custom_transforms.phantom.structures import REGIONS
from custom_transforms.reproduce.thesis_cases import (
    COSMOS,
    LESION_CHI_PPM,
    TRUTH,
    add_lesions,
    held_out_cases,
    lesion_kind,
)


def ball(size: int = 40, voxel_mm: float = 3.0) -> dict[str, Tensor]:
    axes = torch.meshgrid(*[torch.arange(size) - size / 2] * 3, indexing="ij")
    mask = (torch.stack(axes).norm(dim=0) < 0.45 * size).float()[None]
    return {
        keys.CHI_PARA: 0.03 * mask,
        keys.CHI_DIA: 0.02 * mask,
        keys.MASK: mask,
        keys.REGIONS: (mask * REGIONS["white_matter"]).to(torch.uint8),
        keys.VOXEL_SIZE_MM: torch.full((3,), voxel_mm),
    }


def test_lesions_are_apart_and_have_their_values() -> None:
    tissue = ball()
    before = tissue[keys.CHI_PARA].clone()
    lesioned, numbers = add_lesions(tissue, seed=0, count=8)
    assert torch.equal(tissue[keys.CHI_PARA], before)
    assert sorted(numbers.unique().tolist()) == list(range(9))
    assert len(connected_components((numbers > 0)[None]).unique()) == 9
    largest = {"haemorrhage": lesioned[keys.CHI_PARA], "calcification": lesioned[keys.CHI_DIA]}
    other = {"haemorrhage": lesioned[keys.CHI_DIA], "calcification": lesioned[keys.CHI_PARA]}
    for number, value in zip(range(1, 9), torch.logspace(-1, 0.14613, 4).repeat_interleave(2).tolist(), strict=True):
        inside, kind = numbers == number, lesion_kind(number)
        assert float(largest[kind][inside].max()) == pytest.approx(value, rel=1e-3)
        assert float(other[kind][inside].min()) == pytest.approx(0.0, abs=1e-6)
    assert pytest.approx((10**-1, 10**0.14613), rel=1e-4) == LESION_CHI_PPM
    far = (numbers == 0) & (lesioned[keys.CHI_PARA] == before)
    assert float(far.float().mean()) > 0.8
    assert not torch.equal(numbers, add_lesions(tissue, seed=1, count=8)[1])


def test_a_brain_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="no room for lesion 1 of 2"):
        add_lesions(ball(size=8), seed=0, count=2)


def test_heads_come_with_both_references_and_without_fluid_and_veins(tmp_path: Path) -> None:
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]))
    values = {keys.LOCAL_FIELD: 0.01, keys.R2PRIME: 13.7, keys.MASK: 1.0, keys.CHI_PARA: 0.03, keys.CHI_DIA: 0.02}
    maps = {key: torch.full((1, 4, 3, 2), value) for key, value in values.items()}
    maps[keys.R2PRIME][..., 0] = -1.0
    maps[keys.MASK] = maps[keys.MASK].byte()
    maps[keys.REGIONS] = torch.full((1, 4, 3, 2), REGIONS["white_matter"], dtype=torch.uint8)
    maps[keys.REGIONS][:, 0] = REGIONS["cerebrospinal_fluid"]
    maps[keys.REGIONS][:, 1, 0] = REGIONS["vein"]
    for key, image in maps.items():
        save_map(bids_path(tmp_path, "sub-03_ses-02", BIDS_SUFFIXES[key]), image, affine)
    for key in LABELS:
        save_map(bids_path(tmp_path, "sub-03_ses-02", COSMOS_FILES[key]), maps[key] + 0.01, affine)
    for name, labels in (("truth", BIDS_SUFFIXES), ("cosmos", BIDS_SUFFIXES | COSMOS_FILES)):
        case = {key: str(bids_path(Path(), "sub-03_ses-02", labels[key])) for key in maps}
        (tmp_path / f"{name}.json").write_text(json.dumps({"test": [case]}))
    (head,) = held_out_cases(tmp_path)
    assert (head.name, head.subject) == ("sub-03_ses-02", "sub-03")
    assert head.image.shape == (1, 3, 4, 3, 2)
    torch.testing.assert_close(head.image.as_tensor()[0, 1], torch.tensor([0.0, 0.1]).expand(4, 3, 2))  # R2'/Dr >= 0
    torch.testing.assert_close(torch.as_tensor(head.image.affine).float(), affine)
    assert int(head.scored.sum()) == 4 * 3 * 2 - 3 * 2 - 2
    torch.testing.assert_close(head.references[COSMOS], head.references[TRUTH] + 0.01)
    torch.testing.assert_close(head.references[TRUTH][0, :, 0, 0, 0], torch.tensor([0.03, 0.02]))
