import dataclasses
import math

import pytest
import torch

from custom_transforms.phantom.template import load_template
from custom_transforms.phantom.warp import (
    DISPLACEMENT_MM,
    HeadWarp,
    VoxelGrid,
    draw_warp,
    enclosing_grid,
    resample,
    resample_labels,
    rotation_matrix,
)

IDENTITY = HeadWarp(torch.eye(3), torch.zeros(3, 5, 5, 5))


def test_rotation_turns_by_its_angle():
    rotation = rotation_matrix(torch.tensor([0.0, 0.0, 2.0]), 90)
    torch.testing.assert_close(rotation @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]))
    oblique = rotation_matrix(torch.tensor([1.0, 2.0, -1.0]), 25)
    torch.testing.assert_close(oblique @ oblique.T, torch.eye(3))
    assert math.isclose(float(oblique.trace()), 1 + 2 * math.cos(math.radians(25)), rel_tol=1e-6)


def test_identity_gives_the_template_back():
    template = load_template()
    x, y, z = template.mask.shape
    grid = VoxelGrid(template.origin_mm, (1.0, 1.0, 1.0), (x, y, z))
    torch.testing.assert_close(resample(template.gm[None], template, IDENTITY, grid)[0], template.gm, atol=1e-3, rtol=0)
    labels = resample_labels(template.mask[None].to(torch.uint8), template, IDENTITY, grid)[0]
    assert torch.equal(labels.bool(), template.mask)
    shifted = dataclasses.replace(grid, start_mm=(template.origin_mm[0], template.origin_mm[1] + 2, 0.0))
    moved = resample(template.gm[None], template, IDENTITY, shifted)[0]
    assert float((moved - template.gm).abs().mean()) > 0.02  # the check can fail


def test_large_voxels_average():
    template = load_template()
    x, y, z = template.mask.shape
    start = tuple(o + shift for o, shift in zip(template.origin_mm, (0.5, 1.0, 0.0), strict=True))
    grid = VoxelGrid(start, (2.0, 3.0, 1.0), (x // 2, y // 3, z))
    coarse = resample(template.gm[None], template, IDENTITY, grid)
    expected = torch.nn.functional.avg_pool3d(template.gm[None], (2, 3, 1))
    torch.testing.assert_close(coarse, expected, atol=1e-3, rtol=0)


def test_drawn_deformations_are_smooth_moderate_and_repeatable():
    warp, again, other = (draw_warp(generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(warp.displacement_mm, again.displacement_mm)
    assert not torch.equal(warp.matrix, other.matrix)
    assert abs(float(warp.displacement_mm.std()) / DISPLACEMENT_MM - 1) < 0.3
    axes = torch.arange(-60, 61, 2.0)
    points = torch.stack(torch.meshgrid(axes, axes, axes, indexing="ij"), dim=-1)
    moved = warp(points)
    jacobian = torch.stack([moved.diff(dim=axis)[:60, :60, :60] / 2 for axis in range(3)], dim=-1)
    assert torch.linalg.det(jacobian).min() > 0.3  # nothing folds


@pytest.mark.parametrize("seed", range(3))
def test_grid_encloses_the_head(seed):
    template = load_template()
    warp = draw_warp(generator=torch.Generator().manual_seed(seed))
    grid = enclosing_grid(template, warp, (4.0, 4.0, 4.0), 2)
    mask = resample(template.mask[None].float(), template, warp, grid)[0] > 0.5
    volume_ml = float(mask.sum()) * 64 / 1000
    template_ml = float(template.mask.sum()) / 1000
    assert 0.75 < volume_ml / template_ml < 1.3
    for axis in range(3):
        assert not mask.select(axis, 0).any()
        assert not mask.select(axis, -1).any()
