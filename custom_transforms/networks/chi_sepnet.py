r"""chi-sepnet: one U-Net from the measurements to both sources.

    chi = m (std_out P(m (x - mean) / std) + mean_out),    x = [chi_total, local field, R2'/Dr]

z-scored by constants of the training set, never by the image at hand: the maps are quantitative. chi_total comes from
an injected susceptibility model (QSMnet in the publication).

References:
    Kim 2025, doi:10.48550/arXiv.2409.14030 (chi-sepnet); Yoon 2018, doi:10.1016/j.neuroimage.2018.06.030 (QSMnet).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from custom_transforms.keys import split_image
from custom_transforms.networks.backbone import Backbone, pad_to_multiple
from custom_transforms.physics.dipole import default_geometry


class ChiSepNet(nn.Module):
    """Local field and R2' to chi_para and chi_dia by one direct network.

    The dipole is learnt, with the voxel size and the head position of the training data, so any other geometry is
    refused. The result is clamped to >= 0 in eval mode.

    Args:
        backbone: a network from 3 channels (chi_total, local field, R2'/Dr) to 2.
        susceptibility: a frozen method (image, voxel_size_mm, b0_direction) to chi_total (B, 1, X, Y, Z) in ppm.
        input_mean_ppm: means of the three inputs; the defaults are those published for chi-sepnet's training data.
        input_std_ppm: their standard deviations.
        output_mean_ppm: means of chi_para and chi_dia.
        output_std_ppm: their standard deviations.
        size_divisor: the backbone's total stride; images are padded to a multiple of it.
        voxel_size_mm: isotropic voxel size of the training data.
        mixed_precision: run the backbone in bfloat16.
    """

    input_mean_ppm: Tensor
    input_std_ppm: Tensor
    output_mean_ppm: Tensor
    output_std_ppm: Tensor

    def __init__(
        self,
        *,
        backbone: nn.Module,
        susceptibility: nn.Module,
        input_mean_ppm: Sequence[float] = (-0.00134, -0.0026, 0.0514),
        input_std_ppm: Sequence[float] = (0.0315, 0.01085, 0.0698),
        output_mean_ppm: Sequence[float] = (0.0259, 0.0267),
        output_std_ppm: Sequence[float] = (0.0353, 0.0279),
        size_divisor: int = 16,
        voxel_size_mm: float = 1.0,
        mixed_precision: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = Backbone(backbone, mixed_precision=mixed_precision)
        self.susceptibility = susceptibility.requires_grad_(False)
        self.size_divisor = size_divisor
        self.trained_voxel_size_mm = voxel_size_mm
        for name, values in (
            ("input_mean_ppm", input_mean_ppm),
            ("input_std_ppm", input_std_ppm),
            ("output_mean_ppm", output_mean_ppm),
            ("output_std_ppm", output_std_ppm),
        ):
            self.register_buffer(name, torch.tensor(values)[None, :, None, None, None])

    def train(self, mode: bool = True) -> "ChiSepNet":
        """Switch the mode of the backbone; the susceptibility model stays frozen in eval mode."""
        super().train(mode)
        self.susceptibility.train(False)
        return self

    def _check_geometry(self, voxel_size_mm: Tensor, b0_direction: Tensor) -> None:
        if bool(((voxel_size_mm / self.trained_voxel_size_mm - 1).abs() > 0.02).any()):
            raise ValueError(
                f"ChiSepNet was trained at {self.trained_voxel_size_mm} mm isotropic, got voxels of "
                f"{voxel_size_mm} mm; resample, or use UnrolledChiSepNet"
            )
        if bool((b0_direction[:, 2].abs() < 0.9998).any()):  # 1 degree
            raise ValueError(
                f"ChiSepNet was trained with B0 along +z, got {b0_direction}; rotate the volume to the "
                "scanner's axes, or use UnrolledChiSepNet"
            )

    def forward(
        self,
        image: Tensor,
        voxel_size_mm: Tensor | None = None,
        b0_direction: Tensor | None = None,
        relaxivity_weights: Tensor | None = None,
    ) -> Tensor:
        """Separate the sources.

        Args:
            image: (B, 3, X, Y, Z) local field (ppm), R2'/Dr (ppm), mask; :func:`custom_transforms.keys.split_image`.
            voxel_size_mm: (B, 3) in mm, or None; only the voxel size of the training data is accepted.
            b0_direction: (B, 3) unit vectors in voxel axes, or None; only +z is accepted.
            relaxivity_weights: None, or (B, 2) ones: a direct network learnt a single Dr.

        Returns:
            chi_para and chi_dia in ppm, (B, 2, X, Y, Z).

        Raises:
            ValueError: a geometry or relaxivity that the network was not trained for.
        """
        voxel_size_mm, b0_direction = default_geometry(image, voxel_size_mm, b0_direction)
        self._check_geometry(voxel_size_mm, b0_direction)
        if relaxivity_weights is not None and bool(((relaxivity_weights - 1).abs() > 1e-3).any()):
            raise ValueError("ChiSepNet was trained with a single relaxivity; use UnrolledChiSepNet for two")
        x, y, z = image.shape[-3], image.shape[-2], image.shape[-1]
        image = image.float()
        chi_total = self.susceptibility(image, voxel_size_mm, b0_direction)
        field, r2prime, mask = split_image(image)
        inputs = torch.cat([chi_total, field, r2prime], dim=1)
        features = pad_to_multiple(mask * (inputs - self.input_mean_ppm) / self.input_std_ppm, self.size_divisor)
        output = self.backbone(features)[..., :x, :y, :z]
        chi = mask * (output * self.output_std_ppm + self.output_mean_ppm)
        return chi if self.training else chi.clamp(min=0.0)
