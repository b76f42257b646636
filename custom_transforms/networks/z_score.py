"""Scaling by constants of the training set, never of the image at hand: the maps are quantitative."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from custom_transforms.networks.backbone import Backbone, pad_to_multiple


class ZScore(nn.Module):
    """Means and standard deviations of maps in the training set; they are stored with the weights.

    Until :meth:`set_constants` is called, or weights are loaded, the means are 0 and the standard deviations 1.

    Args:
        maps: names of the maps, one for each channel, as in :func:`custom_transforms.statistics.dataset_statistics`.
    """

    mean_ppm: Tensor
    std_ppm: Tensor

    def __init__(self, maps: Sequence[str]) -> None:
        super().__init__()
        self.maps = list(maps)
        self.register_buffer("mean_ppm", torch.zeros(len(self.maps)))
        self.register_buffer("std_ppm", torch.ones(len(self.maps)))

    def set_constants(self, statistics: Mapping[str, tuple[float, float]]) -> None:
        """Take mean and standard deviation (ppm) of each map by its name.

        Raises:
            ValueError: a map is missing, or does not vary.
        """
        missing = [name for name in self.maps if name not in statistics]
        if missing:
            raise ValueError(f"expected statistics of {', '.join(self.maps)}; {', '.join(missing)} missing")
        constant = [name for name in self.maps if not statistics[name][1] > 0]
        if constant:
            raise ValueError(f"{', '.join(constant)} does not vary in the training set; check the data")
        mean, std = zip(*(statistics[name] for name in self.maps), strict=True)
        self.mean_ppm.copy_(torch.tensor(mean))
        self.std_ppm.copy_(torch.tensor(std))

    def forward(self, maps_ppm: Tensor) -> Tensor:
        """Scale maps (B, C, X, Y, Z) in ppm to numbers of order one."""
        return (maps_ppm - self.mean_ppm[:, None, None, None]) / self.std_ppm[:, None, None, None]

    def inverse(self, z: Tensor) -> Tensor:
        """Scale back to ppm."""
        return z * self.std_ppm[:, None, None, None] + self.mean_ppm[:, None, None, None]


class ZScoredBackbone(nn.Module):
    """An image-to-image network between maps in ppm: m (std_out P(m (x - mean_in) / std_in) + mean_out).

    Args:
        backbone: P, a network from the input maps to the output maps.
        inputs: names of the input maps.
        outputs: names of the output maps.
        size_divisor: total stride of P; volumes are padded to a multiple of it.
        mixed_precision: run P in bfloat16.
        checkpointing: recompute the activations of P in the backward pass to save memory.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        inputs: Sequence[str],
        outputs: Sequence[str],
        size_divisor: int = 16,
        mixed_precision: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = Backbone(backbone, mixed_precision=mixed_precision, checkpointing=checkpointing)
        self.inputs = ZScore(inputs)
        self.outputs = ZScore(outputs)
        self.size_divisor = size_divisor

    def forward(self, maps_ppm: Tensor, mask: Tensor) -> Tensor:
        """Give the output maps (B, C', X, Y, Z) in ppm for input maps (B, C, X, Y, Z) in ppm and a mask."""
        x, y, z = mask.shape[-3], mask.shape[-2], mask.shape[-1]
        features = pad_to_multiple(mask * self.inputs(maps_ppm), self.size_divisor)
        return mask * self.outputs.inverse(self.backbone(features)[..., :x, :y, :z])
