"""What is cut out comes back where it was, and no more."""

import pytest
import torch

from custom_transforms.classical.brain_box import BrainBox


def test_cut_and_restore() -> None:
    mask = torch.zeros(2, 1, 9, 11, 13)
    mask[0, :, 2:6, 3:9, 4:5] = 1
    mask[1, :, 3:7, 4:8, 1:12] = 1
    box = BrainBox.around(mask, padding=0.5)
    assert (box.low, box.shape, box.volume) == ((2, 3, 1), (5, 6, 11), (9, 11, 13))
    assert all(grid >= 1.5 * n and grid % 2 == 0 for grid, n in zip(box.grid, box.shape, strict=True))
    maps = torch.rand(2, 3, 9, 11, 13)
    cut = box.cut(maps)
    assert list(cut.shape) == [2, 3, *box.grid]
    assert torch.equal(cut[..., :5, :6, :11], maps[..., 2:7, 3:9, 1:12])
    assert float(cut.sum()) == pytest.approx(float(maps[..., 2:7, 3:9, 1:12].sum()), rel=1e-5)
    restored = box.restore(cut)
    assert torch.equal(restored * mask, maps * mask) and not torch.equal(restored, maps)
    assert BrainBox.around(mask, padding=0.0).grid == [5, 6, 11]


def test_empty_mask() -> None:
    with pytest.raises(ValueError, match="the mask is empty"):
        BrainBox.around(torch.zeros(1, 1, 4, 4, 4), padding=0.1)
