"""QsmNet: its equation, any shape, one geometry; and the separation that is made from its result."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from custom_transforms.classical import SusceptibilitySeparation
from custom_transforms.networks import QsmNet

Measure = Callable[..., Tensor]
MakeBackbone = Callable[..., nn.Module]


def test_equation(measure: Measure) -> None:
    network = QsmNet(backbone=nn.Identity())
    network.mapping.inputs.set_constants({"local_field": (0.01, 0.02)})
    network.mapping.outputs.set_constants({"chi_total": (0.3, 0.4)})
    image = measure(2, (5, 6, 7))
    field, _, mask = image.split(1, dim=1)
    torch.testing.assert_close(network(image), mask * (0.4 * (field - 0.01) / 0.02 + 0.3))


def test_only_its_own_geometry(backbone: MakeBackbone, measure: Measure) -> None:
    network = QsmNet(backbone=backbone(1, 1), voxel_size_mm=2.0)
    image = measure(1, (8, 8, 8))
    network(image, torch.full((1, 3), 2.0))
    with pytest.raises(ValueError, match=r"QsmNet was trained at 2.0 mm isotropic.*AxialInferer"):
        network(image)
    with pytest.raises(ValueError, match=r"B0 along \+z"):
        network(image, torch.full((1, 3), 2.0), torch.tensor([[0.6, 0.0, 0.8]]))


def test_separation_of_its_result(backbone: MakeBackbone, measure: Measure) -> None:
    """In train mode the difference of the sources is the network's result; in eval mode both are physical."""
    qsmnet = QsmNet(backbone=backbone(1, 1))
    method = SusceptibilitySeparation(susceptibility=qsmnet)
    image = measure(2, (9, 7, 8))
    chi = method.train()(image)
    torch.testing.assert_close(chi[:, 0:1] - chi[:, 1:2], qsmnet(image))
    mask = image[:, 2:3]
    torch.testing.assert_close(chi.sum(dim=1, keepdim=True), mask * image[:, 1:2])
    assert bool((chi < 0).any())
    assert bool((method.eval()(image) >= 0).all())


def test_scripting(backbone: MakeBackbone, measure: Measure) -> None:
    method = SusceptibilitySeparation(susceptibility=QsmNet(backbone=backbone(1, 1))).eval()
    image = measure(1, (6, 7, 8))
    torch.testing.assert_close(torch.jit.script(method)(image), method(image))
