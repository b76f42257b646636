"""Random shapes: seeded, within physical ranges, with lesions up to 3 ppm, in every geometry asked for."""

import pytest
import torch
from torch import Tensor

from custom_transforms import keys
from custom_transforms.phantom import Ellipsoids, RandomShapes

MAPS = (keys.CHI_PARA, keys.CHI_DIA, keys.R2, keys.PROTON_DENSITY, keys.MASK)
NO_LESIONS = Ellipsoids(0, 0.0, (1.0, 2.0), (0.1, 3.0), (0.003, 0.03), 0.5)


def make(seed: int = 0, batch: int = 2, **options: object) -> dict[str, Tensor]:
    return RandomShapes(**{"shape": (20, 24, 18), **options})(batch, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def many() -> dict[str, Tensor]:
    return make(batch=24, shape=(32, 32, 32))


def test_same_seed_same_heads() -> None:
    first, again, other = make(seed=1), make(seed=1), make(seed=2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    assert not torch.equal(first[keys.CHI_PARA][0], first[keys.CHI_PARA][1])


def test_shapes_and_masks() -> None:
    head = make()
    assert head.keys() == {*MAPS, keys.VOXEL_SIZE_MM, keys.B0_DIRECTION}
    for name in MAPS:
        assert head[name].shape == (2, 1, 20, 24, 18)
        assert head[name].dtype == torch.float32
        assert bool((head[name] >= 0).all() and head[name].isfinite().all())
        assert not head[name][head[keys.MASK] == 0].any()
    assert set(head[keys.MASK].unique().tolist()) == {0.0, 1.0}


def test_geometry(many: dict[str, Tensor]) -> None:
    size, b0 = many[keys.VOXEL_SIZE_MM], many[keys.B0_DIRECTION]
    torch.testing.assert_close(b0.norm(dim=1), torch.ones(24))
    tilt = torch.rad2deg(b0[:, 2].acos())
    assert float(tilt.max()) <= 45.01 and float(tilt.max() - tilt.min()) > 20
    assert bool((size[:, 0] == size[:, 1]).all())
    assert float(size[:, 0].min()) >= 0.7 and float(size[:, 0].max()) <= 1.3
    ratio = size[:, 2] / size[:, 0]
    assert float(ratio.max()) <= 2 and 4 < int((ratio == 1).sum()) < 20
    axial = make(tilt_deg=0.0)[keys.B0_DIRECTION]
    torch.testing.assert_close(axial, torch.tensor([[0.0, 0.0, 1.0]] * 2))


def test_statistics_are_those_of_tissue() -> None:
    """Near the published means of chi-sepnet's training data, 0.0259 and 0.0267 ppm, without lesions."""
    head = make(batch=24, shape=(32, 32, 32), lesions=NO_LESIONS, vessels=0)
    inside = head[keys.MASK] > 0
    for name in (keys.CHI_PARA, keys.CHI_DIA):
        values = head[name][inside]
        assert 0.015 < float(values.mean()) < 0.06
        assert 0.01 < float(values.std()) < 0.08
    assert 9 < float(head[keys.R2][inside].median()) < 17  # 13 1/s at 3 T
    assert 0.7 < float(head[keys.PROTON_DENSITY][inside].median()) < 1.1
    fraction = head[keys.MASK].mean(dim=(1, 2, 3, 4))
    assert float(fraction.min()) > 0.25 and float(fraction.max()) < 0.95


def test_lesions_reach_their_range(many: dict[str, Tensor]) -> None:
    both = [keys.CHI_PARA, keys.CHI_DIA]
    peaks = torch.stack([many[name].amax(dim=(1, 2, 3, 4)) for name in both])
    assert float(peaks.max()) < 3.0 * 2.5  # texture on top of 3 ppm
    assert bool(((peaks > 0.8).sum(dim=1) >= 2).all())  # haemorrhages and calcifications
    plain = make(batch=24, shape=(32, 32, 32), lesions=NO_LESIONS)
    assert max(float(plain[name].max()) for name in both) < 0.8


def test_vessels_are_paramagnetic() -> None:
    options = {"lesions": NO_LESIONS, "nuclei": NO_LESIONS, "batch": 8}
    with_vessels, without = make(vessels=8, **options), make(vessels=0, **options)
    for name, at_least in ((keys.CHI_PARA, True), (keys.CHI_DIA, False)):
        mean = [float(head[name][head[keys.MASK] > 0].mean()) for head in (with_vessels, without)]
        assert (mean[0] > 1.05 * mean[1]) is at_least
