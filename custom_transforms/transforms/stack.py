"""From maps to the image that every method takes."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Transform

from custom_transforms.keys import IMAGE, LOCAL_FIELD, MAGNITUDE, MASK, R2PRIME
from custom_transforms.relaxometry import combine_echoes

from .base import to_float_tensor


def _is_read(data: Mapping[Hashable, Any], key: str) -> bool:
    """Say whether a map is there, and not its path alone: a data list may name more files than a method takes."""
    return key in data and not isinstance(data[key], str | Path)


class StackMapsd(Transform):
    """Make the image of its maps: local field, R2'/Dr or R2*/Dr, mask, and the magnitude if there is one.

    Without a rate, as for dipole inversion alone, its channel is zero. The magnitude of several echoes is the root of
    the sum of their squares.

    Args:
        rate: key of R2'/Dr or R2*/Dr.
    """

    def __init__(self, *, rate: str = R2PRIME) -> None:
        self.rate = rate

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Stack local_field, rate and mask, (1, X, Y, Z), and magnitude, (E, X, Y, Z), to image (3 or 4, X, Y, Z)."""
        field, mask = to_float_tensor(data[LOCAL_FIELD]), to_float_tensor(data[MASK])
        rate = to_float_tensor(data[self.rate]) if _is_read(data, self.rate) else torch.zeros_like(field)
        channels = [field, rate, mask]
        if _is_read(data, MAGNITUDE):
            channels.append(combine_echoes(to_float_tensor(data[MAGNITUDE])))
        return {**data, IMAGE: torch.cat(channels)}
