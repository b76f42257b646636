"""The axial frame against closed forms: where a blob lands, what field a sphere has, what comes back.

Trilinear interpolation widens structures by about half a voxel; the maps of these tests vary over 4 mm and more.
"""

import math

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from torch import Tensor

from custom_transforms.physics import sphere_field
from custom_transforms.transforms import (
    AxialFrame,
    AxialResampled,
    Geometryd,
    b0_direction_from_affine,
    voxel_size_from_affine,
)
from custom_transforms.transforms.axial import rotation_to_axial

Z = torch.tensor([0.0, 0.0, 1.0])
INTERPOLATION = 0.03  # relative to the norm
MISTAKE = 0.3

GEOMETRIES = {
    "oblique": ((44, 40, 48), (1.0, 1.0, 1.0), (0.3, -0.2, 0.9)),
    "anisotropic": ((50, 40, 34), (0.8, 1.0, 1.2), (0.0, 0.0, 1.0)),
    "both": ((48, 42, 34), (0.8, 1.0, 1.3), (0.3, 0.4, 0.8)),
    "half turn": ((40, 42, 44), (1.0, 1.0, 1.0), (0.0, 0.0, -1.0)),
    "sagittal": ((40, 42, 44), (1.0, 0.9, 0.9), (1.0, 0.0, 0.0)),
    "finer": ((84, 80, 76), (0.5, 0.5, 0.5), (0.2, 0.1, 0.9)),
}


def unit(*values: float) -> Tensor:
    return torch.nn.functional.normalize(torch.tensor(values).float(), dim=0)


def points_mm(shape: tuple[int, ...], voxel: Tensor) -> Tensor:
    """Positions (X, Y, Z, 3) from the centre of the grid, mm."""
    axes = [(torch.arange(n).double() - (n - 1) / 2) * float(v) for n, v in zip(shape, voxel, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def axial_points_mm(frame: AxialFrame, voxel: Tensor, rotation: Tensor) -> Tensor:
    """Positions (X', Y', Z', 3) of the axial voxels from the centre of the source's grid, along the axial axes, mm."""
    index = torch.stack(torch.meshgrid(*(torch.arange(n).double() for n in frame.shape), indexing="ij"), dim=-1)
    centre = (torch.tensor(frame.mask.shape[1:]).double() - 1) / 2
    return (index @ frame.matrix.T + frame.offset - centre) * voxel.double() @ rotation.T


def blobs(points: Tensor, rotation: Tensor) -> Tensor:
    """Three Gaussians of different heights in the head, turned by a rotation, (1, ...)."""
    centres = torch.tensor([[5.0, 1.0, -3.0], [-4.0, 4.0, 2.0], [1.0, -5.0, 5.0]]).double() @ rotation.T
    distance2 = (points[..., None, :] - centres).square().sum(-1)
    return (torch.exp(-distance2 / (2 * 3.5**2)) @ torch.tensor([1.0, 0.5, 0.8]).double())[None].float()


def ball(points: Tensor, radius_mm: float) -> Tensor:
    return (points.norm(dim=-1) <= radius_mm)[None].float()


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.fixture(params=GEOMETRIES)
def head(request: pytest.FixtureRequest) -> tuple[tuple[int, int, int], Tensor, Tensor]:
    shape, voxel, b0 = GEOMETRIES[request.param]
    return shape, torch.tensor(voxel), unit(*b0)


@pytest.mark.parametrize("b0", [(0.3, -0.2, 0.9), (0, 0, 1), (0, 0, -1), (1, 0, 0), (1e-4, 0, -1), (0.6, 0.3, -0.5)])
def test_the_rotation_is_the_smallest_one(b0: tuple[float, ...]) -> None:
    direction = unit(*b0).double()
    rotation = rotation_to_axial(direction)
    torch.testing.assert_close(rotation @ direction, Z.double(), atol=1e-7, rtol=0)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3).double(), atol=1e-12, rtol=0)
    assert float(torch.linalg.det(rotation)) == pytest.approx(1)
    assert float(rotation.trace()) == pytest.approx(1 + 2 * float(direction[2]), abs=1e-6)


def test_a_blob_lands_where_the_rotation_says(head: tuple) -> None:
    shape, voxel, b0 = head
    rotation = rotation_to_axial(b0)
    points = points_mm(shape, voxel)
    frame = AxialFrame.around(ball(points, 16), voxel, b0, target_mm=1.0)
    where = axial_points_mm(frame, voxel, rotation)
    steps = [where[1, 0, 0] - where[0, 0, 0], where[0, 1, 0] - where[0, 0, 0], where[0, 0, 1] - where[0, 0, 0]]
    torch.testing.assert_close(torch.stack(steps), torch.eye(3).double(), atol=1e-6, rtol=0)
    axial = frame.to_axial(blobs(points, torch.eye(3).double()))
    mask = frame.to_axial(frame.mask)
    assert distance(axial, mask * blobs(where, rotation)) < INTERPOLATION
    if not torch.allclose(rotation, rotation.T):
        assert distance(axial, mask * blobs(where, rotation.T)) > MISTAKE


def test_the_frame_holds_the_head_and_a_margin(head: tuple) -> None:
    shape, voxel, b0 = head
    frame = AxialFrame.around(ball(points_mm(shape, voxel), 14), voxel, b0, target_mm=1.0)
    mask = frame.to_axial(frame.mask)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    where = mask[0].nonzero()
    margins = torch.cat([where.amin(0), torch.tensor(frame.shape) - 1 - where.amax(0)])
    assert int(margins.min()) >= 8 and int(margins.max()) <= 11
    assert float(mask.sum()) == pytest.approx(4 / 3 * math.pi * 14**3, rel=0.03)  # mm^3


def test_the_field_of_a_sphere_becomes_the_axial_one(head: tuple) -> None:
    shape, voxel, b0 = head
    centre = (torch.tensor(shape) - 1) / 2 + 0.3
    sphere = {"radius_mm": 5.0, "chi_ppm": 0.6}
    field, _ = sphere_field(shape, voxel, b0, centre_voxel=centre, **sphere)
    frame = AxialFrame.around(ball(points_mm(shape, voxel), 16), voxel, b0, target_mm=1.0)
    axial_centre = torch.linalg.inv(frame.matrix) @ (centre.double() - frame.offset)
    expected, _ = sphere_field(frame.shape, torch.ones(3), Z, centre_voxel=axial_centre, **sphere)
    _, near = sphere_field(frame.shape, torch.ones(3), Z, centre_voxel=axial_centre, radius_mm=7.0, chi_ppm=0.6)
    # the analytic field jumps at the surface of the sphere
    region = (frame.to_axial(frame.mask)[0] > 0) & ~near
    result = frame.to_axial(field[None].float())[0].double()
    assert distance(result[region], expected[region]) < 2 * INTERPOLATION
    if not torch.allclose(b0.abs(), Z):
        wrong = AxialFrame.around(frame.mask, voxel, b0 * torch.tensor([-1, -1, 1.0]), target_mm=1.0)
        wrong_centre = torch.linalg.inv(wrong.matrix) @ (centre.double() - wrong.offset)
        expected, _ = sphere_field(wrong.shape, torch.ones(3), Z, centre_voxel=wrong_centre, **sphere)
        _, near = sphere_field(wrong.shape, torch.ones(3), Z, centre_voxel=wrong_centre, radius_mm=7.0, chi_ppm=0.6)
        region = (wrong.to_axial(wrong.mask)[0] > 0) & ~near
        result = wrong.to_axial(field[None].float())[0].double()
        assert b0[0] == 1 or distance(result[region], expected[region]) > MISTAKE  # along x the mirror image is x


def test_smooth_maps_come_back_and_constants_stay(head: tuple) -> None:
    shape, voxel, b0 = head
    points = points_mm(shape, voxel)
    mask = ball(points, 15)
    maps = mask * torch.cat([blobs(points, torch.eye(3).double()), torch.full((1, *shape), 0.7)])
    frame = AxialFrame.around(mask, voxel, b0, target_mm=1.0)
    there = frame.to_axial(maps)
    back = frame.from_axial(there)
    assert back.shape == maps.shape
    assert distance(back[0], maps[0]) < INTERPOLATION
    torch.testing.assert_close(there[1], 0.7 * frame.to_axial(mask)[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(back[1], maps[1], atol=1e-4, rtol=0)
    assert distance(back[0].flip(0), maps[0]) > MISTAKE


def test_coarser_grids_average() -> None:
    """Stripes one voxel wide are grey on a grid twice as coarse, there and back; one sample would be black or white."""
    stripes = torch.arange(80).remainder(2).float()[None, :, None, None]
    fine = AxialFrame.around(torch.ones(1, 24, 24, 24), torch.full((3,), 0.5), Z, target_mm=1.0)
    axial = fine.to_axial(stripes[:, :24].expand(1, 24, 24, 24))
    torch.testing.assert_close(axial[:, 9:-9, 9:-9, 9:-9], torch.full((1, 11, 11, 11), 0.5))
    coarse = AxialFrame.around(torch.ones(1, 12, 12, 12), torch.full((3,), 2.0), Z, target_mm=1.0)
    x, y, z = coarse.shape
    back = coarse.from_axial(stripes[:, :x].expand(1, x, y, z))
    torch.testing.assert_close(back[:, 1:-1], torch.full((1, 10, 12, 12), 0.5), atol=1e-4, rtol=0)


def test_a_half_turn_is_a_flip_without_loss() -> None:
    maps = torch.rand(1, 20, 21, 22, generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(maps)
    frame = AxialFrame.around(mask, torch.ones(3), -Z, target_mm=1.0)
    axial = frame.to_axial(maps)
    assert axial.shape == (1, 36, 37, 38)
    torch.testing.assert_close(axial[:, 8:-8, 8:-8, 8:-8], maps.flip(2, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(frame.from_axial(axial), maps, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("voxel", "angle_deg", "identity"),
    [
        ((1.0, 1.0, 1.0), 0.0, True),
        ((1.0005, 1, 0.9995), 0.09, True),
        ((1.002, 1, 1), 0.0, False),
        ((1, 1, 1), 0.11, False),
    ],
)
def test_an_axial_head_is_not_touched(voxel: tuple, angle_deg: float, identity: bool) -> None:
    maps = torch.rand(3, 9, 8, 7, generator=torch.Generator().manual_seed(0))
    mask = (maps[2:3] > 0.3).float()
    angle = math.radians(angle_deg)
    frame = AxialFrame.around(mask, torch.tensor(voxel), unit(math.sin(angle), 0, math.cos(angle)), target_mm=1.0)
    assert frame.identity is identity
    there = frame.to_axial(maps)
    if identity:
        assert torch.equal(there, maps)
        assert torch.equal(frame.from_axial(there), maps * mask)
    else:
        assert there.shape[1] >= 9 + 16


def test_gradients_pass() -> None:
    mask = torch.zeros(1, 10, 10, 10)
    mask[:, 2:8, 2:8, 2:8] = 1
    frame = AxialFrame.around(mask, torch.tensor([1.0, 1.0, 2.0]), unit(0.2, 0, 1), target_mm=1.0)
    maps = frame.to_axial(mask).requires_grad_()
    frame.from_axial(maps).sum().backward()
    assert maps.grad is not None and bool(maps.grad.isfinite().all())
    assert float(maps.grad.sum()) == pytest.approx(float(mask.sum()), rel=1e-3)  # every average has weights of sum 1


@pytest.fixture
def case() -> dict[str, Tensor]:
    """A head (3, 40, 38, 30) tilted by 20 degrees, with voxels of 0.9 x 1 x 1.3 mm, label and R2'."""
    angle = math.radians(20)
    affine = torch.eye(4).double()
    turn = torch.tensor([[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]])
    affine[:3, :3] = turn.double() * torch.tensor([0.9, 1.0, 1.3]).double()
    affine[:3, 3] = torch.tensor([-20.0, 5.0, 7.0])
    points = points_mm((40, 38, 30), torch.tensor([0.9, 1.0, 1.3]))
    mask, maps = ball(points, 14), blobs(points, torch.eye(3).double())
    image = MetaTensor(torch.cat([maps, 2 * maps, torch.ones_like(mask)]) * mask, affine=affine)
    data = {"image": image, "label": image[:2] * 3, "r2prime": image[1:2] * 1, "mask": image[2:3] * 1, "other": 5}
    return Geometryd(keys=["image", "label"])(data)


def test_training_data_become_axial(case: dict) -> None:
    affine = case["image"].affine.clone()
    result = AxialResampled(keys=["image", "label", "r2prime"])(case)
    assert torch.equal(result["voxel_size_mm"], torch.ones(3))
    assert torch.equal(result["b0_direction"], Z)
    assert result["other"] == 5
    image, label = result["image"], result["label"]
    assert image.shape[0] == 3 and image.shape[1:] == label.shape[1:] == result["r2prime"].shape[1:]
    assert torch.equal(image[2:3].as_tensor(), result["mask"].as_tensor())
    torch.testing.assert_close(label.as_tensor(), 3 * image[:2].as_tensor())
    torch.testing.assert_close(result["r2prime"].as_tensor(), image[1:2].as_tensor())
    assert torch.equal(case["image"].affine, affine) and case["image"].shape == (3, 40, 38, 30)


def test_the_affine_follows(case: dict) -> None:
    image = AxialResampled(keys="image")({**case, "label": None})["image"]
    torch.testing.assert_close(voxel_size_from_affine(image.affine), torch.ones(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(b0_direction_from_affine(image.affine), Z, atol=1e-5, rtol=0)
    world = []
    for maps in (case["image"], image):
        index = torch.stack(torch.meshgrid(*(torch.arange(n).double() for n in maps.shape[1:]), indexing="ij"), dim=-1)
        weight = maps[0].as_tensor().double()
        centre = (index * weight[..., None]).sum((0, 1, 2)) / weight.sum()
        world.append(maps.affine @ torch.cat([centre, torch.ones(1).double()]))
    torch.testing.assert_close(*world, atol=0.1, rtol=0)  # the centre of mass stays where it is, mm


def test_plain_and_axial_data(case: dict) -> None:
    plain = {key: value.as_tensor() if isinstance(value, MetaTensor) else value for key, value in case.items()}
    result = Compose([AxialResampled()])(plain)
    assert not isinstance(result["image"], MetaTensor)
    again = AxialResampled()(result)
    assert all(torch.equal(again[key], result[key]) for key in ("image", "label", "mask"))


def test_errors(case: dict) -> None:
    with pytest.raises(ValueError, match="voxel_size_mm must be positive"):
        AxialResampled(voxel_size_mm=0)
    with pytest.raises(ValueError, match="b0_direction missing: put Maskd and Geometryd"):
        AxialResampled()({key: value for key, value in case.items() if key != "b0_direction"})
    with pytest.raises(ValueError, match="label is not on the grid of mask"):
        AxialResampled()({**case, "label": case["label"][:, 1:]})
    with pytest.raises(ValueError, match="the mask is empty"):
        AxialResampled()({**case, "mask": case["mask"] * 0})
