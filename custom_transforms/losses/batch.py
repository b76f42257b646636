"""What the trainer hands to a loss that knows the physics: the label with the measurements and their geometry."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines import PrepareBatchExtraInput
from torch import Tensor

from custom_transforms.keys import GEOMETRY, IMAGE, LABEL


class PrepareMeasuredBatch(PrepareBatchExtraInput):
    """Give the network image and geometry, and the loss a dictionary of label, image and geometry.

    MONAI's trainer calls ``loss(prediction, target)`` and nothing more, so the target carries the rest: its keys are
    "label", "image", "voxel_size_mm", "b0_direction" and "relaxivity_weights". In a config it is the ``prepare_batch``
    of the trainer alone, ``train#trainer#prepare_batch``: the metrics of the evaluator want the plain label.
    """

    def __init__(self) -> None:
        super().__init__({name: name for name in GEOMETRY})

    def __call__(  # type: ignore[override]  # the label is a dictionary
        self,
        batchdata: dict[str, Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Tensor], tuple, dict[str, Tensor]]:
        """Give image, target, no positional and the geometry as keyword arguments of the network."""
        image, label, args, geometry = super().__call__(batchdata, device, non_blocking, **kwargs)
        return image, {LABEL: label, IMAGE: image, **geometry}, args, geometry
