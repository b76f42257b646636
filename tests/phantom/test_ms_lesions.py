import math

import pytest
import torch

from custom_transforms import keys
from custom_transforms.phantom.brain import MS_LESIONS, AnatomicalBrain
from custom_transforms.phantom.geometry import Grid
from custom_transforms.phantom.ms_lesions import (
    MS_KINDS,
    RADIUS_MM,
    WHITE_MATTER,
    MSLesion,
    draw_ms_lesions,
    ms_kind,
    paint_ms_lesion,
)
from custom_transforms.phantom.regions import label_regions
from custom_transforms.phantom.structures import Ellipsoid
from custom_transforms.phantom.template import load_template

GRID = Grid((40, 40, 40), (0.0, 0.0, 0.0), torch.device("cpu"))
WHITE = torch.tensor([0.017, 0.030, 14.0, 1.0]).view(4, 1, 1, 1).expand(4, 40, 40, 40)


def draw(count: int, seed: int = 0) -> list[MSLesion]:
    return draw_ms_lesions(
        label_regions(), Grid.of(load_template()), count, generator=torch.Generator().manual_seed(seed)
    )


def ball(radius_mm: float) -> Ellipsoid:
    volume_mm3 = 4 / 3 * math.pi * radius_mm**3
    return Ellipsoid((20.0, 20.0, 20.0), (radius_mm,) * 3, (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), volume_mm3)


def paint(lesion: MSLesion) -> tuple[torch.Tensor, torch.Tensor]:
    return paint_ms_lesion(WHITE, lesion, GRID, generator=torch.Generator().manual_seed(0))


def test_same_seed_same_lesions_and_more_keep_the_first() -> None:
    assert draw(3) == draw(3)
    assert draw(6)[:3] == draw(3)
    assert draw(3) != draw(3, seed=1)
    assert draw(0) == []


def test_kinds_take_turns_and_values_stay_in_range() -> None:
    lesions = draw(16)
    assert [lesion.kind for lesion in lesions[:5]] == [*MS_KINDS, "iron_rim"]
    assert [lesion.kind for lesion in lesions] == [ms_kind(number) for number in range(1, 17)]
    for lesion in lesions:
        ranges = MS_KINDS[lesion.kind]
        assert ranges.core_para_ppm[0] <= lesion.core_para_ppm <= ranges.core_para_ppm[1]
        assert ranges.dia_left[0] <= lesion.dia_left <= ranges.dia_left[1]
        assert ranges.r2_left[0] <= lesion.r2_left <= ranges.r2_left[1]
        assert (lesion.rim_mm > 0) == (lesion.rim_para_ppm > 0) == (lesion.kind == "iron_rim")
        assert all(0.7 * RADIUS_MM[0] <= axis <= 1.3 * RADIUS_MM[1] for axis in lesion.shape.semi_axes_mm)


def test_centres_are_in_white_matter_and_apart() -> None:
    regions, origin = label_regions(), load_template().origin_mm
    lesions = draw(16)
    for lesion in lesions:
        i, j, k = (round(p - o) for p, o in zip(lesion.shape.centre_mm, origin, strict=True))
        assert int(regions[i, j, k]) in WHITE_MATTER
    for i, first in enumerate(lesions):
        for second in lesions[:i]:
            reach = first.shape.semi_axes_mm[0] + second.shape.semi_axes_mm[0]
            assert math.dist(first.shape.centre_mm, second.shape.centre_mm) > reach


def test_homogeneous_lesion_changes_what_it_says() -> None:
    changed, coverage = paint(MSLesion("iron_and_demyelinated", ball(5.0), 0.0, 0.04, 0.0, 0.25, 0.5))
    para, dia, r2, m0 = changed[:, 20, 20, 20].tolist()
    assert (para, dia, r2, m0) == pytest.approx((0.057, 0.0075, 7.0, 1.0))
    assert coverage[20, 20, 20] == 1
    assert torch.equal(changed[:, coverage == 0], WHITE[:, coverage == 0])
    assert float(coverage.sum()) == pytest.approx(ball(5.0).volume_mm3, rel=0.35)  # its surface is rough
    assert float(coverage.sum()) != pytest.approx(2 * ball(5.0).volume_mm3, rel=0.35)  # the check can fail


def test_rim_is_paramagnetic_around_a_core_that_is_not() -> None:
    changed, coverage = paint(MSLesion("iron_rim", ball(6.0), 2.0, -0.01, 0.05, 0.5, 0.7))
    para = changed[0]
    assert float(para[20, 20, 20]) == pytest.approx(0.007)
    assert float(para.max()) == pytest.approx(0.067)
    rim = para > 0.05
    assert rim.any() and bool((coverage[rim] > 0.5).all())
    distance = (rim.nonzero() - 20).float().norm(dim=1)
    assert 3.0 < float(distance.min()) < float(distance.max()) < 9.0
    volume = math.prod(ball(6.0).semi_axes_mm) * 4 / 3 * math.pi
    expected = 4 / 3 * math.pi * (6.0**3 - 4.0**3) / volume
    assert float(rim.sum() / (coverage > 0.5).sum()) == pytest.approx(expected, abs=0.25)
    assert float(changed[1, 20, 20, 20]) == pytest.approx(0.015)


def test_susceptibility_does_not_fall_below_zero() -> None:
    changed, _ = paint(MSLesion("demyelinated", ball(4.0), 0.0, -0.05, 0.0, 0.5, 0.7))
    assert float(changed[0].min()) == 0


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 255, got -1"):
        draw(-1)
    with pytest.raises(ValueError, match="from 0 to 255, got 256"):
        draw(256)
    small = torch.zeros(12, 12, 12, dtype=torch.uint8)
    small[4:8, 4:8, 4:8] = WHITE_MATTER[0]
    grid = Grid((12, 12, 12), (0.0, 0.0, 0.0), torch.device("cpu"))
    with pytest.raises(ValueError, match="no room for more than"):
        draw_ms_lesions(small, grid, 9, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def heads() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The same subject without and with eight lesions."""
    size = (2.0, 2.0, 2.0)
    return AnatomicalBrain(voxel_size_mm=size)(0), AnatomicalBrain(voxel_size_mm=size, ms_lesions=8)(0)


def test_head_without_lesions_has_no_numbers(heads) -> None:
    assert not heads[0][MS_LESIONS].any()


def test_each_lesion_of_a_head_is_found_and_nothing_else_changes(heads) -> None:
    healthy, ill = heads
    numbers = ill[MS_LESIONS]
    assert numbers.unique().tolist() == list(range(9))
    assert torch.equal(healthy[keys.REGIONS], ill[keys.REGIONS])
    near = torch.nn.functional.max_pool3d((numbers > 0).float(), 5, 1, 2) > 0
    for name in (keys.CHI_PARA, keys.CHI_DIA, keys.R2, keys.PROTON_DENSITY):
        changed = (healthy[name] - ill[name]).abs() > 1e-6
        assert bool(changed.any()) == (name != keys.PROTON_DENSITY)
        assert not (changed & ~near).any()


def test_kinds_differ_in_the_truth(heads) -> None:
    healthy, ill = heads
    for number in range(1, 9):
        inside = ill[MS_LESIONS] == number
        para, dia, r2 = (
            float((ill[name] - healthy[name])[inside].mean()) for name in (keys.CHI_PARA, keys.CHI_DIA, keys.R2)
        )
        assert dia < 0 and r2 < 0
        if ms_kind(number) == "iron_and_demyelinated":
            assert para > 0.005
        if ms_kind(number) == "demyelinated":
            assert para <= 0
