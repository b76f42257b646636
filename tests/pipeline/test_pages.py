from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor

from custom_transforms import keys
from custom_transforms.atlas import Atlas
from custom_transforms.phantom.structures import REGIONS
from custom_transforms.pipeline import derivatives, pages

NAME = "sub-01"


@pytest.fixture
def maps() -> dict[str, MetaTensor]:
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    values = {keys.MASK: 1.0, keys.CHI_PARA: 0.09, keys.CHI_DIA: 0.02, keys.R2STAR: 25.0}
    return {key: MetaTensor(torch.full((1, 4, 4, 4), value), affine=affine) for key, value in values.items()}


def put_atlas(monkeypatch: pytest.MonkeyPatch, correlation: float) -> None:
    labels = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
    labels[0, :2] = REGIONS["putamen"]
    atlas = Atlas(labels, {keys.R2STAR: correlation}, 0.97)
    monkeypatch.setattr(pages, "register_atlas", lambda images, mask: atlas)


def test_values_stand_beside_the_norm(maps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_atlas(monkeypatch, 0.8)
    rows, note, warnings = pages.write_regions(tmp_path, NAME, maps)
    para = next(row for row in rows if (row.region, row.quantity) == ("putamen", "chi_para"))
    assert para.value == pytest.approx(0.09)
    assert para.volume_mm3 == pytest.approx(32 * 8)
    assert para.z == pytest.approx((0.09 - 0.0771) / 0.0206, rel=1e-4)
    assert next(row for row in rows if row.quantity == "R2*").z is None
    assert "0.80" in note
    assert warnings == []
    assert derivatives.map_path(tmp_path, NAME, keys.REGIONS).is_file()
    pages.write_cohort_regions(tmp_path)
    assert (tmp_path / derivatives.REGIONS).read_text().splitlines()[1].startswith("sub-01\tn/a\tputamen")


def test_a_template_that_does_not_fit_gives_no_table(maps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_atlas(monkeypatch, 0.2)
    rows, _, warnings = pages.write_regions(tmp_path, NAME, maps)
    assert rows == []
    assert "fits badly" in warnings[0]
    assert not list(tmp_path.rglob("*"))


def test_a_slab_gives_no_table_and_says_why(maps, tmp_path: Path) -> None:
    rows, _, warnings = pages.write_regions(tmp_path, NAME, maps)
    assert rows == []
    assert "no table of regions: the mask holds 1 ml" in warnings[0]
