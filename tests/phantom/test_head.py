"""Layers of known thickness around a ball for a brain, cavities where they belong, and nothing of it in the brain."""

import math

import numpy as np
import pytest
import torch

from custom_transforms import keys
from custom_transforms.phantom import head as module
from custom_transforms.phantom.brain import AFFINE
from custom_transforms.phantom.head import CHI_BACKGROUND, HEAD_MASK, HEAD_TISSUES, TISSUE_NAMES, surround_with_head
from custom_transforms.phantom.template import load_template
from custom_transforms.phantom.warp import rotation_matrix

RADIUS_MM = 32.0
VOXEL_SIZES_MM = ((2.0, 2.0, 2.0), (1.6, 1.6, 3.0))
AIR, BRAIN, FLUID, BONE, FAT, MUSCLE = range(6)


def ball(voxel_size_mm: tuple[float, ...], margin: int = 2, cut_mm: float = 0.0) -> dict[str, torch.Tensor]:
    """A ball for a brain, tilted by 20 degrees, with a cut of some width down to its centre."""
    axes = [
        torch.arange(-math.ceil(RADIUS_MM / v) - margin, math.ceil(RADIUS_MM / v) + margin + 1) for v in voxel_size_mm
    ]
    x, y, z = torch.meshgrid(*[a * v for a, v in zip(axes, voxel_size_mm, strict=True)], indexing="ij")
    mask = ((x**2 + y**2 + z**2).sqrt() <= RADIUS_MM) & ~((x.abs() < cut_mm / 2) & (z > 0))
    ones = mask[None].float()
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = rotation_matrix(torch.tensor([1.0, 1.0, 0.0]).double(), 20) * torch.tensor(voxel_size_mm)
    affine[:3, 3] = torch.tensor([3.0, -5.0, 7.0])
    return {
        **{keys.CHI_PARA: 0.03 * ones, keys.CHI_DIA: 0.02 * ones, keys.R2: 14 * ones, keys.PROTON_DENSITY: ones},
        **{keys.MASK: ones, keys.REGIONS: 3 * ones.byte(), keys.VOXEL_SIZE_MM: torch.tensor(voxel_size_mm)},
        **{keys.B0_DIRECTION: (affine[2, :3] / affine[:3, :3].norm(dim=0)).float(), AFFINE: affine},
    }


def distance_mm(head: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance from the surface of the ball and height above its centre, (X, Y, Z)."""
    index = torch.stack(torch.meshgrid(*[torch.arange(n) for n in head[keys.MASK].shape[1:]], indexing="ij"), dim=-1)
    centre = head[keys.MASK][0].nonzero().double().mean(0)
    offset = (index - centre) * head[keys.VOXEL_SIZE_MM]
    return offset.norm(dim=-1) - RADIUS_MM, offset[..., 2]


@pytest.fixture
def mean_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SIZE_SD", 0.0)


@pytest.mark.parametrize("voxel_size_mm", VOXEL_SIZES_MM)
@pytest.mark.usefixtures("mean_sizes")
def test_layers_are_shells_of_their_thickness(voxel_size_mm: tuple[float, ...]) -> None:
    head = surround_with_head(ball(voxel_size_mm), seed=0)
    distance, height = distance_mm(head)
    tissues, above = head[HEAD_TISSUES][0], height > 5  # face and neck are below
    edge, fluid = max(voxel_size_mm) / 2 + 0.1, min(2 * max(voxel_size_mm), 5.5)  # two voxels, as 2.5 mm are less
    inside = {FLUID: (0, fluid), BONE: (fluid, 9), FAT: (9, 15), AIR: (15, 40)}
    for tissue, (near, far) in inside.items():
        shell = above & (distance > near + edge) & (distance < far - edge)
        # frontal sinus and eyes reach into bone and fat
        assert (tissues[shell] == tissue).float().mean() > (0.9 if tissue in (BONE, FAT) else 0.999), tissue
    assert not (tissues[above & (distance > 9 + edge) & (distance < 15 - edge)] == BONE).any()
    assert (tissues[~above] == MUSCLE).any() and not (tissues[above & (distance < 15 - edge)] == MUSCLE).any()


@pytest.mark.parametrize(("width_mm", "closed"), [(10.0, True), (50.0, False)])
@pytest.mark.usefixtures("mean_sizes")
def test_the_hull_bridges_sulci_and_nothing_wider(width_mm: float, closed: bool) -> None:
    head = surround_with_head(ball((2.0, 2.0, 2.0), cut_mm=width_mm), seed=0)
    middle = torch.tensor(head[keys.MASK].shape[1:]) // 2
    centre = head[keys.MASK][0].nonzero()[:, 2].min() + round((RADIUS_MM + 16) / 2)  # 16 mm above the ball's centre
    assert (int(head[HEAD_TISSUES][0, middle[0], middle[1], centre]) == FLUID) is closed


@pytest.mark.parametrize("voxel_size_mm", VOXEL_SIZES_MM)
def test_the_brain_stays_where_it_is_and_keeps_its_values(voxel_size_mm: tuple[float, ...]) -> None:
    brain = ball(voxel_size_mm, margin=1)
    head = surround_with_head(brain, seed=4)
    inside, before = (subject[keys.MASK][0].nonzero().double() for subject in (head, brain))
    for subject, points in ((head, inside), (brain, before)):
        points.copy_(points @ subject[AFFINE][:3, :3].T + subject[AFFINE][:3, 3])
    torch.testing.assert_close(inside, before)
    for key in (keys.CHI_PARA, keys.CHI_DIA, keys.R2, keys.PROTON_DENSITY, keys.REGIONS):
        selected = head[key][head[keys.MASK] > 0]
        assert torch.equal(selected, brain[key][brain[keys.MASK] > 0])
    for key in (keys.CHI_PARA, keys.CHI_DIA, keys.REGIONS):
        assert not head[key][head[keys.MASK] == 0].any()
    occupied, shape = head[keys.MASK][0].nonzero(), torch.tensor(head[keys.MASK].shape[1:])
    for free in (occupied.amin(0), shape - 1 - occupied.amax(0)):
        room_mm = free * torch.tensor(voxel_size_mm)
        assert (room_mm >= 40).all() and (room_mm < 40 + max(voxel_size_mm)).all()


def test_sources_of_the_background_leave_the_brain_out() -> None:
    head = surround_with_head(ball((2.0, 2.0, 2.0)), seed=1)
    chi, mask = head[CHI_BACKGROUND], head[keys.MASK] > 0
    assert chi[mask].abs().max() < 0.07  # at the rim, of bone at -2 ppm
    assert chi.max() == pytest.approx(9.4, abs=1e-4) and -2 <= chi.min() < -1.2
    assert chi[0, 0, 0, -1] == pytest.approx(9.4, abs=1e-4)  # the air at a corner
    unsmoothed = torch.where(head[HEAD_TISSUES] == BONE, -2.0, 0.0)
    assert chi[head[HEAD_TISSUES] == BONE].mean() > unsmoothed[head[HEAD_TISSUES] == BONE].mean() + 0.1


def test_signal_comes_from_soft_tissue_only() -> None:
    head = surround_with_head(ball((2.0, 2.0, 2.0)), seed=1)
    tissues, m0 = head[HEAD_TISSUES], head[keys.PROTON_DENSITY]
    assert not m0[(tissues == AIR) | (tissues == BONE)].any()
    fluid = tissues == FLUID
    torch.testing.assert_close(m0[fluid], torch.full_like(m0[fluid], 0.52))
    torch.testing.assert_close(1 / head[keys.R2][fluid], torch.full_like(m0[fluid], 1.6))
    for tissue, expected in ((FAT, 1.0), (MUSCLE, 0.6)):
        values = m0[tissues == tissue]
        assert values.mean() == pytest.approx(expected, rel=0.1) and 0.02 < values.std() / expected < 0.2


def test_cavities_lie_in_the_head_where_they_belong() -> None:
    """On the template itself, whose millimetres are MNI's."""
    template = load_template()
    coarse = template.mask[::3, ::3, ::3]
    affine = template.affine.clone()
    affine[:3, :3] *= 3
    ones = coarse[None].float()
    maps = {name: ones for name in (keys.CHI_PARA, keys.CHI_DIA, keys.R2, keys.PROTON_DENSITY, keys.MASK)}
    brain = {**maps, keys.REGIONS: ones.byte(), keys.VOXEL_SIZE_MM: torch.full((3,), 3.0), AFFINE: affine}
    head = surround_with_head({**brain, keys.B0_DIRECTION: torch.tensor([0.0, 0.0, 1.0])}, seed=0)
    tissues, inverse = head[HEAD_TISSUES][0], torch.linalg.inv(head[AFFINE])

    def at(*mni_mm: float) -> str:
        voxel = inverse[:3, :3] @ torch.tensor(mni_mm).double() + inverse[:3, 3]
        return TISSUE_NAMES[int(tissues[tuple(voxel.round().int().tolist())])]

    assert at(0, 48, -40) == "air"  # nasal cavity
    assert {at(side * 54, -26, -50) for side in (-1, 1)} == {"air"}  # mastoid cells
    assert {at(side * 32, 66, -40) for side in (-1, 1)} == {"fluid"}  # eyes
    assert at(0, -20, 10) == at(30, 0, -25) == "brain"
    assert at(0, -20, -100) == "muscle" and at(0, 70, -85) == "muscle"  # neck, face
    assert at(0, 104, -40) == at(80, -20, -80) == at(0, -80, -80) == "air"  # around it
    assert 3.0 < head[HEAD_MASK].sum() * 27 / 1e6 < 6.0  # l
    cavities = (head[HEAD_MASK][0] > 0) & (tissues == AIR)
    assert 5 < cavities.sum() * 27 / 1000 < 60  # ml
    near = torch.nn.functional.max_pool3d(ones, 3, 1, 1)
    assert not (near[0] > 0)[cavities[tuple(_embedding(head, coarse))]].any()  # bone between cavity and brain


def _embedding(head: dict[str, torch.Tensor], mask: torch.Tensor) -> list[slice]:
    first = head[keys.MASK][0].nonzero().amin(0) - mask.nonzero().amin(0)
    return [slice(a, a + n) for a, n in zip(first.tolist(), mask.shape, strict=True)]


def test_seeds_change_the_sizes_by_about_ten_percent() -> None:
    brain = ball((2.0, 2.0, 2.0))
    volumes = [float((surround_with_head(brain, seed=seed)[HEAD_TISSUES] == BONE).sum()) for seed in range(8)]
    assert volumes[0] == float((surround_with_head(brain, seed=0)[HEAD_TISSUES] == BONE).sum())
    assert 0.03 < np.std(volumes) / np.mean(volumes) < 0.3


def test_an_empty_mask_is_refused() -> None:
    brain = ball((4.0, 4.0, 4.0))
    with pytest.raises(ValueError, match="expected a mask with a brain in it"):
        surround_with_head({**brain, keys.MASK: torch.zeros_like(brain[keys.MASK])}, seed=0)
