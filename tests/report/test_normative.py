"""The table of regions against NumPy's statistics and worked examples."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from custom_transforms import keys
from custom_transforms.checks import InputError
from custom_transforms.phantom.structures import REGIONS
from custom_transforms.phantom.tissue import TISSUES
from custom_transforms.report.normative import (
    MERGED,
    NORMS,
    RegionValue,
    cohort_table,
    region_table,
    write_tsv,
)

SHAPE = (7, 8, 5)
VOXEL_SIZE_MM = (0.8, 1.1, 2.0)


def some_labels(*names: str) -> Tensor:
    """Labels at random, and outside."""
    chosen = torch.tensor([REGIONS[name] for name in ("background", *names)], dtype=torch.uint8)
    return chosen[torch.randint(len(chosen), (1, *SHAPE), generator=torch.Generator().manual_seed(0))]


def some_map(seed: int) -> Tensor:
    return torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(seed))


def only(rows: list[RegionValue], region: str, quantity: str) -> RegionValue:
    (row,) = [row for row in rows if (row.region, row.quantity) == (region, quantity)]
    return row


def test_statistics_are_those_of_numpy() -> None:
    labels = some_labels("caudate", "white_matter", "red_nucleus")
    maps = {keys.CHI_PARA: some_map(1), keys.R2STAR: 30 * some_map(2), "other": some_map(3)}
    rows = region_table(maps, labels, voxel_size_mm=VOXEL_SIZE_MM)
    assert {row.quantity for row in rows} == {keys.CHI_PARA, keys.R2STAR}
    for region in ("caudate", "white_matter", "red_nucleus"):
        inside = labels.numpy() == REGIONS[region]
        for key, unit in ((keys.CHI_PARA, "ppm"), (keys.R2STAR, "1/s")):
            row, values = only(rows, region, key), maps[key].numpy()[inside].astype(float)
            assert row.unit == unit
            assert row.volume_mm3 == pytest.approx(inside.sum() * 0.8 * 1.1 * 2.0)
            found = (row.mean, row.sd, row.median)
            assert found == pytest.approx((values.mean(), values.std(), np.median(values)), rel=1e-9)
    assert not [row for row in rows if row.region == "background"]


def test_z_is_the_distance_from_the_norm_in_its_standard_deviations() -> None:
    """By hand: 47.7 + 2 x 7.4 = 62.5 ppb and 8.2 - 4.9 = 3.3 ppb in the caudate nucleus."""
    labels = torch.full((1, *SHAPE), REGIONS["caudate"], dtype=torch.uint8)
    maps = {keys.CHI_PARA: torch.full((1, *SHAPE), 0.0625), keys.CHI_DIA: torch.full((1, *SHAPE), 0.0033)}
    rows = region_table(maps | {keys.R2: some_map(1)}, labels, voxel_size_mm=(1, 1, 1))
    para, dia, r2 = (only(rows, "caudate", key) for key in (keys.CHI_PARA, keys.CHI_DIA, keys.R2))
    assert (para.norm_mean, para.norm_sd) == pytest.approx((0.0477, 0.0074))
    assert para.z == pytest.approx(2, abs=1e-5)
    assert dia.z == pytest.approx(-1, abs=1e-5)
    assert math.isnan(r2.z)
    assert math.isnan(r2.norm_mean)


def test_a_norm_without_sd_gives_no_z() -> None:
    labels = torch.full((1, *SHAPE), REGIONS["corona_radiata"], dtype=torch.uint8)
    row = only(region_table({keys.CHI_DIA: some_map(1)}, labels, voxel_size_mm=(1, 1, 1)), "corona_radiata", "chi_dia")
    assert row.norm_mean == pytest.approx(0.0303)
    assert math.isnan(row.z)


def test_parts_are_put_together() -> None:
    labels, para = some_labels("pallidum_external", "pallidum_internal", "cingulum"), some_map(1)
    rows = region_table({keys.CHI_PARA: para}, labels, voxel_size_mm=(1, 1, 1))
    outer, inner, whole = (
        only(rows, n, keys.CHI_PARA) for n in ("pallidum_external", "pallidum_internal", "globus_pallidus")
    )
    assert whole.volume_mm3 == outer.volume_mm3 + inner.volume_mm3
    mean = (outer.mean * outer.volume_mm3 + inner.mean * inner.volume_mm3) / whole.volume_mm3
    assert whole.mean == pytest.approx(mean)
    assert whole.z == pytest.approx((mean - 0.1319) / 0.0104)
    assert only(rows, "all_white_matter", keys.CHI_PARA).volume_mm3 == only(rows, "cingulum", keys.CHI_PARA).volume_mm3


def test_every_norm_has_a_region() -> None:
    assert set(NORMS) <= set(REGIONS) | set(MERGED)
    assert {part for parts in MERGED.values() for part in parts} <= set(REGIONS)
    assert "ventral_pallidum" not in REGIONS  # as long as it is not, its norm has no place here


@pytest.mark.parametrize("region", sorted(set(NORMS) & set(TISSUES)))
def test_norms_are_those_of_the_phantom(region: str) -> None:
    """Both were typed from the same table."""
    tissue, norm = TISSUES[region], NORMS[region]
    assert (norm.para, norm.dia) == (tissue.para_ppb, tissue.dia_ppb)


def test_volume_comes_from_the_affine(oblique_affine: np.ndarray) -> None:
    affine = torch.from_numpy(oblique_affine)
    labels = MetaTensor(some_labels("thalamus"), affine=affine)
    para = MetaTensor(some_map(1), affine=affine)
    (row,) = region_table({keys.CHI_PARA: para}, labels)
    assert row.volume_mm3 == pytest.approx(int((labels > 0).sum()) * 1.0 * 1.1 * 1.4)


def test_unknown_voxel_size_and_other_grid_are_refused() -> None:
    labels = some_labels("thalamus")
    with pytest.raises(ValueError, match="voxel_size_mm"):
        region_table({keys.CHI_PARA: some_map(1)}, labels)
    with pytest.raises(ValueError, match=r"chi_para is not on the grid of regions"):
        region_table({keys.CHI_PARA: some_map(1)[:, 1:]}, labels, voxel_size_mm=(1, 1, 1))


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_tsv_says_what_is_not_known(tmp_path: Path) -> None:
    maps = {keys.CHI_PARA: some_map(1), keys.R2PRIME: some_map(2)}
    rows = region_table(maps, some_labels("putamen"), voxel_size_mm=VOXEL_SIZE_MM)
    write_tsv(tmp_path / "new" / "regions.tsv", rows)
    para, r2prime = read(tmp_path / "new" / "regions.tsv")
    assert (para["region"], para["quantity"], para["unit"]) == ("putamen", "chi_para", "ppm")
    assert float(para["mean"]) == pytest.approx(rows[0].mean, rel=1e-5)
    assert float(para["z"]) == pytest.approx(rows[0].z, rel=1e-5)
    assert r2prime["norm_mean"] == r2prime["norm_sd"] == r2prime["z"] == "n/a"


def test_cohort_has_the_rows_of_all_with_their_names(tmp_path: Path) -> None:
    rows = region_table({keys.CHI_PARA: some_map(1)}, some_labels("putamen", "caudate"), voxel_size_mm=VOXEL_SIZE_MM)
    files = [tmp_path / "sub-01" / "regions.tsv", tmp_path / "sub-x2_ses-03_regions.tsv"]
    write_tsv(files[0], rows)
    write_tsv(files[1], rows[:1])
    cohort_table(files, tmp_path / "all.tsv")
    found = read(tmp_path / "all.tsv")
    names = [(row["participant_id"], row["session_id"]) for row in found]
    assert names == [("sub-01", "n/a"), ("sub-01", "n/a"), ("sub-x2", "ses-03")]
    expected = read(files[0]) + read(files[1])
    assert [{key: row[key] for key in RegionValue._fields} for row in found] == expected


def test_cohort_refuses_what_is_no_table(tmp_path: Path) -> None:
    unnamed, other = tmp_path / "regions.tsv", tmp_path / "sub-01_dseg.tsv"
    write_tsv(unnamed, [])
    other.write_text("index\tname\n1\tcaudate\n")
    with pytest.raises(InputError, match="names no subject"):
        cohort_table([unnamed], tmp_path / "all.tsv")
    with pytest.raises(InputError, match=r"sub-01_dseg.tsv is no table of regions: its columns are index, name"):
        cohort_table([other], tmp_path / "all.tsv")
    with pytest.raises(InputError, match="no tables"):
        cohort_table([], tmp_path / "all.tsv")
