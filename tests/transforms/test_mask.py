"""Masks are made binary, and maps are exactly zero outside and finite inside."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom_transforms.transforms import ApplyMask, ApplyMaskd, Mask, Maskd

MASK = torch.zeros(1, 4, 3, 2)
MASK[:, 1:3] = 1


def test_mask_is_binary_and_keeps_metadata() -> None:
    affine = torch.diag(torch.tensor([2.0, 1.0, 1.0, 1.0])).double()
    probability = MetaTensor(0.3 * torch.ones(1, 4, 3, 2) + 0.4 * MASK, affine=affine)
    binary = Mask()(probability)
    assert torch.equal(binary.as_tensor(), MASK)
    assert torch.equal(binary.affine, affine)
    assert torch.equal(torch.as_tensor(Mask()(MASK.numpy().astype(np.uint8))), MASK)


def test_empty_mask_names_the_file() -> None:
    mask = MetaTensor(torch.full((1, 2, 2, 2), torch.nan), meta={"filename_or_obj": "sub-01_mask.nii.gz"})
    with pytest.raises(ValueError, match=r"mask \(sub-01_mask.nii.gz\) is empty: no voxel is above 0.5"):
        Maskd()({"mask": mask})


def test_outside_is_zero_whatever_it_holds() -> None:
    image = torch.arange(24.0).reshape(1, 4, 3, 2)
    dirty = torch.where(MASK > 0, image, torch.tensor(torch.nan))
    dirty[0, 0, 0, 0] = torch.inf
    masked = ApplyMask()(dirty, MASK)
    assert torch.equal(torch.as_tensor(masked), image * MASK)
    assert not (dirty * MASK).isfinite().all()  # multiplying would not have done


def test_invalid_values_inside_are_counted() -> None:
    image = torch.zeros(2, 4, 3, 2)
    image[:, 1, 0] = torch.nan
    with pytest.raises(ValueError, match="r2prime has 4 NaN or infinite values inside the mask"):
        ApplyMaskd("r2prime")({"r2prime": image, "mask": MASK})


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"spatial shape \(4, 3, 1\) and its mask \(4, 3, 2\)"):
        ApplyMask()(torch.zeros(1, 4, 3, 1), MASK)


def test_missing_keys() -> None:
    data = {"mask": MASK}
    assert ApplyMaskd("r2prime", allow_missing_keys=True)(data).keys() == data.keys()
    with pytest.raises(KeyError, match="r2prime"):
        ApplyMaskd("r2prime")(data)
