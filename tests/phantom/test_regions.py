import math

import pytest
import torch

from custom_transforms.phantom.regions import label_regions
from custom_transforms.phantom.structures import NUCLEI, REGIONS, TRACT_REGIONS
from custom_transforms.phantom.template import load_template


def positions_mm(name: str) -> torch.Tensor:
    """Voxels of a region on the side x > 0, (n, 3), MNI mm."""
    points = (label_regions() == REGIONS[name]).nonzero() + torch.tensor(load_template().origin_mm)
    return points[points[:, 0] > 0]


@pytest.mark.parametrize("name", NUCLEI)
def test_nucleus_has_its_volume_and_place(name):
    points = positions_mm(name)
    assert abs(len(points) / NUCLEI[name].volume_mm3 - 1) < 0.15
    centre = torch.tensor(NUCLEI[name].centre_mm)
    curved = NUCLEI[name].grey_matter_only or NUCLEI[name].hollow
    assert (points.mean(0) - centre).norm() < (5 if curved else 2.5)
    assert (points.mean(0) * torch.tensor([-1, 1, 1]) - centre).norm() > 8  # the check can fail: the other side


def test_whole_ellipsoids_would_miss_the_volumes():
    pallidum = NUCLEI["pallidum_external"]
    assert 4 / 3 * math.pi * math.prod(pallidum.semi_axes_mm) / pallidum.volume_mm3 > 1.15


def test_labels_are_symmetric_and_complete():
    regions = label_regions()
    template = load_template()
    assert regions.dtype == torch.uint8
    assert torch.equal(regions, regions.flip(0))
    assert torch.equal(regions > 0, template.mask)
    added_later = {"vein", "haemorrhage", "calcification"}
    assert set(regions.unique().tolist()) == {i for name, i in REGIONS.items() if name not in added_later}


def test_tracts_are_white_matter_in_their_order():
    template = load_template()
    for name in TRACT_REGIONS:
        assert (template.wm[label_regions() == REGIONS[name]] > 0.4).float().mean() > 0.95, name
    front_to_back = ("corpus_callosum_genu", "corpus_callosum_body", "corpus_callosum_splenium")
    genu, body, splenium = (positions_mm(name)[:, 1].mean() for name in front_to_back)
    assert genu > body > splenium
    for name in front_to_back:
        assert positions_mm(name)[:, 0].max() <= 15


def test_internal_capsule_lies_between_lentiform_and_thalamus():
    capsule = positions_mm("posterior_limb_internal_capsule")[:, 0].mean()
    assert positions_mm("thalamus")[:, 0].mean() < capsule < positions_mm("putamen")[:, 0].mean()
