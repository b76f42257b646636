r"""How far the maps of a method may be off: a standard deviation for each source, learned from its errors.

    sd = m c (floor + 0.01 ppm exp P(chi, field, R2'/Dr, residuals, noise, m))

The method stays as it was trained; the head P, an injected MONAI network, sees what it was given, what it found, what
of the measurements that leaves unexplained, and how noisy that is nearby and on the whole. The factors c, one for each
map, are 1 until :func:`calibrate` sets them from subjects that neither was trained on. What "standard deviation" means
is defined by the intervals: chi +- 1 sd holds the truth in 68.27 % of the voxels, chi +- 1.96 sd in 95 %, as for a
normal error. It covers noise and the ill-posed inversion, not settings that are wrong, such as the relaxivity.

References:
    Koenker 1978, doi:10.2307/1913643 (quantile regression); Kuleshov 2018, doi:10.48550/arXiv.1807.00263 (calibration).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d

from custom_transforms.keys import GEOMETRY, IMAGE, LABEL, split_image
from custom_transforms.networks.backbone import Backbone, pad_to_multiple
from custom_transforms.networks.frozen import Frozen
from custom_transforms.physics import SourceModel

INTERVALS = {0.6827: 1.0, 0.95: 1.96}
"""Share of the voxels whose truth lies within the map +- factor x standard deviation, and that factor."""

FLOOR_PPM = 1e-4
"""Smallest standard deviation in the mask before calibration."""

_TYPICAL_PPM = 0.01


def local_sd(values: Tensor, mask: Tensor) -> Tensor:
    """Give the standard deviation over the voxels of the mask among 3 x 3 x 3.

    Args:
        values: (B, C, X, Y, Z) in any unit.
        mask: (B, 1, X, Y, Z), 0 or 1.

    Returns:
        (B, C, X, Y, Z) in the same unit, zero outside the mask.
    """
    share = avg_pool3d(mask, 3, 1, 1).clamp(min=1e-6)
    mean = avg_pool3d(mask * values, 3, 1, 1) / share
    square = avg_pool3d(mask * values.square(), 3, 1, 1) / share
    return mask * (square - mean.square()).clamp(min=0.0).sqrt()


class UncertainSeparation(nn.Module):
    """A method and a head that gives the standard deviations of its maps; the head alone is trained and stored.

    Args:
        method: what separates the sources; it is frozen.
        backbone: head, a network from 13 channels (chi_para, chi_dia, local field, R2'/Dr, the residuals of the last
            two, the local standard deviations of these, mask, the means over the mask of residuals and of their
            standard deviations) to 2.
        size_divisor: the head's total stride; images are padded to a multiple of it.
        mixed_precision: run the head in bfloat16.
    """

    scale_ppm: Tensor
    factors: Tensor

    def __init__(
        self, *, method: nn.Module, backbone: nn.Module, size_divisor: int = 4, mixed_precision: bool = False
    ) -> None:
        super().__init__()
        self.method = method if isinstance(method, Frozen) else Frozen(method)
        self.backbone = Backbone(backbone, mixed_precision=mixed_precision)
        self.size_divisor = size_divisor
        self.model = SourceModel(padding=0.25)
        # typical magnitudes in ppm; beyond them the head sees logarithms, so that lesions of 3 ppm stay of order one
        scale = torch.tensor([0.05, 0.05, 0.01, 0.05, 0.001, 0.01, 0.0005, 0.005, 1.0])
        self.register_buffer("scale_ppm", scale, persistent=False)
        self.register_buffer("factors", torch.ones(2))

    def features(
        self,
        chi: Tensor,
        image: Tensor,
        voxel_size_mm: Tensor | None = None,
        b0_direction: Tensor | None = None,
        relaxivity_weights: Tensor | None = None,
    ) -> Tensor:
        """Give what the head sees, (B, 13, X, Y, Z), dimensionless, for the method's maps (B, 2, X, Y, Z) in ppm."""
        measured, mask = image[:, 0:2], split_image(image)[2]
        residual = mask * (measured - self.model(chi, voxel_size_mm, b0_direction, relaxivity_weights))
        maps = torch.cat([chi, measured, residual, local_sd(residual, mask), mask], dim=1)
        near = torch.asinh(maps / self.scale_ppm[:, None, None, None])
        # the level of the noise belongs to the whole scan, of which a convolution sees a part
        voxels = mask.sum(dim=(2, 3, 4), keepdim=True).clamp(min=1.0)
        overall = (mask * near[:, 4:8]).sum(dim=(2, 3, 4), keepdim=True) / voxels
        return torch.cat([near, mask * overall], dim=1)

    def forward(
        self,
        image: Tensor,
        voxel_size_mm: Tensor | None = None,
        b0_direction: Tensor | None = None,
        relaxivity_weights: Tensor | None = None,
    ) -> Tensor:
        """Separate the sources and say how sure that is.

        Args:
            image: (B, 3, X, Y, Z) local field (ppm), R2'/Dr (ppm), mask, and what else the method takes.
            voxel_size_mm: see the method.
            b0_direction: see the method.
            relaxivity_weights: see the method.

        Returns:
            chi_para and chi_dia as the method gives them, and the standard deviation of each, positive in the mask and
            zero outside, (B, 4, X, Y, Z) in ppm.
        """
        image = image.float()
        geometry = (voxel_size_mm, b0_direction, relaxivity_weights)
        with torch.no_grad():
            chi = self.method(image, *geometry)
            features = self.features(chi, image, *geometry)
        x, y, z = image.shape[-3:]
        log_sd = self.backbone(pad_to_multiple(features, self.size_divisor))[..., :x, :y, :z]
        sd = self.factors[:, None, None, None] * (FLOOR_PPM + _TYPICAL_PPM * log_sd.exp())
        return torch.cat([chi, split_image(image)[2] * sd], dim=1)


def _relative_errors(network: UncertainSeparation, item: Mapping[str, Tensor]) -> Tensor:
    """Give |error| / sd of both maps at the voxels inside the mask of a volume or batch, (2, voxels)."""
    device = network.factors.device
    image, label = (item[key].to(device).reshape(-1, *item[key].shape[-4:]) for key in (IMAGE, LABEL))
    geometry = (item[key].to(device).reshape(len(image), -1) for key in GEOMETRY)
    chi, sd = network(image, *geometry).split(2, dim=1)
    inside = split_image(image)[2].flatten() > 0
    return ((chi - label).abs() / sd).movedim(1, 0).flatten(1)[:, inside]


@torch.no_grad()
def calibrate(network: UncertainSeparation, dataset: Iterable[Mapping[str, Tensor]]) -> None:
    """Set the factors of a network so that its intervals hold the truth as often as they say.

    Each interval asks for a factor of its own, the quantile of |error| / sd over its width; the network gets their
    geometric mean.

    Args:
        network: changed in place; the factors are stored with its weights.
        dataset: subjects that were not trained on: image (3, X, Y, Z) and label (2, X, Y, Z) in ppm with voxel_size_mm,
            b0_direction and relaxivity_weights, or batches of them.

    Raises:
        ValueError: there is no voxel inside the masks.
    """
    network.eval()
    network.factors.fill_(1.0)
    errors = torch.cat([torch.zeros(2, 0), *(_relative_errors(network, item).cpu() for item in dataset)], dim=1)
    count = errors.shape[1]
    if count == 0:
        raise ValueError("expected voxels inside the masks of the calibration set, got none; check its data")
    ordered = errors.sort(dim=1).values
    wanted = [ordered[:, min(count - 1, int(share * count))] / factor for share, factor in INTERVALS.items()]
    network.factors.copy_(torch.stack(wanted).log().mean(dim=0).exp())
