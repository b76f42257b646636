"""Reversible transverse relaxation: R2' from R2* and R2, and its scaling to ppm."""

from collections.abc import Hashable, Mapping
from typing import Any, Literal

from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import InvertibleTransform, MapTransform, Transform
from monai.utils import convert_to_tensor
from torch import Tensor

from custom_transforms.keys import R2, R2PRIME, R2STAR
from custom_transforms.physics import r2prime_per_s_to_ppm, r2prime_ppm_to_per_s
from custom_transforms.relaxometry import r2prime_from_r2star

from .base import InvertibleMapTransform, image_name, to_float_tensor

RateUnit = Literal["per_s", "per_ms"]

_PER_S = {"per_s": 1.0, "per_ms": 1000.0}


class R2Prime(Transform):
    """Subtract the irreversible relaxation: R2' = max(R2* - R2, 0)."""

    def __call__(  # type: ignore[override]  # two maps go in
        self, r2star_per_s: NdarrayOrTensor, r2_per_s: NdarrayOrTensor
    ) -> Tensor:
        """Subtract.

        Args:
            r2star_per_s: (1, X, Y, Z), R2* in 1/s.
            r2_per_s: (1, X, Y, Z), R2 in 1/s.

        Returns:
            R2' in 1/s, (1, X, Y, Z), with the metadata of R2*.

        Raises:
            ValueError: the shapes differ.
        """
        r2star = to_float_tensor(r2star_per_s)
        r2 = convert_to_tensor(r2_per_s, track_meta=False, dtype=r2star.dtype, device=r2star.device)
        if r2star.shape != r2.shape:
            raise ValueError(
                f"{image_name('R2*', r2star_per_s)} has shape {tuple(r2star.shape)} and "
                f"{image_name('R2', r2_per_s)} {tuple(r2.shape)}; resample R2 to the R2* map"
            )
        return r2prime_from_r2star(r2star, r2)


class R2Primed(MapTransform):
    """Dictionary form of :class:`R2Prime`; with ``allow_missing_keys`` it does nothing unless both maps are there."""

    def __init__(
        self,
        *,
        r2star_key: str = R2STAR,
        r2_key: str = R2,
        r2prime_key: str = R2PRIME,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__((r2star_key, r2_key), allow_missing_keys)
        self.r2prime_key = r2prime_key
        self.transform = R2Prime()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write R2'."""
        result = dict(data)
        maps = [result[key] for key in self.key_iterator(result)]
        if len(maps) == len(self.keys):
            result[self.r2prime_key] = self.transform(*maps)
        return result


class ScaleR2Prime(InvertibleTransform):
    """Divide R2' (or R2*) by the relaxivity, and give it back by the inverse.

        r2prime_ppm = R2' / Dr

    Args:
        relaxivity_per_s_ppm: Dr in 1/s/ppm, at the field strength of the map; with two relaxivities, their mean.
        unit: "per_s" or "per_ms", the unit of the map.

    Raises:
        ValueError: unknown unit, or a relaxivity that is not positive.
    """

    def __init__(self, *, relaxivity_per_s_ppm: float, unit: RateUnit = "per_s") -> None:
        if unit not in _PER_S:
            raise ValueError(f"the unit of R2' must be per_s or per_ms, got {unit!r}")
        if not relaxivity_per_s_ppm > 0:
            raise ValueError(f"the relaxivity must be positive, got {relaxivity_per_s_ppm}; e.g. 137 1/s/ppm at 3 T")
        self.relaxivity_per_s_ppm = relaxivity_per_s_ppm
        self._per_s = _PER_S[unit]

    def __call__(self, r2prime: NdarrayOrTensor) -> Tensor:
        """Convert R2' (1, X, Y, Z) in the unit to ppm."""
        return r2prime_per_s_to_ppm(to_float_tensor(r2prime) * self._per_s, self.relaxivity_per_s_ppm)

    def inverse(self, r2prime_ppm: NdarrayOrTensor) -> Tensor:
        """Convert R2' (1, X, Y, Z) in ppm back to the unit."""
        return r2prime_ppm_to_per_s(to_float_tensor(r2prime_ppm), self.relaxivity_per_s_ppm) / self._per_s


class ScaleR2Primed(InvertibleMapTransform):
    """Dictionary form of :class:`ScaleR2Prime`."""

    def __init__(
        self,
        keys: KeysCollection = R2PRIME,
        *,
        relaxivity_per_s_ppm: float,
        unit: RateUnit = "per_s",
        allow_missing_keys: bool = False,
    ) -> None:
        transform = ScaleR2Prime(relaxivity_per_s_ppm=relaxivity_per_s_ppm, unit=unit)
        super().__init__(keys, transform, allow_missing_keys=allow_missing_keys)
