"""The two sources as maps: their total, the sign convention of other tools, and the parts of a prediction."""

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import convert_to_tensor
from torch import Tensor

from custom_transforms.keys import CHI_DIA, CHI_PARA, CHI_TOTAL, PRED

from .base import InvertibleMapTransform, image_name, to_float_tensor

SD_SUFFIX = "_sd"
"""What is appended to the name of a map for that of its standard deviation."""


class TotalSusceptibilityd(MapTransform):
    """Write the total susceptibility, chi_total = chi_para - chi_dia, (1, X, Y, Z) in ppm."""

    def __init__(
        self, *, chi_para_key: str = CHI_PARA, chi_dia_key: str = CHI_DIA, chi_total_key: str = CHI_TOTAL
    ) -> None:
        super().__init__((chi_para_key, chi_dia_key))
        self.chi_total_key = chi_total_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the total."""
        result = dict(data)
        chi_para, chi_dia = (result[key] for key in self.key_iterator(result))
        para = to_float_tensor(chi_para)
        result[self.chi_total_key] = para - convert_to_tensor(chi_dia, track_meta=False, device=para.device)
        return result


class SplitSourcesd(MapTransform):
    """Split a prediction (2, X, Y, Z) into chi_para, chi_dia and chi_total, each (1, X, Y, Z) in ppm.

    Of a prediction with standard deviations, (4, X, Y, Z), these go to the keys of their sources with "_sd" behind.

    Args:
        keys: key of the prediction.
        chi_para_key: key that chi_para is written to.
        chi_dia_key: key that chi_dia is written to.
        chi_total_key: key that chi_para - chi_dia is written to.
    """

    def __init__(
        self,
        keys: str = PRED,
        *,
        chi_para_key: str = CHI_PARA,
        chi_dia_key: str = CHI_DIA,
        chi_total_key: str = CHI_TOTAL,
    ) -> None:
        super().__init__(keys)
        self.total = TotalSusceptibilityd(
            chi_para_key=chi_para_key, chi_dia_key=chi_dia_key, chi_total_key=chi_total_key
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the maps.

        Raises:
            ValueError: wrong shape.
        """
        result = dict(data)
        chi_para_key, chi_dia_key = self.total.keys
        for key in self.key_iterator(result):
            maps = to_float_tensor(result[key])
            if maps.ndim != 4 or maps.shape[0] not in (2, 4):
                raise ValueError(
                    f"{key} must have shape (2, X, Y, Z), or 4 channels with standard deviations, "
                    f"got {tuple(maps.shape)}; decollate a batch first"
                )
            names = [chi_para_key, chi_dia_key, f"{chi_para_key}{SD_SUFFIX}", f"{chi_dia_key}{SD_SUFFIX}"]
            result |= {name: maps[i : i + 1] for i, name in enumerate(names[: len(maps)])}
        return self.total(result)


class SignedDiamagnetic(InvertibleTransform):
    """Convert chi_dia of other tools, stored <= 0, to the non-negative magnitude used here, and back by the inverse.

        chi_dia = max(-chi_dia_signed, 0)

    Small positive values, which unconstrained tools leave, become 0.
    """

    def __call__(self, chi_dia_signed: NdarrayOrTensor) -> Tensor:
        """Convert a map (1, X, Y, Z), <= 0, ppm, to its magnitude.

        Raises:
            ValueError: the map is positive on average, so it is a magnitude already.
        """
        signed = to_float_tensor(chi_dia_signed)
        if signed.mean() > 0:
            name = image_name("chi_dia", chi_dia_signed)
            raise ValueError(
                f"{name} must be <= 0, but its mean is positive; leave out SignedDiamagnetic for magnitudes"
            )
        return (-signed).clamp(min=0)

    def inverse(self, chi_dia: NdarrayOrTensor) -> Tensor:
        """Convert a magnitude (1, X, Y, Z), >= 0, ppm, to the signed map."""
        return -to_float_tensor(chi_dia)


class SignedDiamagneticd(InvertibleMapTransform):
    """Dictionary form of :class:`SignedDiamagnetic`."""

    def __init__(self, keys: KeysCollection = CHI_DIA, *, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, SignedDiamagnetic(), allow_missing_keys=allow_missing_keys)
