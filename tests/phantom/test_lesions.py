import math

import pytest
import torch

from custom_transforms import keys
from custom_transforms.phantom.brain import AnatomicalBrain
from custom_transforms.phantom.geometry import Grid
from custom_transforms.phantom.lesions import KINDS, LESIONS, MICROBLEEDS, draw_lesions, paint_lesion
from custom_transforms.phantom.structures import REGIONS
from custom_transforms.phantom.template import load_template


def draw(count: int, seed: int = 0, family=LESIONS):
    return draw_lesions(load_template(), count, generator=torch.Generator().manual_seed(seed), family=family)


def test_same_seed_same_lesions_and_more_keep_the_first():
    assert draw(3) == draw(3)
    assert draw(5)[:3] == draw(3)
    assert draw(3) != draw(3, seed=1)
    assert draw(0) == []


def test_kinds_alternate_and_values_stay_in_range():
    lesions = draw(40)
    assert [lesion.kind for lesion in lesions[:4]] == [*KINDS, *KINDS]
    assert all(LESIONS.chi_ppm[0] <= lesion.chi_ppm <= LESIONS.chi_ppm[1] for lesion in lesions)
    assert min(lesion.chi_ppm for lesion in lesions) < 0.3
    assert max(lesion.chi_ppm for lesion in lesions) > 1.5
    sizes = [axis for lesion in lesions for axis in lesion.shape.semi_axes_mm]
    assert 0.7 * LESIONS.radius_mm[0] <= min(sizes) <= max(sizes) <= 1.3 * LESIONS.radius_mm[1]


def test_microbleeds_are_small_haemorrhages():
    bleeds = draw(40, family=MICROBLEEDS)
    assert {bleed.kind for bleed in bleeds} == {"haemorrhage"}
    assert all(0.3 <= bleed.chi_ppm <= 1.5 for bleed in bleeds)
    diameters_mm = [2 * (bleed.shape.volume_mm3 * 3 / (4 * math.pi)) ** (1 / 3) for bleed in bleeds]
    assert 1.4 < min(diameters_mm) < 2.5 < 4 < max(diameters_mm) < 6.5
    assert max(lesion.shape.semi_axes_mm[0] for lesion in draw(40)) > 6.5  # the check can fail


def test_lesions_start_in_tissue():
    template = load_template()
    for lesion in draw(20):
        i, j, k = (round(p - o) for p, o in zip(lesion.shape.centre_mm, template.origin_mm, strict=True))
        assert template.mask[i, j, k]
        assert template.csf[i, j, k] < 0.3


def test_painted_volume_is_that_of_the_ellipsoid():
    grid = Grid.of(load_template())
    lesions = draw(24)
    generator = torch.Generator().manual_seed(9)
    painted = sum(float(paint_lesion(lesion, grid, generator=generator).sum()) for lesion in lesions)
    expected = sum(lesion.shape.volume_mm3 for lesion in lesions)
    assert abs(painted / expected - 1) < 0.25
    assert abs(painted / (2 * expected) - 1) > 0.25  # the check can fail


def test_coverage_is_soft_and_local():
    grid = Grid.of(load_template())
    lesion = max(draw(10), key=lambda lesion: lesion.shape.volume_mm3)
    coverage = paint_lesion(lesion, grid, generator=torch.Generator().manual_seed(0))
    assert float(coverage.max()) == 1
    assert ((coverage > 0.1) & (coverage < 0.9)).any()
    i, j, k = (round(p - o) for p, o in zip(lesion.shape.centre_mm, grid.origin_mm, strict=True))
    assert coverage[i, j, k] == 1
    far = (coverage.nonzero() - torch.tensor([i, j, k])).float().norm(dim=1).max()
    assert far < 1.6 * lesion.shape.semi_axes_mm[0] + 2


def test_negative_count_is_refused():
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        draw(-1)


def test_a_head_has_the_microbleeds_it_was_asked_for():
    size = (2.0, 2.0, 2.0)
    healthy, ill = (AnatomicalBrain(voxel_size_mm=size, microbleeds=count)(1) for count in (0, 4))
    inside = ill[keys.REGIONS] == REGIONS["haemorrhage"]
    assert inside.any() and not (healthy[keys.REGIONS] == REGIONS["haemorrhage"]).any()
    assert ill[keys.CHI_PARA][inside].mean() > healthy[keys.CHI_PARA][inside].mean() + 0.1
    assert inside.sum() * 8 < 4 * 300  # mm3, of four
