r"""QSMnet: one U-Net from the local field to the total susceptibility.

    chi_total = m (std_out P(m (f - mean_in) / std_in) + mean_out)

References:
    Yoon 2018, doi:10.1016/j.neuroimage.2018.06.030; Jung 2020, doi:10.1016/j.neuroimage.2020.116619 (QSMnet+: the same
    network, trained on a wider range of susceptibility).
"""

from torch import Tensor, nn

from custom_transforms.keys import CHI_TOTAL, LOCAL_FIELD, split_image
from custom_transforms.networks.direct import check_trained_geometry
from custom_transforms.networks.z_score import ZScoredBackbone
from custom_transforms.physics.dipole import default_geometry


class QsmNet(nn.Module):
    """Local field to chi_total by one direct network, which refuses any geometry but that of its training.

    Args:
        backbone: a network from one channel to one.
        size_divisor: the backbone's total stride; images are padded to a multiple of it.
        voxel_size_mm: isotropic voxel size of the training data.
        mixed_precision: run the backbone in bfloat16.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        size_divisor: int = 16,
        voxel_size_mm: float = 1.0,
        mixed_precision: bool = False,
    ) -> None:
        super().__init__()
        self.mapping = ZScoredBackbone(
            backbone,
            inputs=[LOCAL_FIELD],
            outputs=[CHI_TOTAL],
            size_divisor=size_divisor,
            mixed_precision=mixed_precision,
        )
        self.trained_voxel_size_mm = voxel_size_mm

    def forward(
        self,
        image: Tensor,
        voxel_size_mm: Tensor | None = None,
        b0_direction: Tensor | None = None,
        relaxivity_weights: Tensor | None = None,
    ) -> Tensor:
        """Invert the dipole.

        Args:
            image: (B, 3, X, Y, Z); its local field (ppm) and mask are used.
            voxel_size_mm: (B, 3) in mm, or None; only the voxel size of the training data is accepted.
            b0_direction: (B, 3) unit vectors in voxel axes, or None; only +z is accepted.
            relaxivity_weights: of no effect; every method takes it.

        Returns:
            chi_total in ppm, (B, 1, X, Y, Z).

        Raises:
            ValueError: a geometry that the network was not trained for.
        """
        voxel_size_mm, b0_direction = default_geometry(image, voxel_size_mm, b0_direction)
        check_trained_geometry("QsmNet", self.trained_voxel_size_mm, voxel_size_mm, b0_direction)
        field, _, mask = split_image(image.float())
        return self.mapping(field, mask)
