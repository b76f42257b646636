r"""R2' without spin echoes: networks that predict it from R2*, and any method on the prediction.

    R2PRIMEnet     R2'/Dr = m (std_out P(m (R2*/Dr - mean_in) / std_in) + mean_out)
    R2 removed     R2'/Dr = m (R2*/Dr - 0.1 ppm (1 + P(f, R2*/Dr, m)))

The second leaves to the network only what R2 deviates from 0.1 ppm, about 13 1/s at 3 T, the constant that is used
where nothing is known of it. R2 is smooth, so the detail of R2* is kept.

References:
    Kim 2025, doi:10.48550/arXiv.2409.14030 (R2PRIMEnet, chi-sepnet-R2*).
"""

import torch
from torch import Tensor, nn

from custom_transforms.keys import R2PRIME, RATE, split_image
from custom_transforms.networks.backbone import Backbone, pad_to_multiple
from custom_transforms.networks.z_score import ZScoredBackbone


class R2PrimeNet(nn.Module):
    """R2*/Dr to R2'/Dr by one direct network, voxel size and head position unknown to it.

    Args:
        backbone: a network from one channel to one.
        size_divisor: the backbone's total stride; images are padded to a multiple of it.
        mixed_precision: run the backbone in bfloat16.
    """

    def __init__(self, *, backbone: nn.Module, size_divisor: int = 16, mixed_precision: bool = False) -> None:
        super().__init__()
        self.mapping = ZScoredBackbone(
            backbone, inputs=[RATE], outputs=[R2PRIME], size_divisor=size_divisor, mixed_precision=mixed_precision
        )

    def forward(self, image: Tensor) -> Tensor:
        """Predict R2'/Dr, (B, 1, X, Y, Z) in ppm, from an image (B, 3, X, Y, Z) whose second channel is R2*/Dr."""
        _, r2star, mask = split_image(image.float())
        return self.mapping(r2star, mask)


class R2Removal(nn.Module):
    """R2*/Dr to R2'/Dr by a network that estimates R2/Dr.

    Args:
        backbone: a network from 3 channels (local field, R2*/Dr, mask) to one.
        size_divisor: the backbone's total stride; images are padded to a multiple of it.
        mixed_precision: run the backbone in bfloat16.
    """

    scale_ppm: Tensor

    def __init__(self, *, backbone: nn.Module, size_divisor: int = 4, mixed_precision: bool = False) -> None:
        super().__init__()
        self.backbone = Backbone(backbone, mixed_precision=mixed_precision)
        self.size_divisor = size_divisor
        # typical magnitudes in ppm, so that the backbone sees numbers of order one
        self.register_buffer("scale_ppm", torch.tensor([0.01, 0.1, 1.0]), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Predict R2'/Dr, (B, 1, X, Y, Z) in ppm, from an image (B, 3, X, Y, Z) whose second channel is R2*/Dr."""
        image = image.float()
        _, r2star, mask = split_image(image)
        x, y, z = image.shape[-3], image.shape[-2], image.shape[-1]
        features = pad_to_multiple(image / self.scale_ppm[:, None, None, None], self.size_divisor)
        r2 = self.scale_ppm[1] * (1.0 + self.backbone(features)[..., :x, :y, :z])
        return mask * (r2star - r2)


class PredictedR2Prime(nn.Module):
    """Any method on R2* alone: the second channel of the image, R2*/Dr, is replaced by a prediction of R2'/Dr.

    In train mode the prediction is appended to the result, for :class:`custom_transforms.losses.PredictedR2PrimeLoss`.

    Args:
        r2prime: image (B, 3, X, Y, Z) with R2*/Dr to R2'/Dr (B, 1, X, Y, Z), in ppm.
        method: what separates the sources.
    """

    def __init__(self, *, r2prime: nn.Module, method: nn.Module) -> None:
        super().__init__()
        self.r2prime = r2prime
        self.method = method

    def forward(
        self,
        image: Tensor,
        voxel_size_mm: Tensor | None = None,
        b0_direction: Tensor | None = None,
        relaxivity_weights: Tensor | None = None,
    ) -> Tensor:
        """Separate the sources.

        Args:
            image: (B, 3 or 4, X, Y, Z) local field (ppm), R2*/Dr (ppm), mask, and what else the method takes.
            voxel_size_mm: see the method.
            b0_direction: see the method.
            relaxivity_weights: see the method.

        Returns:
            The method's result, (B, 2, X, Y, Z) in ppm; in train mode (B, 3, X, Y, Z), or (B, iterations, 3, X, Y, Z)
            if the method gives its iterations: R2'/Dr comes last.
        """
        r2prime = self.r2prime(image)
        measured = torch.cat([image[:, 0:1].float(), r2prime.clamp(min=0.0), image[:, 2:].float()], dim=1)
        chi = self.method(measured, voxel_size_mm, b0_direction, relaxivity_weights)
        if not self.training:
            return chi
        if chi.ndim == 6:
            r2prime = r2prime.unsqueeze(1).expand(-1, chi.shape[1], -1, -1, -1, -1)
        return torch.cat([chi, r2prime], dim=-4)
