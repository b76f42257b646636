"""Random shapes: seeded, within physical ranges, with lesions up to 3 ppm, in every geometry asked for."""

import pytest
import torch
from monai.bundle import ConfigParser
from torch import Tensor

from custom_transforms import keys
from custom_transforms.phantom import Ellipsoids, RandomShapes, Vessels

MAPS = (keys.CHI_PARA, keys.CHI_DIA, keys.R2, keys.PROTON_DENSITY, keys.MASK)
ONE_BALL = Ellipsoids(1, 1.0, (4.0, 4.0), (1.0, 1.0), (0.005, 0.005), 0.0, (15.0, 60.0), (0.4, 1.0))
PLAIN = {"vessels": None, "texture": 0.0, "gradient": 0.0, "edge_voxels": (0.0, 0.0)}


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
    small, middle, large = size.sort(dim=1).values.unbind(1)
    assert torch.equal(small, middle)
    assert float(small.min()) >= 0.5 and float(small.max()) <= 2.5 and float(large.max()) <= 5
    assert 4 < int((large == small).sum()) < 20


def test_one_geometry_as_direct_networks_need_it() -> None:
    head = make(voxel_size_mm=[1.0, 1.0], slice_ratio=1.0, tilt_deg=0.0)
    assert torch.equal(head[keys.VOXEL_SIZE_MM], torch.ones(2, 3))
    torch.testing.assert_close(head[keys.B0_DIRECTION], torch.tensor([[0.0, 0.0, 1.0]] * 2))


def test_statistics_are_those_of_tissue() -> None:
    """Near the published means of chi-sepnet's training data, 0.0259 and 0.0267 ppm, without lesions."""
    head = make(batch=24, shape=(32, 32, 32), lesions=None, vessels=None)
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
    plain = make(batch=24, shape=(32, 32, 32), lesions=None)
    assert max(float(plain[name].max()) for name in both) < 0.8


def test_vessels_are_paramagnetic() -> None:
    options = {"lesions": None, "nuclei": None, "batch": 8}
    with_vessels, without = make(vessels=Vessels(8), **options), make(vessels=None, **options)
    for name, at_least in ((keys.CHI_PARA, True), (keys.CHI_DIA, False)):
        mean = [float(head[name][head[keys.MASK] > 0].mean()) for head in (with_vessels, without)]
        assert (mean[0] > 1.05 * mean[1]) is at_least


def test_r2_rises_with_both_sources() -> None:
    """The slopes b and c change R2 alone: by b chi_para + c chi_dia, up to 60 1/s, but not in fluid."""
    flat, raised = (
        make(batch=12, lesions=None, r2_per_para=(b, b), r2_per_dia=(c, c), **PLAIN)
        for b, c in ((0.0, 0.0), (40.0, 100.0))
    )
    for name in (keys.CHI_PARA, keys.CHI_DIA, keys.PROTON_DENSITY):
        torch.testing.assert_close(flat[name], raised[name])
    tissue = flat[keys.R2] > 3
    expected = (flat[keys.R2] + 40 * flat[keys.CHI_PARA] + 100 * flat[keys.CHI_DIA]).clamp(max=60)
    interior = _interior(flat[keys.R2])  # across soft edges the fluid's share is unknown
    torch.testing.assert_close(raised[keys.R2][tissue & interior], expected[tissue & interior], atol=1e-3, rtol=1e-3)
    fluid = ~tissue & (flat[keys.MASK] > 0) & interior
    torch.testing.assert_close(raised[keys.R2][fluid], flat[keys.R2][fluid], atol=1e-3, rtol=0)
    assert bool(fluid.any()) and float((raised[keys.R2] - flat[keys.R2]).max()) > 3


def test_r2_correlates_with_the_sources(many: dict[str, Tensor]) -> None:
    inside = (many[keys.MASK] > 0) & (many[keys.R2] > 3)
    for name in (keys.CHI_PARA, keys.CHI_DIA):
        correlations = [
            float(torch.stack([many[keys.R2][i][inside[i]], many[name][i][inside[i]]]).corrcoef()[0, 1])
            for i in range(24)
        ]
        assert sum(correlations) / 24 > 0.15


def test_fluid_is_free_of_sources() -> None:
    head = make(batch=8, nuclei=None, lesions=None, **PLAIN)
    fluid = (head[keys.MASK] > 0) & (head[keys.R2] < 0.701)
    assert 0.02 < float(fluid.sum() / head[keys.MASK].sum()) < 0.3
    torch.testing.assert_close(head[keys.R2][fluid], torch.full((int(fluid.sum()),), 0.7), atol=1e-3, rtol=0)
    for name in (keys.CHI_PARA, keys.CHI_DIA):
        assert float(head[name][fluid].max()) < 0.02
        assert float(head[name][fluid].mean()) < 0.1 * float(head[name][head[keys.MASK] > 0].mean())


def test_lesions_change_r2_and_m0() -> None:
    without, with_lesion = (make(batch=8, lesions=lesions, **PLAIN) for lesions in (None, ONE_BALL))
    core = (with_lesion[keys.CHI_PARA] > 0.9999) & (with_lesion[keys.MASK] > 0)
    for name, low, high in ((keys.R2, 15, 60), (keys.PROTON_DENSITY, 0.4, 1.0)):
        values = torch.stack([with_lesion[name][i][core[i]].mean() for i in range(8) if bool(core[i].any())])
        assert low - 0.01 <= float(values.min()) and float(values.max()) <= high + 0.01
        assert float(values.max() - values.min()) > 0.3 * (high - low)
        assert float((with_lesion[name] - without[name])[core].abs().mean()) > 0.1 * (high - low)


def test_detail_sets_the_size_of_structures() -> None:
    """Twice the detail, twice the lengths, half the borders between classes."""
    options = {"shape": (48, 48, 48), "batch": 6, "nuclei": None, "lesions": None, "fine_voxels": (3.0, 3.0), **PLAIN}
    edges = []
    for detail in (0.7, 1.4):
        m0 = make(detail=(detail, detail), voxel_size_mm=(1, 1), slice_ratio=1.0, **options)[keys.PROTON_DENSITY]
        edges.append(float((m0.diff(dim=2).abs() > 1e-3).float().mean()))
    assert 1.6 < edges[0] / edges[1] < 2.4


def test_json_declares_all() -> None:
    family = {"_target_": "custom_transforms.phantom.Ellipsoids", "number": 2, "probability": 1.0, "diamagnetic": 0.5}
    family |= {"radius_voxels": [2.0, 4.0], "strong_ppm": [0.1, 3.0], "weak_ppm": [0.003, 0.03]}
    family |= {"r2_per_s": [15.0, 60.0], "m0": [0.4, 1.0]}
    vessels = {"_target_": "custom_transforms.phantom.Vessels", "number": 2, "radius_voxels": [0.5, 2.0]}
    phantom = {"_target_": "custom_transforms.phantom.RandomShapes", "shape": [12, 9, 10], "detail": [0.6, 1.4]}
    phantom |= {
        "voxel_size_mm": [0.5, 2.5],
        "edge_voxels": [0.2, 0.7],
        "coarse": [0.05, 0.1],
        "fine_voxels": [1.5, 4.0],
    }
    phantom |= {"r2_per_para": [0.0, 60.0], "r2_per_dia": [0.0, 150.0]}
    phantom |= {"nuclei": family, "lesions": family, "vessels": vessels}
    head = ConfigParser({"phantom": phantom}).get_parsed_content("phantom")(2, torch.Generator().manual_seed(0))
    assert head[keys.CHI_PARA].shape == (2, 1, 12, 9, 10)


def _interior(maps: Tensor) -> Tensor:
    """Voxels whose neighbours all have the same value."""
    pad = torch.nn.functional.pad(maps, (1,) * 6, mode="replicate")
    highest, lowest = (sign * torch.nn.functional.max_pool3d(sign * pad, 3, 1) for sign in (1, -1))
    return highest - lowest < 1e-2
