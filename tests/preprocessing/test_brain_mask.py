"""The default brain mask on simulated heads: brain with ventricles, fluid, dark skull, scalp, neck, and a coil."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage
from torch import Tensor

from custom_transforms import keys
from custom_transforms.checks import InputError
from custom_transforms.preprocessing.brain_mask import BrainMaskd, brain_mask

HEADS = {
    "2 mm": ((92, 104, 92), (2.0, 2.0, 2.0)),
    "3 mm": ((61, 69, 61), (3.0, 3.0, 3.0)),
    "thick slices": ((130, 148, 46), (1.4, 1.4, 4.0)),
    "slab": ((92, 104, 22), (2.0, 2.0, 2.0)),
}
ECHO_DECAY = (1.0, 0.7, 0.5)


class Head:
    """Magnitudes (3, X, Y, Z) of an ellipsoid head at an SNR of 50, and what is where."""

    def __init__(self, shape: tuple[int, ...], voxel_size: tuple[float, ...], *, fluid: float = 0.6) -> None:
        self.size = torch.tensor(voxel_size)
        axes = [(np.arange(n) - n / 2) * v for n, v in zip(shape, voxel_size, strict=True)]
        self.x = np.stack(np.meshgrid(*axes, indexing="ij"))
        self.brain = self.ellipsoid((0, 0, 0), (62, 74, 58))
        self.ventricles = self.ellipsoid((8, 0, 5), (6, 25, 10)) | self.ellipsoid((-8, 0, 5), (6, 25, 10))
        padded = np.pad(self.brain, 20)
        distance = ndimage.distance_transform_edt(~padded, sampling=voxel_size)[20:-20, 20:-20, 20:-20]
        self.scalp = (distance > 10) & (distance <= 16)
        bridge = self.ellipsoid((40, 50, 0), (3, 40, 3)) & (distance <= 16)  # vessels and nerves through the bone
        neck = (np.hypot(self.x[0], self.x[1] + 20) < 45) & (self.x[2] < -70)
        rim = (distance > 0) & (distance <= 3)
        signal = 0.9 * self.brain + fluid * rim + 1.3 * self.scalp + 0.7 * (neck & ~self.scalp)
        signal[bridge & ~self.brain] = 0.8
        signal[self.ventricles] = 0.6
        self.outside = (distance > 5) & (signal > 0)
        shading = np.exp(0.5 * np.log(2) * self.x[0] / 70 + 0.2 * self.x[1] / 90)  # a factor of 2 across
        generator = torch.Generator().manual_seed(0)
        clean = torch.from_numpy(signal * shading).float()
        echoes = torch.stack([decay * clean for decay in ECHO_DECAY])
        noise = 0.02 * torch.randn(2, *echoes.shape, generator=generator)
        self.magnitude = torch.hypot(echoes + noise[0], noise[1])

    def ellipsoid(self, centre_mm: tuple[float, ...], semi_axes_mm: tuple[float, ...]) -> np.ndarray:
        x = (self.x - np.array(centre_mm)[:, None, None, None]) / np.array(semi_axes_mm)[:, None, None, None]
        return (x**2).sum(0) < 1


@pytest.fixture(scope="module")
def head() -> Head:
    return Head(*HEADS["3 mm"])


def dice(mask: Tensor, truth: np.ndarray) -> float:
    found = mask[0].numpy() > 0
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("fluid", [0.6, 0.9], ids=["dark fluid", "bright fluid"])
def test_mask_is_the_brain(name: str, fluid: float):
    head = Head(*HEADS[name], fluid=fluid)
    mask = brain_mask(1e-4 * head.magnitude, head.size)
    # Bright fluid is not told from brain; it is 3 mm thick
    assert dice(mask, head.brain) > (0.95 if fluid < 0.8 else 0.9)
    assert (mask[0].numpy() > 0)[head.outside].sum() < 0.01 * head.brain.sum()
    assert (mask[0].numpy() > 0)[head.ventricles].all()
    assert mask.dtype == torch.float32 and set(mask.unique().tolist()) == {0.0, 1.0}


def test_all_signal_would_be_no_mask(head: Head):
    signal = (head.magnitude[0] > 0.2)[None].float()
    assert dice(signal, head.brain) < 0.9
    assert (signal[0].numpy() > 0)[head.outside].sum() > 0.2 * head.brain.sum()


def test_orientation_does_not_matter(head: Head):
    turned = brain_mask(head.magnitude.permute(0, 3, 1, 2).flip(1), head.size[[2, 0, 1]])
    again = turned.flip(1).permute(0, 2, 3, 1)
    assert dice(again, brain_mask(head.magnitude, head.size)[0].numpy() > 0) > 0.99


def test_one_echo_and_not_finite_values(head: Head):
    magnitude = head.magnitude[:1].clone()
    magnitude[:, :3] = torch.nan
    magnitude[:, 30, 30, 30] = torch.inf
    assert dice(brain_mask(magnitude, head.size), head.brain) > 0.94


def test_crop_inside_the_brain_is_brain_all_over(head: Head):
    inside = head.magnitude[:, 20:40, 20:45, 25:40]
    assert brain_mask(inside, head.size).mean() > 0.99


def test_poor_quality_at_the_rim_is_left_out(head: Head):
    quality = torch.ones_like(head.magnitude[:1])
    spoilt = torch.from_numpy(head.ellipsoid((0, 74, -20), (20, 14, 20)))[None]
    quality[spoilt] = 0.0
    inner = torch.from_numpy(head.ellipsoid((20, 0, 0), (7, 7, 7)))[None]
    quality[inner] = 0.0
    whole = brain_mask(head.magnitude, head.size)
    mask = brain_mask(head.magnitude, head.size, field_quality=quality)
    assert (whole[spoilt] > 0).any() and not (mask[spoilt] > 0).any()
    assert (mask[inner] > 0).all()  # voxels in the middle have no weight later; a hole would cost more
    assert torch.equal(mask[~spoilt], whole[~spoilt])


@pytest.mark.parametrize(
    "magnitude", [torch.zeros(2, 20, 20, 20), torch.zeros(1, 20, 20, 20).index_fill(1, torch.tensor(5), 1.0)]
)
def test_nothing_that_could_be_a_brain(magnitude: Tensor):
    with pytest.raises(InputError, match=r"brain mask: .*--mask") as caught:
        brain_mask(magnitude, torch.ones(3))
    assert "\n" not in str(caught.value)


def test_echoes_come_first():
    with pytest.raises(ValueError, match="put the echoes first"):
        brain_mask(torch.ones(20, 20, 20), torch.ones(3))


def test_dictionary_form(head: Head):
    affine = torch.diag(torch.tensor([3.0, 3.0, 3.0, 1.0], dtype=torch.float64))
    magnitude = MetaTensor(head.magnitude, affine=affine, meta={"filename_or_obj": "mag.nii.gz"})
    data = {keys.MAGNITUDE: magnitude, keys.VOXEL_SIZE_MM: head.size, keys.NOTES: ["before"]}
    result = BrainMaskd()(data)
    assert torch.equal(result[keys.MASK].as_tensor(), brain_mask(head.magnitude, head.size))
    assert torch.equal(result[keys.MASK].affine, affine)
    assert result[keys.NOTES][0] == "before" and "--mask" in result[keys.NOTES][1]
    assert keys.MASK not in data and data[keys.NOTES] == ["before"]
    with pytest.raises(InputError, match=r"mag\.nii\.gz"):
        BrainMaskd()(data | {keys.MAGNITUDE: MetaTensor(torch.zeros(1, 9, 9, 9), meta=magnitude.meta)})


@pytest.mark.parametrize("slices", [3, 4])
def test_a_slab_of_few_slices_is_no_colour_image(slices: int):
    """Its working grid ends in an axis of three or four, on which the threshold of the library would warn."""
    signal = torch.rand(1, 20, 20, 2 * slices, generator=torch.Generator().manual_seed(2)) + 1
    assert brain_mask(signal, torch.tensor([2.0, 2.0, 2.0 / 2])).sum() > 0
