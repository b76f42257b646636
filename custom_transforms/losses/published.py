r"""The losses of QSMnet and chi-sepnet, with their published terms and weights.

    QSMnet      |z - z_label| + 0.1 gradient(z) + |f - D chi|
    chi-sepnet  |z - z_label| + 0.1 gradient(z) + |f - D q| + |chi_QSMnet - q| + |R2'/Dr - R|

with q = chi_para - chi_dia, R = w_para chi_para + w_dia chi_dia and |.| the mean over the volume, 0 outside the mask.
The label terms act on maps scaled by constants of the training set, z = m (chi - mean) / std, the model terms on ppm.
The constants are those of the network: its own :class:`custom_transforms.networks.z_score.ZScore` is handed over.

References:
    Yoon 2018, doi:10.1016/j.neuroimage.2018.06.030 (QSMnet); Kim 2025, doi:10.48550/arXiv.2409.14030 (chi-sepnet).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from custom_transforms.keys import B0_DIRECTION, IMAGE, LABEL, RELAXIVITY_WEIGHTS, VOXEL_SIZE_MM, split_image
from custom_transforms.losses.terms import FieldModelLoss, gradient_loss
from custom_transforms.networks.z_score import ZScore
from custom_transforms.physics import combine_sources

Target = Mapping[str, Tensor]
"""What :class:`custom_transforms.losses.PrepareMeasuredBatch` gives: label, image (ppm) and the geometry."""


def _check(target: Target) -> None:
    if not isinstance(target, Mapping):
        raise ValueError(
            f"the target must be a dictionary, got {type(target).__name__}; train with PrepareMeasuredBatch"
        )


def _label_terms(scale: ZScore, pred: Tensor, label: Tensor, target: Target) -> dict[str, Tensor]:
    """L1 and 26-neighbour gradient of the error in standard deviations of the training set."""
    mask = split_image(target[IMAGE])[2]
    z, z_label = (mask * scale(chi) for chi in (pred, label))
    return {"l1": (z - z_label).abs().mean(), "gradient": gradient_loss(z, z_label, target.get(VOXEL_SIZE_MM))}


class QsmnetLoss(nn.Module):
    """Loss of QSMnet, for a network that gives the total susceptibility, or sources whose difference it is.

    Args:
        scale: constants of chi_total in the training set.
        l1_weight: weight of the L1 term.
        gradient_weight: weight of the gradient term.
        field_weight: weight of the field model.
        padding: see :class:`FieldModelLoss`.
        rim_voxels: see :class:`FieldModelLoss`.
    """

    def __init__(
        self,
        *,
        scale: ZScore,
        l1_weight: float = 1.0,
        gradient_weight: float = 0.1,
        field_weight: float = 1.0,
        padding: float = 0.5,
        rim_voxels: int = 0,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.field_model = FieldModelLoss(padding=padding, rim_voxels=rim_voxels)
        self.weights = {"l1": l1_weight, "gradient": gradient_weight, "field": field_weight}

    def terms(self, pred: Tensor, target: Target) -> dict[str, Tensor]:
        """Give the terms before weighting, by name; the arguments are those of :meth:`forward`."""
        _check(target)
        q, label = (combine_sources(chi)[0] if chi.shape[1] == 2 else chi for chi in (pred, target[LABEL]))
        field, _, mask = split_image(target[IMAGE])
        geometry = target.get(VOXEL_SIZE_MM), target.get(B0_DIRECTION)
        return {
            **_label_terms(self.scale, q, label, target),
            "field": self.field_model(q, field, mask, *geometry),
        }

    def forward(self, pred: Tensor, target: Target) -> Tensor:
        """Compare with label and measurement.

        Args:
            pred: chi_total, (B, 1, X, Y, Z) in ppm, or chi_para and chi_dia, (B, 2, X, Y, Z).
            target: label, (B, 2, X, Y, Z) with chi_para and chi_dia or (B, 1, X, Y, Z) with chi_total in ppm, image
                (B, 3, X, Y, Z) and, if there, voxel_size_mm and b0_direction, (B, 3) each.

        Returns:
            Scalar loss.
        """
        return _weighted(self.terms(pred, target), self.weights)


class ChiSepLoss(nn.Module):
    """Loss of chi-sepnet, for a network that gives both sources.

    Args:
        scale: constants of chi_para and chi_dia in the training set.
        susceptibility: the frozen method (image, voxel_size_mm, b0_direction) to chi_total (B, 1, X, Y, Z) in ppm,
            the same that the network has; it runs once more here. None leaves the QSM model out.
        l1_weight: weight of the L1 term.
        gradient_weight: weight of the gradient term.
        field_weight: weight of the field model.
        qsm_weight: weight of the QSM model.
        r2prime_weight: weight of the R2' model; 0 where the image holds R2* in its place.
        padding: see :class:`FieldModelLoss`.
        rim_voxels: see :class:`FieldModelLoss`.
    """

    def __init__(
        self,
        *,
        scale: ZScore,
        susceptibility: nn.Module | None = None,
        l1_weight: float = 1.0,
        gradient_weight: float = 0.1,
        field_weight: float = 1.0,
        qsm_weight: float = 1.0,
        r2prime_weight: float = 1.0,
        padding: float = 0.5,
        rim_voxels: int = 0,
    ) -> None:
        super().__init__()
        self.susceptibility = susceptibility
        self.scale = scale
        self.field_model = FieldModelLoss(padding=padding, rim_voxels=rim_voxels)
        self.weights = {
            "l1": l1_weight,
            "gradient": gradient_weight,
            "field": field_weight,
            "qsm": qsm_weight,
            "r2prime": r2prime_weight,
        }

    def terms(self, pred: Tensor, target: Target) -> dict[str, Tensor]:
        """Give the terms before weighting, by name; the arguments are those of :meth:`forward`."""
        _check(target)
        image, geometry = target[IMAGE], (target.get(VOXEL_SIZE_MM), target.get(B0_DIRECTION))
        field, r2prime, mask = split_image(image)
        q, r2prime_model = combine_sources(pred, target.get(RELAXIVITY_WEIGHTS))
        terms = {
            **_label_terms(self.scale, pred, target[LABEL], target),
            "field": self.field_model(q, field, mask, *geometry),
            "r2prime": (mask * (r2prime - r2prime_model)).abs().mean(),
        }
        if self.susceptibility is not None:
            with torch.no_grad():
                chi_total = self.susceptibility(image, *geometry)
            terms["qsm"] = (mask * (chi_total - q)).abs().mean()
        return terms

    def forward(self, pred: Tensor, target: Target) -> Tensor:
        """Compare with label and measurements.

        Args:
            pred: chi_para and chi_dia, (B, 2, X, Y, Z) in ppm.
            target: label (B, 2, X, Y, Z) and image (B, 3, X, Y, Z) in ppm and, if there, voxel_size_mm (B, 3),
                b0_direction (B, 3) and relaxivity_weights (B, 2).

        Returns:
            Scalar loss.
        """
        return _weighted(self.terms(pred, target), self.weights)


def _weighted(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()
