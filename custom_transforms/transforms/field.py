"""Local field: bring it to ppm of B0 (local-phase normalisation), and scale images by constants."""

from collections.abc import Sequence
from typing import Literal

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import InvertibleTransform
from torch import Tensor

from custom_transforms.keys import LOCAL_FIELD
from custom_transforms.physics import field_ppm_to_phase_rad, hz_per_ppm

from .base import InvertibleMapTransform, to_float_tensor

FieldUnit = Literal["ppm", "hz", "rad"]


def _unit_per_ppm(unit: FieldUnit, b0_tesla: float | None, echo_time_s: float | None) -> float:
    if unit == "ppm":
        return 1.0
    if unit not in ("hz", "rad"):
        raise ValueError(f"the unit of a local field must be ppm, hz or rad, got {unit!r}")
    if b0_tesla is None:
        raise ValueError(f"a local field in {unit} needs b0_tesla, the scanner's field strength, e.g. 3.0")
    if unit == "hz":
        return hz_per_ppm(b0_tesla)
    if echo_time_s is None:
        raise ValueError("a local field in rad needs echo_time_s, the echo time in seconds, e.g. 0.02")
    return float(field_ppm_to_phase_rad(torch.ones((), dtype=torch.float64), echo_time_s, b0_tesla))


class LocalFieldToPpm(InvertibleTransform):
    """Convert a local field to ppm of B0: the normalisation of the local phase.

        f_ppm = sign f_hz / (gamma_bar B0) = sign phase_rad / (2 pi TE gamma_bar B0)

    The unit is a string because it comes from a file's metadata or from the command line. The inverse gives it back.

    Args:
        unit: "ppm", "hz", or "rad" for an unwrapped phase at one echo time.
        b0_tesla: field strength in T, needed for hz and rad.
        echo_time_s: echo time in s, needed for rad.
        sign: +1 where the values grow with the field, -1 where they fall (it depends on the vendor).

    Raises:
        ValueError: unknown unit, or a value that the unit needs is missing or wrong.
    """

    def __init__(
        self,
        *,
        unit: FieldUnit = "ppm",
        b0_tesla: float | None = None,
        echo_time_s: float | None = None,
        sign: int = 1,
    ) -> None:
        if sign not in (1, -1):
            raise ValueError(f"sign must be +1 or -1, got {sign}; it says whether the values grow with the field")
        self._scale = sign * _unit_per_ppm(unit, b0_tesla, echo_time_s)

    def __call__(self, field: NdarrayOrTensor) -> Tensor:
        """Convert a field (1, X, Y, Z) in the unit to ppm of B0."""
        return to_float_tensor(field) / self._scale

    def inverse(self, field_ppm: NdarrayOrTensor) -> Tensor:
        """Convert a field (1, X, Y, Z) in ppm of B0 back to the unit."""
        return to_float_tensor(field_ppm) * self._scale


class LocalFieldToPpmd(InvertibleMapTransform):
    """Dictionary form of :class:`LocalFieldToPpm`."""

    def __init__(
        self,
        keys: KeysCollection = LOCAL_FIELD,
        *,
        unit: FieldUnit = "ppm",
        b0_tesla: float | None = None,
        echo_time_s: float | None = None,
        sign: int = 1,
        allow_missing_keys: bool = False,
    ) -> None:
        transform = LocalFieldToPpm(unit=unit, b0_tesla=b0_tesla, echo_time_s=echo_time_s, sign=sign)
        super().__init__(keys, transform, allow_missing_keys=allow_missing_keys)


class Normalise(InvertibleTransform):
    """Scale by constants, never by the image's own statistics, as the maps are quantitative.

        y = (x - mean) / std

    Args:
        mean: one value, or one for each channel, in the unit of the image.
        std: likewise, positive.

    Raises:
        ValueError: a standard deviation is not positive.
    """

    def __init__(self, *, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        self.mean = torch.as_tensor(mean, dtype=torch.float64).reshape(-1, 1, 1, 1)
        self.std = torch.as_tensor(std, dtype=torch.float64).reshape(-1, 1, 1, 1)
        if not bool((self.std > 0).all()):
            raise ValueError(f"std must be positive, got {std}; give the standard deviation of the training data")

    def __call__(self, image: NdarrayOrTensor) -> Tensor:
        """Scale an image (C, X, Y, Z) to mean 0 and standard deviation 1 of the population."""
        x = to_float_tensor(image)
        return (x - self.mean.to(x.device, x.dtype)) / self.std.to(x.device, x.dtype)

    def inverse(self, image: NdarrayOrTensor) -> Tensor:
        """Give an image (C, X, Y, Z) its unit back."""
        y = to_float_tensor(image)
        return y * self.std.to(y.device, y.dtype) + self.mean.to(y.device, y.dtype)


class Normalised(InvertibleMapTransform):
    """Dictionary form of :class:`Normalise`."""

    def __init__(
        self,
        keys: KeysCollection,
        *,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, Normalise(mean=mean, std=std), allow_missing_keys=allow_missing_keys)
