"""Warped crops: the template when nothing is warped or drawn, endless and within physical ranges otherwise."""

import pytest
import torch
from torch import Tensor

from custom_transforms import keys
from custom_transforms.phantom import Ellipsoids, WarpedAnatomy
from custom_transforms.phantom.regions import label_regions
from custom_transforms.phantom.template import load_template
from custom_transforms.phantom.tissue import QUANTITIES, paint_tissue, tissue_table

MAPS = (keys.CHI_PARA, keys.CHI_DIA, keys.R2, keys.PROTON_DENSITY, keys.MASK)
UNWARPED = {"rotation_deg": 0.0, "scaling": 0.0, "shear": 0.0, "displacement_mm": 0.0}
POPULATION = {"chi_sd": 0.0, "r2_sd": 0.0, "m0_sd": 0.0, "shuffle": 0.0}
BARE = {"texture": 0.0, "gradient": 0.0, "lesions": None, "vessels": None, "edge_voxels": (0.0, 0.0)}
ONE_BALL = Ellipsoids(1, 1.0, (4.0, 4.0), (1.0, 1.0), (0.005, 0.005), 0.0, (15.0, 60.0), (0.4, 1.0))


def make(seed: int = 0, batch: int = 2, **options: object) -> dict[str, Tensor]:
    return WarpedAnatomy(**{"shape": (20, 24, 17), **options})(batch, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def many() -> dict[str, Tensor]:
    return make(batch=24, shape=(32, 32, 32))


def test_same_seed_same_crops() -> None:
    first, again, other = make(seed=1), make(seed=1), make(seed=2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name in (keys.CHI_PARA, keys.CHI_DIA, keys.R2, keys.PROTON_DENSITY, keys.VOXEL_SIZE_MM, keys.B0_DIRECTION):
        assert not torch.equal(first[name], other[name])
        assert not torch.equal(first[name][0], first[name][1])


def test_shapes_ranges_and_masks(many: dict[str, Tensor]) -> None:
    for head, batch, shape in ((make(), 2, (20, 24, 17)), (many, 24, (32, 32, 32))):
        assert head.keys() == {*MAPS, keys.VOXEL_SIZE_MM, keys.B0_DIRECTION}
        for name in MAPS:
            assert head[name].shape == (batch, 1, *shape)
            assert head[name].dtype == torch.float32
            assert bool((head[name] >= 0).all() and head[name].isfinite().all())
            assert not head[name][head[keys.MASK] == 0].any()
        assert set(head[keys.MASK].unique().tolist()) <= {0.0, 1.0}
    inside = many[keys.MASK] > 0
    assert bool(inside.flatten(1).any(dim=1).all())
    assert 6 < float(many[keys.R2][inside].median()) < 16  # 1/s at 3 T
    assert 0.7 < float(many[keys.PROTON_DENSITY][inside].median()) < 1.1
    for name in (keys.CHI_PARA, keys.CHI_DIA):
        assert 0.01 < float(many[name][inside].median()) < 0.06


def test_geometry(many: dict[str, Tensor]) -> None:
    small, middle, large = many[keys.VOXEL_SIZE_MM].sort(dim=1).values.unbind(1)
    assert torch.equal(small, middle)
    assert float(small.min()) >= 0.5 and float(small.max()) <= 2.5 and float(large.max()) <= 5
    assert 4 < int((large == small).sum()) < 20
    torch.testing.assert_close(many[keys.B0_DIRECTION].norm(dim=1), torch.ones(24))
    assert float(torch.rad2deg(many[keys.B0_DIRECTION][:, 2].acos()).max()) <= 45.01


def test_crops_show_the_brain() -> None:
    mask = make(batch=8, shape=(64, 64, 64))[keys.MASK].mean(dim=(1, 2, 3, 4))
    assert float(mask.mean()) > 0.4
    assert float(mask.min()) > 0.1


def test_without_warp_it_is_the_template() -> None:
    """Volume, and mean of every quantity, of the head that paint_tissue fills at 1 mm; also in long voxels."""
    template = load_template()
    tissue = paint_tissue(template, label_regions(), tissue_table())[:, template.mask]
    volume_mm3, iron_mm3 = float(template.mask.sum()), float((tissue[0] > 0.06).sum())
    options = {"shape": (96, 90, 88), "voxel_size_mm": (2.3, 2.3), "slice_ratio": 1.5}
    head = make(batch=2, **options, **UNWARPED, **POPULATION, **BARE)
    for index in range(2):
        inside, voxel_mm3 = head[keys.MASK][index] > 0, float(head[keys.VOXEL_SIZE_MM][index].prod())
        assert float(inside.sum()) * voxel_mm3 == pytest.approx(volume_mm3, rel=0.02)
        means = torch.stack([head[name][index][inside].mean() for name in QUANTITIES])
        torch.testing.assert_close(means, tissue.mean(dim=1), rtol=0.03, atol=0.0)
        iron = float((head[keys.CHI_PARA][index] > 0.06).sum()) * voxel_mm3
        assert iron == pytest.approx(iron_mm3, rel=0.2)  # nuclei lose some of their edge to the average


def test_scaling_changes_the_volume_of_the_brain() -> None:
    options = {"shape": (70, 80, 72), "voxel_size_mm": (3.0, 3.0), "slice_ratio": 1.0, "batch": 8}
    brain = float(load_template().mask.sum())
    unscaled = UNWARPED | {"rotation_deg": 20.0, "shear": 0.1}  # determinant one
    for warp, low, high in ((unscaled, 0.97, 1.03), (unscaled | {"scaling": 0.15}, 0.85**3, 1.15**3)):
        ratio = make(**options, **warp, **BARE)[keys.MASK].sum(dim=(1, 2, 3, 4)) * 27 / brain
        assert low < float(ratio.min()) and float(ratio.max()) < high
    assert float(ratio.max() - ratio.min()) > 0.2
    bent = (
        make(**options, **(UNWARPED | {"displacement_mm": 3.0}), **BARE)[keys.MASK].sum(dim=(1, 2, 3, 4)) * 27 / brain
    )
    assert float(bent.min()) > 0.9 and float(bent.max()) < 1.1 and float(bent.std()) > 1e-3


@pytest.mark.parametrize("shuffle", [0.0, 1.0])
def test_fluid_has_no_sources(shuffle: float) -> None:
    """Its R2 is 1 / (1.6 s), whatever the other regions exchange."""
    head = make(batch=6, shape=(40, 40, 40), **POPULATION | {"shuffle": shuffle}, **BARE)
    fluid = (head[keys.MASK] > 0) & (head[keys.R2] < 0.7) & (head[keys.PROTON_DENSITY] > 0.5)
    assert int(fluid.sum()) > 100
    for name in (keys.CHI_PARA, keys.CHI_DIA):
        assert float(head[name][fluid].max()) < 0.004
        assert float(head[name][head[keys.MASK] > 0].mean()) > 0.01


def test_shuffling_exchanges_the_values_of_regions() -> None:
    """The table's rows stay together: the strongest source is the same, but it fills another volume."""
    options = {"shape": (48, 54, 46), "batch": 6, "voxel_size_mm": (3.5, 3.5), "slice_ratio": 1.0, **UNWARPED, **BARE}
    plain, shuffled = (make(**options, **POPULATION | {"shuffle": shuffle}) for shuffle in (0.0, 1.0))
    spread = [head[keys.CHI_PARA].sum(dim=(1, 2, 3, 4)).log().std() for head in (plain, shuffled)]
    assert float(spread[0]) < 0.03 and float(spread[1]) > 0.15


def test_values_vary_between_volumes() -> None:
    """White matter's R2 has the SD of the logarithm that is asked for."""
    options = {"shape": (16, 16, 16), "batch": 64, "voxel_size_mm": (8.0, 8.0), "longest_mm": 8.0, **UNWARPED, **BARE}
    head = make(**options, chi_sd=0.0, r2_sd=0.25, m0_sd=0.0, shuffle=0.0)
    pure = (head[keys.PROTON_DENSITY] > 0.99) & (head[keys.CHI_PARA] < 0.018)
    medians = torch.stack([head[keys.R2][i][pure[i]].median() for i in range(64) if bool(pure[i].any())])
    assert len(medians) > 50
    assert float(medians.log().mean().exp()) == pytest.approx(1000 / 70, rel=0.12)
    assert 0.1 < float(medians.log().std()) < 0.35


def test_r2_follows_the_iron_inside_regions() -> None:
    """Texture multiplies chi_para by f and R2 by 1 + c (f - 1)."""
    options = {**BARE, "gradient": 0.0}
    flat, textured, coupled = (
        make(**options | {"texture": texture, "r2_per_iron": (c, c)})
        for texture, c in ((0, 0.6), (0.25, 0), (0.25, 0.6))
    )
    tissue = (flat[keys.MASK] > 0) & (flat[keys.CHI_PARA] > 0.005)
    factor = (textured[keys.CHI_PARA] / flat[keys.CHI_PARA])[tissue]
    assert float(factor.std()) > 0.05
    torch.testing.assert_close(textured[keys.R2], flat[keys.R2], rtol=1e-4, atol=1e-4)
    change = (coupled[keys.R2] / flat[keys.R2])[tissue]
    torch.testing.assert_close(change, 1 + 0.6 * (factor - 1), rtol=1e-3, atol=1e-3)
    assert float(torch.stack([change, factor]).corrcoef()[0, 1]) > 0.99


def test_lesions_reach_their_range_and_change_r2_and_m0(many: dict[str, Tensor]) -> None:
    peaks = torch.stack([many[name].amax(dim=(1, 2, 3, 4)) for name in (keys.CHI_PARA, keys.CHI_DIA)])
    assert float(peaks.max()) < 3.3  # 3 ppm, and the overshoot of the filter
    assert bool(((peaks > 0.8).sum(dim=1) >= 2).all())  # haemorrhages and calcifications
    options = {**BARE, "batch": 6, "voxel_size_mm": (1.0, 1.0)}
    without, with_lesion = make(**options), make(**options | {"lesions": ONE_BALL})
    core = (with_lesion[keys.CHI_PARA] > 0.9999) & (with_lesion[keys.MASK] > 0)
    for name, low, high in ((keys.R2, 15, 60), (keys.PROTON_DENSITY, 0.4, 1.0)):
        values = with_lesion[name][core]
        assert low - 0.01 <= float(values.min()) and float(values.max()) <= high + 0.01
        assert float((values - without[name][core]).abs().mean()) > 0.1 * (high - low)
    unchanged = with_lesion[keys.CHI_PARA] < 1.001 * without[keys.CHI_PARA]
    torch.testing.assert_close(with_lesion[keys.R2][unchanged], without[keys.R2][unchanged], rtol=1e-2, atol=0.1)
