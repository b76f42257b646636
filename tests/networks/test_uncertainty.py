"""The head of uncertainty: the method's maps untouched, positive SDs in the mask, and factors that calibrate."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from custom_transforms import keys
from custom_transforms.networks import UncertainSeparation, UnrolledChiSepNet
from custom_transforms.networks.uncertainty import FLOOR_PPM, INTERVALS, calibrate, local_sd
from custom_transforms.physics import SourceModel

Measure = Callable[..., Tensor]
Shape = tuple[int, int, int]
GEOMETRY = (torch.tensor([[0.9, 1.0, 2.0], [1.2, 0.8, 1.0]]), torch.tensor([[0.0, 0.6, 0.8], [0.28, 0.0, 0.96]]))
WEIGHTS = torch.tensor([[1.1, 0.9], [1.0, 1.0]])


@pytest.fixture
def uncertain(
    unrolled: Callable[..., UnrolledChiSepNet], backbone: Callable[..., nn.Module]
) -> Callable[..., UncertainSeparation]:
    def make(method: nn.Module | None = None) -> UncertainSeparation:
        method = unrolled(deep_supervision=True) if method is None else method
        return UncertainSeparation(method=method, backbone=backbone(13, 2), size_divisor=2)

    return make


class Exact(nn.Module):
    """A method whose maps are the label, handed over as the fourth and fifth channel of the image."""

    def forward(self, image: Tensor, *geometry: Tensor) -> Tensor:
        return image[:, 3:5]


class Constant(nn.Module):
    """A head that says the same everywhere."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.zeros_like(features[:, :2])


@pytest.mark.parametrize("shape", [(8, 6, 10), (7, 9, 5)])
@pytest.mark.parametrize("training", [True, False])
def test_maps_are_those_of_the_method(
    uncertain: Callable[..., UncertainSeparation], measure: Measure, shape: Shape, training: bool
) -> None:
    network, image = uncertain().train(training), measure(2, shape)
    chi, sd = network(image, *GEOMETRY, WEIGHTS).split(2, dim=1)
    assert torch.equal(chi, network.method.network.eval()(image, *GEOMETRY, WEIGHTS))
    inside = (image[:, 2:3] > 0).expand_as(sd)
    assert bool((sd[inside] > FLOOR_PPM).all()) and not sd[~inside].any()
    assert torch.equal(sd > 0, inside)
    assert float(sd.detach()[inside].std()) > 0
    assert (
        float((sd[:1] - network(image[:1], *(g[:1] for g in (*GEOMETRY, WEIGHTS)))[:, 2:]).detach().abs().max()) < 1e-6
    )


def test_only_the_head_is_trained_and_stored(uncertain: Callable[..., UncertainSeparation], measure: Measure) -> None:
    network, image = uncertain().train(), measure(1, (6, 6, 6))
    network(image)[:, 2:].sum().backward()
    assert all(p.grad is not None for p in network.backbone.parameters())
    assert all(p.grad is None and not p.requires_grad for p in network.method.parameters())
    assert {name.split(".")[0] for name in network.state_dict()} == {"backbone", "factors"}
    assert not network.method.network.training
    uncertain().load_state_dict(network.state_dict())


def test_features_show_what_the_maps_leave_unexplained(
    uncertain: Callable[..., UncertainSeparation], measure: Measure
) -> None:
    """Of maps that explain all that was measured nothing is left; noise on R2' shows in its residual alone."""
    image, chi = measure(2, (8, 7, 9)), 0.1 * torch.rand(2, 2, 8, 7, 9)
    mask = image[:, 2:3]
    predicted = mask * SourceModel(padding=0.25)(chi, *GEOMETRY, WEIGHTS)
    network = uncertain(Exact())
    clean = network.features(chi, torch.cat([predicted, mask], dim=1), *GEOMETRY, WEIGHTS)
    assert float(clean[:, 4:8].abs().max()) < 1e-3
    noise = mask * 0.01 * torch.randn(mask.shape)
    noisy = network.features(
        chi, torch.cat([predicted[:, :1], predicted[:, 1:] + noise, mask], dim=1), *GEOMETRY, WEIGHTS
    )
    torch.testing.assert_close(noisy[:, 5:6], torch.asinh(noise / 0.01), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(noisy[:, [0, 1, 2, 4, 6, 8]], clean[:, [0, 1, 2, 4, 6, 8]])
    assert float((noisy[:, 7] - clean[:, 7]).abs().max()) > 0.5
    axial = network.features(chi, torch.cat([predicted, mask], dim=1), GEOMETRY[0], None, WEIGHTS)
    assert float(axial[:, 4].abs().max()) > 0.1  # so the direction of B0 matters


def test_features_know_the_noise_of_the_whole_scan(
    uncertain: Callable[..., UncertainSeparation], measure: Measure
) -> None:
    image = measure(2, (6, 7, 5))
    found = uncertain(Exact()).features(torch.zeros(2, 2, 6, 7, 5), image, *GEOMETRY)
    for b in range(2):
        inside = image[b, 2] > 0
        means = found[b, 4:8, inside].mean(dim=1)
        torch.testing.assert_close(found[b, 9:, inside], means[:, None].expand(-1, int(inside.sum())))
        assert not found[b, 9:, ~inside].any()
    assert float((found[0, 9:] - found[1, 9:]).abs().max()) > 1e-3  # each volume has its own


def test_lesions_stay_of_order_one(uncertain: Callable[..., UncertainSeparation], measure: Measure) -> None:
    chi = torch.full((1, 2, 6, 6, 6), 3.0)
    assert float(uncertain(Exact()).features(chi, measure(1, (6, 6, 6))).abs().max()) < 10


def test_local_sd_against_a_loop() -> None:
    values, mask = torch.randn(1, 1, 4, 5, 6), (torch.rand(1, 1, 4, 5, 6) > 0.3).float()
    found = local_sd(values, mask)
    for x, y, z in mask[0, 0].nonzero().tolist():
        box = tuple(slice(max(i - 1, 0), i + 2) for i in (x, y, z))
        near = values[0, 0][box][mask[0, 0][box] > 0]
        assert float(found[0, 0, x, y, z]) == pytest.approx(float(near.std(correction=0)), abs=1e-3)
    assert not found[mask == 0].any()


def subject(error_ppm: Tensor) -> dict[str, Tensor]:
    """A subject whose maps, by :class:`Exact`, are off by the error (2, X, Y, Z)."""
    shape = error_ppm.shape[1:]
    label, mask = 0.1 * torch.rand(2, *shape), torch.ones(1, *shape)
    mask[:, 0] = 0
    image = torch.cat([torch.zeros(2, *shape), mask, label + error_ppm])
    geometry = {keys.VOXEL_SIZE_MM: torch.ones(3), keys.B0_DIRECTION: torch.tensor([0.0, 0.0, 1.0])}
    return {keys.IMAGE: image, keys.LABEL: label, **geometry, keys.RELAXIVITY_WEIGHTS: torch.ones(2)}


def test_calibration_finds_the_standard_deviation_of_normal_errors() -> None:
    torch.manual_seed(0)
    network = UncertainSeparation(method=Exact(), backbone=Constant())
    network.factors.fill_(7.0)  # what was there does not matter
    sd_ppm = torch.tensor([0.03, 0.002])[:, None, None, None]
    heads = [subject(sd_ppm * torch.randn(2, 21, 20, 20)) for _ in range(3)]
    heads[0] = {name: value[None] for name, value in heads[0].items()}  # a batch does as well
    calibrate(network, heads)
    found = network(heads[1][keys.IMAGE][None])[0, 2:, 1:]
    torch.testing.assert_close(found, sd_ppm.expand_as(found), rtol=0.03, atol=0.0)
    error = (heads[2][keys.IMAGE][3:] - heads[2][keys.LABEL])[:, 1:].abs()
    for share, factor in INTERVALS.items():
        held = (error <= factor * found).double().mean(dim=(1, 2, 3))
        torch.testing.assert_close(held, torch.full((2,), share).double(), atol=0.02, rtol=0.0)


def test_nothing_to_calibrate_on() -> None:
    network = UncertainSeparation(method=Exact(), backbone=Constant())
    with pytest.raises(ValueError, match="voxels inside the masks of the calibration set, got none"):
        calibrate(network, [])
