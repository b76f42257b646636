"""The motion between two images, and interpolation, against motions that are known and against SciPy."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import affine_transform
from torch import Tensor

from custom_transforms import keys
from custom_transforms.phantom.brain import AFFINE, AnatomicalBrain
from custom_transforms.phantom.warp import rotation_matrix
from custom_transforms.registration import register, resample, rotation_deg

SHIFT_MM = (7.0, -4.0, 9.0)


def motion_of(angle_deg: float) -> Tensor:
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3] = rotation_matrix(torch.tensor([0.8, -0.5, 0.3], dtype=torch.float64), angle_deg)
    motion[:3, 3] = torch.tensor(SHIFT_MM)
    return motion


def moved(values: np.ndarray, affine: Tensor, motion: Tensor) -> MetaTensor:
    """The head after a motion, on an upright grid of its own with other voxels, by SciPy."""
    voxel_mm, shape = np.array([4.5, 5.0, 5.5]), (52, 54, 46)
    middle = (motion @ affine @ torch.tensor([*((np.array(values.shape) - 1) / 2), 1.0], dtype=torch.float64))[:3]
    grid = np.diag([*voxel_mm, 1.0])
    grid[:3, 3] = middle.numpy() - voxel_mm * (np.array(shape) - 1) / 2
    step = np.linalg.inv((motion @ affine).numpy()) @ grid
    turned = affine_transform(values, step[:3, :3], step[:3, 3], output_shape=shape, order=1)
    return MetaTensor(torch.from_numpy(turned)[None], affine=torch.from_numpy(grid))


@pytest.fixture(scope="module")
def brain() -> dict[str, Tensor]:
    return AnatomicalBrain(voxel_size_mm=(5.0, 5.0, 5.0), tilt_deg=15.0)(3)


@pytest.mark.parametrize("angle_deg", [0.0, 15.0, 40.0])
def test_finds_a_known_motion(brain: dict[str, Tensor], angle_deg: float) -> None:
    """Despite another sensitivity of the coil and noise; 40 degrees is as far as heads turn."""
    motion, noise = motion_of(angle_deg), torch.Generator().manual_seed(0)
    affine, contrast = brain[AFFINE], 40 - brain[keys.R2].clamp(max=30)
    image, mask = moved(contrast[0].numpy(), affine, motion), moved(brain[keys.MASK][0].numpy(), affine, motion) > 0.5
    uneven = torch.linspace(0.7, 1.3, image.shape[1])[:, None, None]
    measured = image * uneven + 0.5 * torch.randn(image.shape, generator=noise)
    found = register(MetaTensor(contrast, affine=affine), brain[keys.MASK], measured, mask.as_tensor())
    assert rotation_deg(found @ torch.linalg.inv(motion)) < 0.5
    centre = affine @ torch.tensor([*((s - 1) / 2 for s in contrast.shape[1:]), 1.0], dtype=torch.float64)
    assert ((found - motion) @ centre).norm() < 0.5
    torch.testing.assert_close(found[:3, :3] @ found[:3, :3].T, torch.eye(3, dtype=torch.float64))
    if angle_deg > 0:
        assert rotation_deg(found @ motion) > angle_deg  # the inverse would be wrong


def test_an_image_of_zeros_cannot_be_registered() -> None:
    image, mask = MetaTensor(torch.zeros(1, 9, 9, 9), affine=torch.eye(4)), torch.ones(1, 9, 9, 9)
    with pytest.raises(ValueError, match=r"the images cannot be registered: .*--registration_image"):
        register(image, mask, image, mask)


@pytest.mark.parametrize("angle_deg", [0.0, 20.0, 180.0])
def test_angle_of_a_motion(angle_deg: float) -> None:
    assert rotation_deg(motion_of(angle_deg)) == pytest.approx(angle_deg, abs=1e-5)


def test_interpolates_as_scipy_does() -> None:
    values = torch.randn(24, 23, 22, generator=torch.Generator().manual_seed(1))
    affine, target = torch.diag(torch.tensor([1.0, 2.0, 1.5, 1.0])).double(), motion_of(10.0)
    target[:3, :3] *= torch.tensor([0.7, 0.9, 0.8])
    target[:3, 3] = affine[:3, :3] @ torch.tensor([8.0, 8.0, 8.0], dtype=torch.float64)
    step = (torch.linalg.inv(affine) @ target).numpy()
    expected = affine_transform(values.numpy(), step[:3, :3], step[:3, 3], output_shape=(6, 7, 8), order=3)
    found = resample(values, affine, target, (6, 7, 8))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-3)  # the spline's memory of the edge, 6 voxels away
    linear = affine_transform(values.numpy(), step[:3, :3], step[:3, 3], output_shape=(6, 7, 8), order=1)
    assert np.abs(linear - expected).max() > 0.1
    torch.testing.assert_close(resample(values, affine, affine, (24, 23, 22)), values, atol=1e-5, rtol=1e-5)
    far = affine.clone()
    far[0, 3] = 1000.0
    assert not resample(values, affine, far, (4, 4, 4)).any()
