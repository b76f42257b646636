"""Augmented pairs obey the physics: the field of a rotated object is the rotated field for a counter-rotated B0."""

import math
from collections.abc import Callable

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from torch import Tensor

from custom_transforms.physics import SourceModel
from custom_transforms.transforms import (
    RandB0Direction,
    RandB0Directiond,
    RandModelRotation,
    RandModelRotationd,
    RandSusceptibilityScaling,
    RandSusceptibilityScalingd,
)
from custom_transforms.transforms.rotation import rotate_volume

SHAPE = (40, 36, 30)
VOXEL = torch.tensor([0.9, 1.0, 1.2])
B0 = torch.tensor([0.48, -0.36, 0.8])


def blobs(rotation: Tensor) -> Tensor:
    """Two sources (2, X, Y, Z) made of Gaussians, rotated about the centre of the grid in closed form."""
    axes = [(torch.arange(n) - (n - 1) / 2) * v for n, v in zip(SHAPE, VOXEL.double(), strict=True)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    centres = torch.tensor([[[4.0, 1, 0], [-3, 2, 3]], [[0.0, -5, -2], [2, 4, 1]]], dtype=torch.float64)
    distance2 = (points - (centres @ rotation.T)[:, :, None, None, None]).square().sum(-1)
    return 0.1 * torch.exp(-distance2 / (2 * 2.5**2)).sum(dim=1).float()


def measure(label: Tensor, b0: Tensor = B0) -> Tensor:
    """The image (3, X, Y, Z) of sources, with a mask that holds all of them."""
    mask = (label.sum(0, keepdim=True) > 1e-6).float()
    field_r2prime = SourceModel(padding=1.0)(label[None], VOXEL[None], b0[None])[0]
    return torch.cat([field_r2prime * mask, mask])


@pytest.fixture
def label() -> Tensor:
    return blobs(torch.eye(3, dtype=torch.float64))


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_a_quarter_turn_about_z_brings_x_to_y() -> None:
    volume = torch.rand(1, 7, 7, 5, generator=torch.Generator().manual_seed(0))
    quarter = torch.tensor([[0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    turned = rotate_volume(volume, quarter, torch.tensor([0.8, 0.8, 2.0]))
    torch.testing.assert_close(turned, torch.rot90(volume, 1, (1, 2)), atol=1e-5, rtol=0)
    assert distance(turned, torch.rot90(volume, -1, (1, 2))) > 0.1
    assert turned[0, 3, 6, 2] == pytest.approx(float(volume[0, 6, 3, 2]), abs=1e-5)


def test_rotation_obeys_the_physics(label: Tensor) -> None:
    transform = RandModelRotation(prob=1.0, max_angle_deg=90).set_random_state(3)
    image, turned = transform(measure(label), label, VOXEL, B0)
    rotation = transform.rotation
    assert rotation.trace() < 1 + 2 * math.cos(math.radians(20))  # not a small angle
    # trilinear interpolation widens a Gaussian of 2.5 mm by some percent
    assert distance(turned, blobs(rotation)) < 0.05 < 0.3 < distance(turned, blobs(rotation.T))
    mask = image[2:3]
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    turned_field = rotate_volume(measure(label, (rotation.T @ B0.double()).float())[0:1], rotation, VOXEL)
    wrong_field = rotate_volume(measure(label, (rotation @ B0.double()).float())[0:1], rotation, VOXEL)
    assert distance(image[0:1], mask * turned_field) < 0.05 < 0.2 < distance(image[0:1], mask * wrong_field)
    torch.testing.assert_close(image[1:2], turned.sum(0, keepdim=True), atol=1e-5, rtol=0)
    field = SourceModel(padding=1.0)(turned[None], VOXEL[None], B0[None])[0, 0:1]
    torch.testing.assert_close(image[0:1], mask * field, atol=1e-6, rtol=0)


def test_a_new_b0_direction_has_its_field(label: Tensor) -> None:
    before = measure(label)
    transform = RandB0Direction(prob=1.0, max_angle_deg=40).set_random_state(1)
    image, b0 = transform(before, label, VOXEL, B0)
    assert float(b0.norm()) == pytest.approx(1, abs=1e-5)
    assert 0.01 < math.degrees(math.acos(float(b0 @ B0))) <= 40
    torch.testing.assert_close(image, measure(label, b0), atol=1e-6, rtol=0)
    assert distance(image[0:1], before[0:1]) > 0.05


def test_scaling_is_linear(label: Tensor) -> None:
    transform = RandSusceptibilityScaling(prob=1.0, min_factor=3.0, max_factor=4.0).set_random_state(0)
    image, scaled = transform(measure(label), label)
    assert 3 <= transform.factor <= 4
    torch.testing.assert_close(scaled, label * transform.factor)
    torch.testing.assert_close(image[:2], measure(scaled)[:2] * image[2:3], atol=1e-6, rtol=0)
    assert torch.equal(image[2:3], measure(label)[2:3])


def case(label: Tensor) -> dict[str, Tensor]:
    image = MetaTensor(measure(label), affine=torch.diag(torch.tensor([*VOXEL, 1.0])))
    return {"image": image, "label": label, "mask": image[2:3], "voxel_size_mm": VOXEL, "b0_direction": B0}


@pytest.mark.parametrize(
    ("make", "changed"),
    [
        (RandModelRotationd, {"image", "label", "mask"}),
        (RandB0Directiond, {"image", "b0_direction"}),
        (RandSusceptibilityScalingd, {"image", "label"}),
    ],
)
def test_dictionary_forms_are_functions_of_the_seed(label: Tensor, make: Callable, changed: set[str]) -> None:
    data = case(label)
    first, again, other = (Compose([make(prob=1.0)]).set_random_state(seed)(data) for seed in (5, 5, 6))
    assert first.keys() == data.keys()
    assert {key for key in data if not torch.equal(first[key], data[key])} == changed
    assert all(torch.equal(first[key], again[key]) for key in data)
    assert not torch.equal(first["image"], other["image"])
    assert torch.equal(first["image"].affine, data["image"].affine)
    assert torch.equal(first["image"][2:3].as_tensor(), torch.as_tensor(first["mask"]))
    rarely = make(prob=0.0)(data)
    assert all(torch.equal(rarely[key], data[key]) for key in data)


def test_errors(label: Tensor) -> None:
    data = case(label)
    del data["b0_direction"]
    with pytest.raises(ValueError, match="b0_direction missing"):
        RandModelRotationd()(data)
    with pytest.raises(ValueError, match="max_angle_deg"):
        RandB0Direction(max_angle_deg=0)
    with pytest.raises(ValueError, match="min_factor"):
        RandSusceptibilityScaling(min_factor=0)
