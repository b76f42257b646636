"""Deformation of synthetic heads: a known map is found, in any grid; what cannot be registered is refused."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from custom_transforms import elastix
from custom_transforms.elastix import Deformation, deform
from custom_transforms.phantom.warp import rotation_matrix

VOXEL_MM = (3.0, 3.5, 4.0)
SHAPE = (44, 40, 36)
BALLS = (((20, 0, 10), 12.0), ((-18, 14, 0), 9.0), ((0, -22, -14), 14.0), ((-10, 20, 22), 7.0))


def grid_of(voxel_mm: tuple[float, float, float], shape: tuple[int, int, int], angle_deg: float) -> Tensor:
    """An oblique grid about the origin."""
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = rotation_matrix(torch.tensor([1.0, 0.5, 0.2]).double(), angle_deg) * torch.tensor(voxel_mm)
    affine[:3, 3] = -affine[:3, :3] @ ((torch.tensor(shape) - 1) / 2).double()
    return affine


def points(affine: Tensor, shape: tuple[int, int, int]) -> Tensor:
    index = torch.stack(torch.meshgrid(*(torch.arange(n).double() for n in shape), indexing="ij"), dim=-1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def head_at(p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tissue, mask and labels of an ellipsoid with balls in it at points (X, Y, Z, 3), mm."""
    mask = (p / torch.tensor([56.0, 64.0, 50.0])).norm(dim=-1) < 1
    labels = torch.zeros(p.shape[:3], dtype=torch.uint8)
    for index, (centre, radius) in enumerate(BALLS, start=1):
        labels[(p - torch.tensor(centre)).norm(dim=-1) < radius] = index
    texture = (p / 9.0).sin().sum(-1)
    return (torch.tensor([2.0, 4.0, 5.0, 6.0, 7.0])[labels.long()] + 0.1 * texture) * mask, mask, labels


def other_head(p: Tensor) -> Tensor:
    """Where points of the fixed head are in the moving one: turned, larger, and bent by up to 3 mm."""
    turned = p @ rotation_matrix(torch.tensor([0.3, 1.0, 0.4]).double(), 9.0).T * torch.tensor([1.05, 0.96, 1.02])
    return turned + 3.0 * (p.roll(1, dims=-1) / 20.0).sin()


@pytest.fixture(scope="module")
def heads() -> dict[str, Tensor]:
    """A moving head on an upright grid, and what it becomes on an oblique one with other voxels and contrast."""
    upright = grid_of((2.5, 2.5, 2.5), (60, 64, 56), 0.0)
    moving = head_at(points(upright, (60, 64, 56)))
    oblique = grid_of(VOXEL_MM, SHAPE, 25.0)
    fixed = head_at(other_head(points(oblique, SHAPE)))
    names = ("moving", "moving_mask", "moving_labels", "fixed", "fixed_mask", "fixed_labels")
    return dict(zip(names, (*moving, *fixed), strict=True)) | {"upright": upright, "oblique": oblique}


@pytest.fixture(scope="module", autouse=True)
def brief() -> Iterator[None]:
    """Fewer iterations than usual, enough for a smooth head."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elastix, "_STAGES", [stage._replace(iterations=60) for stage in elastix._STAGES])
        yield


def found(heads: dict[str, Tensor]) -> Deformation:
    fixed = (9 - heads["fixed"]) * heads["fixed_mask"]  # bright is dark: mutual information does not mind
    return deform(
        [fixed.float()], heads["fixed_mask"], heads["oblique"],
        [heads["moving"].float()], heads["moving_mask"], heads["upright"],
    )  # fmt: skip


def dice(a: Tensor, b: Tensor) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.fixture(scope="module")
def deformation(heads: dict[str, Tensor]) -> Deformation:
    return found(heads)


def test_labels_arrive_where_they_belong(heads: dict[str, Tensor], deformation: Deformation) -> None:
    truth = heads["fixed_labels"]
    labels = deformation.warp(heads["moving_labels"], heads["upright"], heads["oblique"], SHAPE).byte()
    straight = head_at(points(heads["oblique"], SHAPE))[2]  # without any registration
    reached, before = (
        [dice(those == index, truth == index) for index in range(1, len(BALLS) + 1)] for those in (labels, straight)
    )
    assert min(reached) > 0.7
    assert sum(reached) / len(BALLS) > 0.78
    assert sum(before) / len(BALLS) < 0.6  # what the identity gives; the inverse map would give less


def test_maps_are_interpolated_and_labels_are_not(heads: dict[str, Tensor], deformation: Deformation) -> None:
    labels = deformation.warp(heads["moving_labels"], heads["upright"], heads["oblique"], SHAPE)
    assert set(labels.unique().tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}
    values = deformation.warp(heads["moving_labels"].float(), heads["upright"], heads["oblique"], SHAPE)
    assert len(values.unique()) > 100


def test_the_same_images_give_the_same_deformation(heads: dict[str, Tensor], deformation: Deformation) -> None:
    again = found(heads)
    first, second = (
        d.warp(heads["moving"].float(), heads["upright"], heads["oblique"], SHAPE) for d in (deformation, again)
    )
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


def test_two_slices_are_refused(heads: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="elastix cannot deform"):
        deform(
            [heads["fixed"][..., :2].float()], heads["fixed_mask"][..., 17:19], heads["oblique"],
            [heads["moving"].float()], heads["moving_mask"], heads["upright"],
        )  # fmt: skip
