"""Mask: make it binary, and apply it to maps."""

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_tensor
from torch import Tensor

from custom_transforms.keys import MASK

from .base import image_name, to_float_tensor


class Mask(Transform):
    """Binarise a mask: 1 where it is above the threshold, 0 elsewhere (NaN included).

    Args:
        threshold: in the unit of the mask; 0.5 suits binary masks and probabilities.
    """

    def __init__(self, *, threshold: float = 0.5) -> None:
        self.threshold = threshold

    def __call__(self, mask: NdarrayOrTensor) -> Tensor:
        """Binarise.

        Args:
            mask: (1, X, Y, Z).

        Returns:
            (1, X, Y, Z), 0 or 1, float.

        Raises:
            ValueError: no voxel is inside.
        """
        tensor = to_float_tensor(mask)
        inside = (tensor > self.threshold).to(tensor.dtype)
        if not inside.any():
            name = image_name("mask", mask)
            raise ValueError(f"{name} is empty: no voxel is above {self.threshold}; give a mask with 1 in the brain")
        return inside


class Maskd(MapTransform):
    """Dictionary form of :class:`Mask`."""

    def __init__(
        self, keys: KeysCollection = MASK, *, threshold: float = 0.5, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = Mask(threshold=threshold)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Binarise each mask."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key])
        return result


class ApplyMask(Transform):
    """Keep a map inside the mask and set it to exactly 0 outside, NaN and infinity included."""

    def __call__(  # type: ignore[override]  # two maps go in
        self, image: NdarrayOrTensor, mask: NdarrayOrTensor, *, name: str = "image"
    ) -> Tensor:
        """Apply the mask.

        Args:
            image: (C, X, Y, Z), any unit.
            mask: (1, X, Y, Z), 0 or 1.
            name: how errors call the image.

        Returns:
            The image inside the mask, (C, X, Y, Z), same unit.

        Raises:
            ValueError: the shapes differ, or a voxel inside the mask is not finite.
        """
        tensor = to_float_tensor(image)
        inside = convert_to_tensor(mask, track_meta=False, device=tensor.device) > 0
        if tensor.shape[1:] != inside.shape[1:]:
            raise ValueError(
                f"{name} has spatial shape {tuple(tensor.shape[1:])} and its mask {tuple(inside.shape[1:])}; "
                "resample one to the other"
            )
        masked = tensor.where(inside, 0.0)
        invalid = int((~masked.isfinite()).sum())
        if invalid:
            raise ValueError(
                f"{name} has {invalid} NaN or infinite values inside the mask; "
                "take these voxels out of the mask or fill them"
            )
        return masked


class ApplyMaskd(MapTransform):
    """Dictionary form of :class:`ApplyMask`; errors name the key and the file."""

    def __init__(self, keys: KeysCollection, *, mask_key: str = MASK, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key = mask_key
        self.transform = ApplyMask()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply the mask to each map."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key], result[self.mask_key], name=image_name(key, result[key]))
        return result
