"""What the transforms share: float tensors, names in errors, the dictionary form of an invertible transform."""

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor, get_track_meta
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import ImageMetaKey, convert_to_dst_type, convert_to_tensor
from torch import Tensor


def to_float_tensor(image: NdarrayOrTensor) -> Tensor:
    """Convert an array to a float tensor (float32, or float64 where it is that already) and keep its metadata."""
    tensor: Tensor = convert_to_tensor(image, track_meta=get_track_meta())
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def with_meta_of(tensor: Tensor, reference: Tensor) -> Tensor:
    """Give ``tensor`` the metadata of ``reference``, if that has any; dtype and device are the tensor's."""
    return convert_to_dst_type(tensor, reference, dtype=tensor.dtype, device=tensor.device)[0]


def image_name(key: Hashable, image: Any) -> str:
    """Name an image in an error message: its key, and its file where the metadata knows it."""
    file = image.meta.get(ImageMetaKey.FILENAME_OR_OBJ) if isinstance(image, MetaTensor) else None
    return f"{key} ({file})" if file else str(key)


class InvertibleMapTransform(MapTransform, InvertibleTransform):
    """Apply an invertible array transform, and its inverse, to each key.

    The inverse needs the transform's constants only, so nothing is written to the history of a tensor: it also works on
    a tensor that has none, such as a prediction.

    Args:
        keys: keys of the maps.
        transform: the array transform.
        allow_missing_keys: skip absent keys instead of raising.
    """

    def __init__(
        self, keys: KeysCollection, transform: InvertibleTransform, *, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = transform

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply the transform to each key."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key])
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Undo the transform on each key."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform.inverse(result[key])
        return result
