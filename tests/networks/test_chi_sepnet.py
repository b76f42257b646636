"""ChiSepNet: constants instead of statistics, padding, a frozen first stage, and no geometry it has not learnt."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from custom_transforms.networks import ChiSepNet

Make = Callable[..., ChiSepNet]
Measure = Callable[..., Tensor]


@pytest.mark.parametrize("shape", [(8, 8, 8), (7, 9, 5), (8, 5, 6)])
def test_any_shape(direct: Make, measure: Measure, shape: tuple[int, int, int]) -> None:
    image = measure(2, shape)
    chi = direct().eval()(image)
    assert chi.shape == (2, 2, *shape)
    assert bool((chi >= 0).all())
    assert not chi[(image[:, 2:3] == 0).expand_as(chi)].any()
    assert direct().train()(image).min() < 0


def test_z_scores_are_constants(measure: Measure) -> None:
    """With a backbone that passes its last two inputs on, the result is the equation of the module."""

    class Pass(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return features[:, 1:]

    zero = nn.Module()
    zero.forward = lambda image, *geometry: image[:, 0:1]
    network = ChiSepNet(backbone=Pass(), susceptibility=zero, size_divisor=1).train()
    network.mapping.inputs.set_constants({"chi_total": (0.1, 1.0), "local_field": (0.2, 2.0), "rate": (0.3, 4.0)})
    network.mapping.outputs.set_constants({"chi_para": (5.0, 7.0), "chi_dia": (6.0, 8.0)})
    image = measure(1, (3, 3, 3))
    field, r2prime, mask = image.split(1, dim=1)
    expected = torch.cat([7 * (field - 0.2) / 2 + 5, 8 * (r2prime - 0.3) / 4 + 6], dim=1) * mask
    torch.testing.assert_close(network(image), expected)


def test_first_stage_stays_frozen(direct: Make, measure: Measure) -> None:
    network = direct().train()
    assert not network.susceptibility.network.training
    network(measure(1, (6, 6, 6))).sum().backward()
    assert network.susceptibility.network.gain.grad is None
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.mapping.parameters())


def test_scripting(direct: Make, measure: Measure) -> None:
    network = direct().eval()
    image = measure(2, (7, 6, 5))
    torch.testing.assert_close(torch.jit.script(network)(image), network(image))


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ((torch.tensor([[1.0, 1.0, 2.0]]), None, None), "1.0 mm isotropic"),
        ((None, torch.tensor([[0.0, 0.6, 0.8]]), None), r"B0 along \+z"),
        ((None, None, torch.tensor([[1.2, 0.8]])), "single relaxivity"),
    ],
)
def test_what_it_has_not_learnt_is_refused(
    direct: Make, measure: Measure, geometry: tuple[Tensor | None, ...], message: str
) -> None:
    image = measure(1, (6, 6, 6))
    with pytest.raises(ValueError, match=message):
        direct()(image, *geometry)
    small = torch.tensor([[1.0, 1.01, 1.0]])
    direct()(image, small, torch.tensor([[0.0, 0.0, -1.0]]), torch.ones(1, 2))
