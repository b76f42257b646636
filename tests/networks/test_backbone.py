"""Padding never crops, and mixed precision gives float32 back."""

import pytest
import torch

from custom_transforms.networks.backbone import Backbone, pad_to_multiple


@pytest.mark.parametrize(("shape", "padded"), [((8, 16, 4), (8, 16, 4)), ((7, 9, 1), (8, 12, 4))])
def test_padding(shape: tuple[int, ...], padded: tuple[int, ...]) -> None:
    image = torch.randn(2, 3, *shape)
    result = pad_to_multiple(image, 4)
    assert result.shape == (2, 3, *padded)
    assert torch.equal(result[..., : shape[0], : shape[1], : shape[2]], image)
    assert float(result.abs().sum()) == pytest.approx(float(image.abs().sum()), rel=1e-5)


def test_precision_of_the_network_inside() -> None:
    seen = []

    class Probe(torch.nn.Conv3d):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            seen.append(super().forward(features).dtype)
            return super().forward(features)

    for mixed in (False, True):
        assert Backbone(Probe(1, 1, 1), mixed_precision=mixed)(torch.randn(1, 1, 4, 4, 4)).dtype == torch.float32
    assert seen == [torch.float32, torch.bfloat16]
