"""The rule reads lesions whose values are known, and says the same whatever the units of noise."""

import math

import pytest
import torch

from custom_transforms.reproduce.ms_reading import (
    MIN_CORE_VOXELS,
    Reading,
    agreement_percent,
    lesion_parts,
    read_lesions,
)

SHAPE = (48, 32, 32)
CENTRES = {1: (12, 16, 16), 2: (34, 16, 16)}
RADIUS = 5.0
NOISE_PPM = 0.002


def distance(centre: tuple[int, int, int], size_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> torch.Tensor:
    points = torch.stack(torch.meshgrid(*(torch.arange(n) for n in SHAPE), indexing="ij"), dim=-1)
    return ((points - torch.tensor(centre)) * torch.tensor(size_mm)).norm(dim=-1)


@pytest.fixture
def lesions() -> torch.Tensor:
    return sum(number * (distance(centre) <= RADIUS) for number, centre in CENTRES.items())


def white_matter() -> torch.Tensor:
    return torch.ones(SHAPE, dtype=torch.bool)


def noisy(level_ppm: float, seed: int = 0) -> torch.Tensor:
    return level_ppm + NOISE_PPM * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def read(para: torch.Tensor, dia: torch.Tensor, lesions: torch.Tensor) -> dict[int, Reading]:
    return read_lesions(para, dia, lesion_parts(lesions, white_matter(), (1.0, 1.0, 1.0)))


def test_parts_are_shells(lesions: torch.Tensor) -> None:
    for number, part in lesion_parts(lesions, white_matter(), (1.0, 1.0, 1.0)).items():
        from_centre = distance(CENTRES[number])[part.box]
        assert bool(((lesions[part.box] == number) == (part.core | part.rim)).all())
        assert not (part.core & part.rim).any()
        assert float(from_centre[part.core].max()) < RADIUS - 0.5
        assert float(from_centre[part.rim].min()) > RADIUS - 1.5 - 0.8
        assert RADIUS + 1.2 < float(from_centre[part.nawm].min()) < RADIUS + 3
        assert float(from_centre[part.nawm].max()) <= RADIUS + 4 + 1e-5


def test_shells_are_in_millimetres(lesions: torch.Tensor) -> None:
    size = (2.0, 1.0, 1.0)
    part = lesion_parts(lesions, white_matter(), size)[1]
    along = part.nawm.nonzero() + torch.tensor([s.start for s in part.box]) - torch.tensor(CENTRES[1])
    on_axis = along[(along[:, 1:] == 0).all(dim=1), 0].abs()
    assert sorted(set(on_axis.tolist())) == [6, 7]  # 2 and 4 mm beyond 5 voxels


def test_other_lesions_and_grey_matter_are_not_nawm() -> None:
    close = 1 * (distance((16, 16, 16)) <= 4) + 2 * (distance((27, 16, 16)) <= 4)
    white = white_matter()
    white[:, :, 18:] = False
    for part in lesion_parts(close, white, (1.0, 1.0, 1.0)).values():
        assert not (close[part.box] > 0)[part.nawm].any()
        assert not part.nawm[:, :, 18 - part.box[2].start :].any()
    assert lesion_parts(close, torch.zeros_like(white), (1.0, 1.0, 1.0)) == {}


def test_a_vein_in_a_lesion_is_not_read(lesions: torch.Tensor) -> None:
    vein = torch.zeros(SHAPE, dtype=torch.bool)
    vein[:, 15:18, 15:18] = True
    para, dia = noisy(0.017) + 0.2 * vein, noisy(0.03, 1)
    parts = lesion_parts(lesions, ~vein, (1.0, 1.0, 1.0))
    assert read_lesions(para, dia, parts)[1] == Reading("iso", False, "iso")
    inside = lesions == 1
    assert float(para[inside].mean()) > 0.017 + 3 * NOISE_PPM  # the check can fail: with the vein it would be hyper


@pytest.mark.parametrize(("change_ppm", "level"), [(0.01, "hyper"), (0.0, "iso"), (-0.01, "hypo"), (0.001, "iso")])
def test_level_of_either_source(lesions: torch.Tensor, change_ppm: float, level: str) -> None:
    flat, changed = noisy(0.017), noisy(0.03, 1) + change_ppm * (lesions == 1)
    assert read(changed, flat, lesions) == {1: Reading(level, False, "iso"), 2: Reading("iso", False, "iso")}
    assert read(flat, changed, lesions) == {1: Reading("iso", False, level), 2: Reading("iso", False, "iso")}


def test_rim(lesions: torch.Tensor) -> None:
    shell = (lesions == 2) & (distance(CENTRES[2]) > RADIUS - 1.5)
    para = noisy(0.017) + 0.03 * shell - 0.008 * ((lesions == 2) & ~shell)
    assert read(para, noisy(0.03, 1), lesions)[2] == Reading("hypo", True, "iso")
    solid = noisy(0.017) + 0.03 * (lesions == 2)
    assert not read(solid, noisy(0.03, 1), lesions)[2].rim  # the check can fail


def test_small_lesion_is_all_core() -> None:
    small = 1 * (distance((16, 16, 16)) <= 1.5)
    part = lesion_parts(small, white_matter(), (1.0, 1.0, 1.0))[1]
    assert not part.rim.any()
    assert int(part.core.sum()) == int(small.sum()) > MIN_CORE_VOXELS
    assert read(noisy(0.017) + 0.03 * small, noisy(0.03, 1), small)[1] == Reading("hyper", False, "iso")


def test_reading_does_not_depend_on_scale(lesions: torch.Tensor) -> None:
    para, dia = noisy(0.017) + 0.004 * (lesions == 1), noisy(0.03, 1) - 0.02 * (lesions == 2)
    assert read(para, dia, lesions) == read(7 * para, 0.3 * dia, lesions)


def test_agreement_is_per_source() -> None:
    first = {1: Reading("hyper", False, "hypo"), 2: Reading("iso", True, "iso"), 3: Reading("iso", False, "iso")}
    second = {**first, 2: Reading("iso", False, "iso"), 3: Reading("iso", False, "hypo")}
    assert agreement_percent(first, first, "chi_para") == 100
    assert agreement_percent(first, second, "chi_para") == pytest.approx(200 / 3)  # a rim counts
    assert agreement_percent(first, second, "chi_dia") == pytest.approx(200 / 3)
    assert math.isnan(agreement_percent({}, {}, "chi_dia"))
    with pytest.raises(ValueError, match="same lesions"):
        agreement_percent(first, {1: first[1]}, "chi_para")
