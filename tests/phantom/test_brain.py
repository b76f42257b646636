import math

import pytest
import torch

from custom_transforms import keys
from custom_transforms.phantom.brain import AFFINE, MARGIN_VOXELS, AnatomicalBrain
from custom_transforms.phantom.structures import REGIONS

VOXEL_SIZE_MM = (2.0, 2.0, 3.0)
MAPS = (keys.CHI_PARA, keys.CHI_DIA, keys.R2, keys.PROTON_DENSITY)


@pytest.fixture(scope="module")
def subject():
    return AnatomicalBrain(voxel_size_mm=VOXEL_SIZE_MM)(0)


@pytest.fixture(scope="module")
def tilted_with_lesions():
    return AnatomicalBrain(voxel_size_mm=VOXEL_SIZE_MM, tilt_deg=20.0, lesions=4)(0)


def test_maps_have_shapes_types_and_units(subject):
    mask = subject[keys.MASK] > 0
    for name in MAPS:
        assert subject[name].dtype == torch.float32
        assert subject[name].shape == mask.shape
        assert subject[name].min() >= 0
        assert subject[name][~mask].abs().max() == 0
    assert mask.shape[0] == 1
    assert subject[keys.REGIONS].dtype == torch.uint8
    assert 1000 < float(mask.sum()) * math.prod(VOXEL_SIZE_MM) / 1000 < 2400  # ml
    assert 8 < subject[keys.R2][mask].mean() < 16  # 1/s
    assert 0.7 < subject[keys.PROTON_DENSITY][mask].mean() < 1.1


def test_box_leaves_a_margin_and_no_more(subject):
    occupied = subject[keys.MASK][0].nonzero()
    shape = torch.tensor(subject[keys.MASK].shape[1:])
    assert (occupied.amin(0) == MARGIN_VOXELS).all()
    assert (shape - 1 - occupied.amax(0) == MARGIN_VOXELS).all()


def test_statistics_are_near_those_of_published_data(subject):
    mask = subject[keys.MASK] > 0
    for name, published in ((keys.CHI_PARA, 0.0259), (keys.CHI_DIA, 0.0267)):
        assert 0.6 < float(subject[name][mask].mean()) / published < 1.4
        assert 0.005 < float(subject[name][mask].std()) < 0.05


def test_regions_order_as_in_a_head(subject):
    def median(name: str, region: str) -> float:
        return float(subject[name][subject[keys.REGIONS] == REGIONS[region]].median())

    assert median(keys.CHI_PARA, "vein") > 0.05
    assert median(keys.CHI_PARA, "pallidum_external") > 2 * median(keys.CHI_PARA, "white_matter")
    assert median(keys.CHI_DIA, "white_matter") > median(keys.CHI_DIA, "putamen")
    ventricles = subject[keys.R2][subject[keys.REGIONS] == REGIONS["cerebrospinal_fluid"]].min()
    assert float(ventricles) < 1.2  # 1/s; 1/1.6 in pure fluid
    assert not median(keys.CHI_PARA, "white_matter") > median(keys.CHI_PARA, "vein")  # the check can fail


def test_geometry_follows_the_affine(tilted_with_lesions):
    affine, direction = tilted_with_lesions[AFFINE], tilted_with_lesions[keys.B0_DIRECTION]
    columns = affine[:3, :3].norm(dim=0)
    torch.testing.assert_close(columns.float(), torch.tensor(VOXEL_SIZE_MM))
    torch.testing.assert_close(direction, (affine[2, :3] / columns).float())
    assert math.isclose(float(direction[2]), math.cos(math.radians(20)), rel_tol=1e-5)
    assert math.isclose(float(direction.norm()), 1, rel_tol=1e-6)
    assert not torch.allclose(direction, torch.tensor([0.0, 0.0, 1.0]), atol=0.1)


def test_tilt_and_lesions_leave_the_rest_of_the_subject_alone(subject, tilted_with_lesions):
    changed = (subject[keys.CHI_PARA] - tilted_with_lesions[keys.CHI_PARA]).abs() > 1e-6
    changed |= (subject[keys.CHI_DIA] - tilted_with_lesions[keys.CHI_DIA]).abs() > 1e-6
    lesions = tilted_with_lesions[keys.REGIONS] >= REGIONS["haemorrhage"]
    assert lesions.any()
    near = torch.nn.functional.max_pool3d(lesions.float(), 5, 1, 2) > 0
    assert changed.any()
    assert not (changed & ~near).any()


def test_lesions_raise_their_source(subject, tilted_with_lesions):
    for kind, name in (("haemorrhage", keys.CHI_PARA), ("calcification", keys.CHI_DIA)):
        inside = tilted_with_lesions[keys.REGIONS] == REGIONS[kind]
        assert tilted_with_lesions[name][inside].mean() > subject[name][inside].mean() + 0.05


def test_another_seed_is_another_subject(subject):  # that one seed is one subject shows where the lesions are not
    other = AnatomicalBrain(voxel_size_mm=VOXEL_SIZE_MM)(1)
    assert abs(float(other[keys.CHI_PARA].sum()) / float(subject[keys.CHI_PARA].sum()) - 1) > 1e-3


def test_wrong_voxel_size_is_refused():
    with pytest.raises(ValueError, match="three positive numbers"):
        AnatomicalBrain(voxel_size_mm=(1.0, 0.0, 1.0))


@pytest.mark.parametrize(
    "wrong", [{"voxel_size_mm": (0.0, 1.0, 1.0)}, {"voxel_size_mm": (1.0, 1.0, 100.0)}, {"tilt_deg": 500.0}]
)
def test_impossible_geometry_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AnatomicalBrain(**wrong)
