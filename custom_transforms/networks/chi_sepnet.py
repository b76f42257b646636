r"""chi-sepnet: one U-Net from the measurements to both sources.

    chi = m (std_out P(m (x - mean_in) / std_in) + mean_out),    x = [chi_total, local field, R2'/Dr]

chi_total comes from an injected susceptibility model (QSMnet in the publication). The end-to-end form without spin
echoes is the same network with R2*/Dr in the place of R2'/Dr.

References:
    Kim 2025, doi:10.48550/arXiv.2409.14030 (chi-sepnet); Yoon 2018, doi:10.1016/j.neuroimage.2018.06.030 (QSMnet).
"""

import torch
from torch import Tensor, nn

from custom_transforms.keys import CHI_DIA, CHI_PARA, CHI_TOTAL, LOCAL_FIELD, RATE, split_image
from custom_transforms.networks.direct import check_single_relaxivity, check_trained_geometry
from custom_transforms.networks.z_score import ZScoredBackbone
from custom_transforms.physics.dipole import default_geometry


class ChiSepNet(nn.Module):
    """Local field and R2' to chi_para and chi_dia by one direct network.

    The dipole is learnt, with the voxel size and the head position of the training data, so any other geometry is
    refused. The result is clamped to >= 0 in eval mode.

    Args:
        backbone: a network from 3 channels (chi_total, local field, R2'/Dr) to 2.
        susceptibility: a method (image, voxel_size_mm, b0_direction) to chi_total (B, 1, X, Y, Z) in ppm, such as a
            :class:`custom_transforms.networks.Frozen` QsmNet.
        size_divisor: the backbone's total stride; images are padded to a multiple of it.
        voxel_size_mm: isotropic voxel size of the training data.
        mixed_precision: run the backbone in bfloat16.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        susceptibility: nn.Module,
        size_divisor: int = 16,
        voxel_size_mm: float = 1.0,
        mixed_precision: bool = False,
    ) -> None:
        super().__init__()
        self.mapping = ZScoredBackbone(
            backbone,
            inputs=[CHI_TOTAL, LOCAL_FIELD, RATE],
            outputs=[CHI_PARA, CHI_DIA],
            size_divisor=size_divisor,
            mixed_precision=mixed_precision,
        )
        self.susceptibility = susceptibility
        self.trained_voxel_size_mm = voxel_size_mm

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
        check_trained_geometry("ChiSepNet", self.trained_voxel_size_mm, voxel_size_mm, b0_direction)
        check_single_relaxivity("ChiSepNet", relaxivity_weights)
        image = image.float()
        field, rate, mask = split_image(image)
        chi_total = self.susceptibility(image, voxel_size_mm, b0_direction)
        chi = self.mapping(torch.cat([chi_total, field, rate], dim=1), mask)
        return chi if self.training else chi.clamp(min=0.0)
