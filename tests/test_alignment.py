"""Orientations of a head on one grid: B0 in it, values at the edge of the mask, the mask that all share."""

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from custom_transforms import keys
from custom_transforms.alignment import Alignment, masked_resample, to_first_grid
from custom_transforms.phantom.brain import AFFINE
from custom_transforms.phantom.warp import rotation_matrix

SHAPE = (14, 13, 12)
GRID = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0], dtype=torch.float64))


def turn(angle_deg: float) -> Tensor:
    """A motion about the centre of the grid."""
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3] = rotation_matrix(torch.tensor([1.0, 0.4, -0.2], dtype=torch.float64), angle_deg)
    centre = GRID[:3, :3] @ (torch.tensor(SHAPE).double() - 1) / 2
    motion[:3, 3] = centre - motion[:3, :3] @ centre
    return motion


def scan(affine: Tensor, value: float = 3.0) -> dict[str, MetaTensor]:
    mask = torch.zeros(1, *SHAPE)
    mask[:, 3:11, 3:10, 3:9] = 1
    maps = {keys.LOCAL_FIELD: value * mask, keys.R2PRIME: 2 * value * mask, keys.MASK: mask}
    return {key: MetaTensor(values, affine=affine) for key, values in maps.items()}


def test_a_uniform_map_stays_uniform_up_to_the_edge() -> None:
    maps = scan(GRID)
    stacked, mask = maps[keys.LOCAL_FIELD].as_tensor(), maps[keys.MASK].as_tensor()
    found, covered = masked_resample(stacked, mask, GRID, turn(25.0) @ GRID, SHAPE)
    assert 0.7 * mask.sum() < covered.sum() < 1.3 * mask.sum() and not torch.equal(covered, mask)
    torch.testing.assert_close(found, 3 * covered, atol=1e-5, rtol=1e-5)


def test_b0_is_where_it_was_in_the_scan() -> None:
    """A head that was measured upright and turned: its first grid leads to both scans."""
    motion = turn(25.0)
    first, other = to_first_grid([scan(GRID), scan(motion @ GRID)], [torch.eye(4, dtype=torch.float64), motion])
    torch.testing.assert_close(first[keys.B0_DIRECTION], torch.tensor([0.0, 0.0, 1.0]))
    b0 = motion[:3, :3].T @ torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(other[keys.B0_DIRECTION].double(), b0, atol=1e-6, rtol=0)
    assert (other[keys.B0_DIRECTION].double() - motion[:3, 2]).norm() > 0.1  # the inverse rotation
    torch.testing.assert_close(other[AFFINE], motion @ GRID)
    for key in (keys.LOCAL_FIELD, keys.R2PRIME, keys.MASK):
        torch.testing.assert_close(first[key], scan(GRID)[key].as_tensor(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(other[key], first[key], atol=1e-5, rtol=1e-5)


def test_the_mask_is_what_all_have_in_common() -> None:
    motions = [torch.eye(4, dtype=torch.float64), turn(25.0)]
    first, other = to_first_grid([scan(GRID), scan(GRID, 5.0)], motions)
    assert torch.equal(first[keys.MASK], other[keys.MASK])
    assert 0 < first[keys.MASK].sum() < scan(GRID)[keys.MASK].sum()
    for one, value in ((first, 3.0), (other, 5.0)):
        torch.testing.assert_close(one[keys.LOCAL_FIELD], value * first[keys.MASK], atol=1e-4, rtol=1e-4)
    far = torch.eye(4, dtype=torch.float64)
    far[0, 3] = 500.0
    with pytest.raises(ValueError, match="no voxel in common"):
        to_first_grid([scan(GRID), scan(GRID)], [motions[0], far])


def test_describes_each_orientation() -> None:
    motions = [torch.eye(4, dtype=torch.float64), turn(25.0)]
    aligned = to_first_grid([scan(GRID), scan(motions[1] @ GRID)], motions)
    described = Alignment(aligned, motions, [1.0, 0.9]).describe(["ses-01", "ses-02"])
    assert [entry["rotation_deg"] for entry in described.values()] == [0.0, pytest.approx(25.0)]
    assert described["ses-02"]["b0_direction_voxel_axes"] == pytest.approx(motions[1][2, :3].tolist(), abs=1e-6)
