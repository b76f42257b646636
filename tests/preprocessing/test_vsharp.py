"""V-SHARP on analytic fields: sources outside the brain go, those inside stay."""

import pytest
import torch
from scipy import ndimage
from torch import Tensor

from custom_transforms.physics import sphere_field
from custom_transforms.preprocessing.vsharp import default_radii_mm, vsharp

CASES = {
    "isotropic": ((56, 60, 52), (2.0, 2.0, 2.0), (0.0, 0.0, 1.0)),
    "oblique": ((55, 61, 53), (2.0, 2.0, 2.0), (0.2, -0.4, 0.9)),
    "anisotropic": ((76, 80, 36), (1.5, 1.5, 3.0), (0.3, 0.1, 0.9)),
}


class Ball:
    """A round brain of 40 mm with one source in it and two around it."""

    def __init__(self, shape: tuple[int, ...], voxel_size: tuple[float, ...], b0: tuple[float, ...]) -> None:
        self.voxel_size_mm = torch.tensor(voxel_size)
        self.b0_direction = torch.nn.functional.normalize(torch.tensor(b0), dim=0)
        self.shape = shape
        axes = [(torch.arange(n) - n / 2) * v for n, v in zip(shape, voxel_size, strict=True)]
        self.position_mm = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        self.mask = (self.position_mm.norm(dim=0) < 40).float()[None]
        self.local = self.source((6.0, -9.0, 4.0), 6.0, 0.1)
        self.background = self.source((5.0, 50.0, -38.0), 12.0, 9.4) + self.source((-48.0, 0.0, 30.0), 10.0, -2.0)
        depth = ndimage.distance_transform_edt(self.mask[0].numpy(), sampling=voxel_size)
        self.depth_mm = torch.from_numpy(depth)[None]

    def source(self, centre_mm: tuple[float, ...], radius_mm: float, chi_ppm: float) -> Tensor:
        centre = torch.tensor(centre_mm) / self.voxel_size_mm + torch.tensor(self.shape) / 2
        geometry = {"centre_voxel": centre, "radius_mm": radius_mm, "chi_ppm": chi_ppm}
        return sphere_field(self.shape, self.voxel_size_mm, self.b0_direction, **geometry)[0][None].float()


@pytest.fixture(params=CASES)
def ball(request: pytest.FixtureRequest) -> Ball:
    return Ball(*CASES[request.param])


def test_default_radii_go_from_large_to_small():
    radii = default_radii_mm(torch.tensor([1.0, 1.0, 2.0]))
    assert radii[0] == 12 and radii[-1] == 3 and list(radii) == sorted(radii, reverse=True)
    assert len(default_radii_mm(torch.tensor([10.0, 10.0, 10.0]))) == 1


def test_background_goes_and_the_local_field_stays(ball: Ball):
    local, known = vsharp(ball.local + ball.background, ball.mask, ball.voxel_size_mm)
    inside = (known > 0) & (ball.depth_mm > 5)
    background, truth = ball.background[inside].std(), ball.local[inside]
    error = (local - ball.local)[inside]
    assert background > 5 * truth.std()
    assert error.std() < 0.3 * truth.std()
    assert error.std() < 0.1 * background


def test_what_is_left_of_a_background_alone(ball: Ball):
    local, known = vsharp(ball.background + 3.0, ball.mask, ball.voxel_size_mm)
    inside = known > 0
    assert local[inside].std() < 0.03 * ball.background[inside].std()
    assert local[inside].abs().mean() < 0.01  # the constant is gone, too


def test_a_source_in_the_brain_is_no_background(ball: Ball):
    local, known = vsharp(ball.local, ball.mask, ball.voxel_size_mm)
    inside = known > 0
    assert local[inside].std() > 0.7 * ball.local[inside].std()


def test_mask_loses_the_rim_only(ball: Ball):
    _, known = vsharp(ball.local, ball.mask, ball.voxel_size_mm)
    smallest = 1.5 * float(ball.voxel_size_mm.max())
    assert ((known > 0) <= (ball.mask > 0)).all()
    assert (known[ball.depth_mm > smallest + 3] == 1).all()
    assert (known[ball.depth_mm <= smallest - 1.5] == 0).all()


def test_field_outside_the_mask_does_not_matter():
    ball = Ball(*CASES["isotropic"])
    garbage = torch.where(ball.mask > 0, ball.local, torch.nan)
    expected, _ = vsharp(ball.local, ball.mask, ball.voxel_size_mm)
    assert torch.equal(vsharp(garbage, ball.mask, ball.voxel_size_mm)[0], expected)


def test_mask_at_the_border_of_the_volume():
    ball = Ball(*CASES["isotropic"])
    cut = (slice(None), slice(8, None), slice(None), slice(0, 40))
    local, known = vsharp((ball.local + ball.background)[cut], ball.mask[cut], ball.voxel_size_mm)
    assert known[:, 0].sum() == 0 and known[..., -1].sum() == 0  # a ball there would leave the volume
    inside = (known > 0) & (ball.depth_mm[cut] > 5)
    assert (local - ball.local[cut])[inside].std() < 0.4 * ball.local[cut][inside].std()


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (torch.zeros(1, 16, 16, 16), {}, "mask is empty"),
        (torch.ones(1, 16, 16, 15), {}, "must both be"),
        (torch.ones(1, 16, 16, 16), {"radii_mm": []}, "at least one radius"),
        (torch.ones(1, 16, 16, 16), {"radii_mm": [30.0]}, "smaller radii"),
    ],
)
def test_input_that_cannot_be_used(mask: Tensor, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        vsharp(torch.zeros(1, 16, 16, 16), mask, torch.ones(3), **options)
