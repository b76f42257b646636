"""R2' from R2*: the equations of both networks, and any method on their prediction."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from custom_transforms.losses import PredictedR2PrimeLoss, SourceLoss
from custom_transforms.networks import Frozen, PredictedR2Prime, R2PrimeNet, R2Removal, UnrolledChiSepNet

Measure = Callable[..., Tensor]
MakeBackbone = Callable[..., nn.Module]


class Constant(nn.Module):
    """An R2 of 0.2 ppm, twice the usual one."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.ones_like(features[:, :1])


def test_r2primenet(measure: Measure) -> None:
    network = R2PrimeNet(backbone=nn.Identity())
    network.mapping.inputs.set_constants({"rate": (0.1, 0.2)})
    network.mapping.outputs.set_constants({"r2prime": (0.3, 0.4)})
    image = measure(1, (5, 6, 7))
    _, r2star, mask = image.split(1, dim=1)
    torch.testing.assert_close(network(image), mask * (0.4 * (r2star - 0.1) / 0.2 + 0.3))


def test_r2_is_taken_away(measure: Measure, backbone: MakeBackbone) -> None:
    image = measure(2, (5, 6, 7))
    mask = image[:, 2:3]
    torch.testing.assert_close(R2Removal(backbone=Constant(), size_divisor=1)(image), mask * (image[:, 1:2] - 0.2))
    assert R2Removal(backbone=backbone(3, 1), size_divisor=2)(image).shape == (2, 1, 5, 6, 7)


def test_a_method_gets_the_prediction(unrolled: Callable[..., UnrolledChiSepNet], measure: Measure) -> None:
    method = unrolled().eval()
    network = PredictedR2Prime(r2prime=R2Removal(backbone=Constant(), size_divisor=1), method=method).eval()
    r2star = measure(1, (8, 8, 8))
    r2star[:, 1:2] += 0.15 * r2star[:, 2:3]
    r2prime = r2star.clone()
    r2prime[:, 1:2] = r2star[:, 2:3] * (r2star[:, 1:2] - 0.2).clamp(min=0)
    torch.testing.assert_close(network(r2star), method(r2prime))
    assert not torch.allclose(network(r2star), method(r2star), atol=1e-3)


def test_training_sees_the_prediction(
    unrolled: Callable[..., UnrolledChiSepNet], backbone: MakeBackbone, measure: Measure
) -> None:
    image = measure(2, (6, 7, 8))
    for supervised, shape in ((True, (2, 2, 3, 6, 7, 8)), (False, (2, 3, 6, 7, 8))):
        r2prime = R2Removal(backbone=backbone(3, 1), size_divisor=2)
        network = PredictedR2Prime(r2prime=r2prime, method=unrolled(deep_supervision=supervised)).train()
        pred = network(image)
        assert pred.shape == shape
        torch.testing.assert_close(pred.movedim(-4, 0)[2].reshape(2, -1, 6, 7, 8)[:, -1:], r2prime(image))
        loss = PredictedR2PrimeLoss(sources=SourceLoss())
        loss(pred, {"label": 0.1 * torch.ones(2, 2, 6, 7, 8), "image": image}).backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


def test_published_training_is_of_the_prediction_alone(
    direct: Callable[..., nn.Module], backbone: MakeBackbone, measure: Measure
) -> None:
    r2prime = R2PrimeNet(backbone=backbone(1, 1), size_divisor=2)
    network = PredictedR2Prime(r2prime=r2prime, method=Frozen(direct())).train()
    image = measure(1, (6, 6, 6))
    label = 0.1 * torch.rand(1, 2, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    target = {"label": label, "image": image, "relaxivity_weights": torch.tensor([[1.2, 0.8]])}
    loss = PredictedR2PrimeLoss()(network(image), target)
    expected = 1.2 * label[:, 0:1] + 0.8 * label[:, 1:2]
    error = (image[:, 2:3] * (r2prime(image) - expected)).abs().mean() / 0.05
    assert float(loss.detach()) == pytest.approx(float(error.detach()), rel=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in r2prime.parameters())
    assert {name.split(".")[0] for name in network.state_dict()} == {"r2prime"}
