"""Transforms for servers that hand over one file a case and the settings of a request, as MONAI Label does.

A request is data, never configuration: its values are read from the dictionary that runs through the transforms, so
that no text of a request is evaluated by a config parser.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform

from custom_transforms.keys import CHI_DIA, CHI_PARA, CHI_TOTAL, IMAGE, LOCAL_FIELD, MASK, PRED, R2PRIME
from custom_transforms.physics import hz_per_ppm, relaxivity_at

from .base import image_name, to_float_tensor
from .field import LocalFieldToPpm
from .reference import ReferenceSources
from .relaxometry import ScaleR2Prime

AUTO = "auto"
"""The relaxivity that follows from the field strength."""

SOURCES = (CHI_PARA, CHI_DIA, CHI_TOTAL)


def requested(data: Mapping[Hashable, Any], name: str, default: Any) -> Any:
    """Give a setting of a request, or the default where it is missing or empty; of a list of choices, the first."""
    value = data.get(name, default)
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    return default if value is None or value == "" else value


def _number(data: Mapping[Hashable, Any], name: str, default: float | None) -> Any:
    """Give a number of a request, or the default, which may be None."""
    value = requested(data, name, default)
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a number, got {value!r}; correct the request") from error


class SplitMapsd(MapTransform):
    """Split one volume (C, X, Y, Z) into its maps, each (1, X, Y, Z), by their order.

    The inverse of storing the maps of a case as one 4-D file. A mask that is not 0 and 1 tells of a wrong order, and is
    refused.

    Args:
        keys: key of the volume.
        names: keys of the maps, in the order of the channels.
    """

    def __init__(self, keys: KeysCollection = IMAGE, *, names: Sequence[str] = (LOCAL_FIELD, R2PRIME, MASK)) -> None:
        super().__init__(keys)
        self.names = tuple(names)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Split.

        Raises:
            ValueError: another number of channels, or a mask with other values than 0 and 1.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            volume = to_float_tensor(result[key])
            name, order = image_name(key, volume), ", ".join(self.names)
            if volume.ndim != 4 or len(volume) != len(self.names):
                raise ValueError(
                    f"{name} must be one 4-D volume of {len(self.names)} maps, got shape {tuple(volume.shape)} "
                    f"(channels first); store {order}, in this order"
                )
            result |= {map_name: volume[i : i + 1] for i, map_name in enumerate(self.names)}
            mask = result.get(MASK) if MASK in self.names else None
            if mask is not None and not ((mask == 0) | (mask == 1)).all():
                raise ValueError(f"{name}: its mask has other values than 0 and 1; store {order}, in this order")
        return result


class RequestedUnitsd(Transform):
    """Bring the local field and R2' (or R2*) of a request to ppm, by the units that the request names.

    Settings of the request, all optional: ``field_unit`` (ppm, hz, rad), ``field_sign``, ``echo_time_s``, ``rate_unit``
    (per_s, per_ms), ``b0_tesla`` and ``relaxivity_per_s_ppm`` (a number, or auto: the default, scaled with B0).

    Args:
        rate: key of R2' or R2*; None without one.
        field_unit: default of the setting of that name, as are all that follow.
        field_sign: see :class:`LocalFieldToPpm`.
        echo_time_s: in s, for rad.
        rate_unit: see :class:`ScaleR2Prime`.
        b0_tesla: in T.
        relaxivity_per_s_ppm: in 1/s/ppm at that ``b0_tesla``; that of :func:`relaxivity_at` if not given.
    """

    def __init__(
        self,
        *,
        rate: str | None = R2PRIME,
        field_unit: str = "ppm",
        field_sign: int = 1,
        echo_time_s: float | None = None,
        rate_unit: str = "per_s",
        b0_tesla: float = 3.0,
        relaxivity_per_s_ppm: float | None = None,
    ) -> None:
        self.rate = rate
        self.field_unit, self.field_sign, self.echo_time_s = field_unit, field_sign, echo_time_s
        self.rate_unit, self.b0_tesla = rate_unit, b0_tesla
        self.relaxivity_per_s_ppm = relaxivity_at(b0_tesla) if relaxivity_per_s_ppm is None else relaxivity_per_s_ppm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Convert both maps.

        Raises:
            ValueError: a setting is unknown, missing or no number.
        """
        b0_tesla = _number(data, "b0_tesla", self.b0_tesla)
        to_ppm = LocalFieldToPpm(
            unit=requested(data, "field_unit", self.field_unit),
            b0_tesla=b0_tesla,
            echo_time_s=_number(data, "echo_time_s", self.echo_time_s),
            sign=_number(data, "field_sign", self.field_sign),
        )
        result = {**data, LOCAL_FIELD: to_ppm(data[LOCAL_FIELD])}
        if self.rate is not None:
            unit = requested(data, "rate_unit", self.rate_unit)
            result[self.rate] = ScaleR2Prime(relaxivity_per_s_ppm=self._relaxivity(data), unit=unit)(data[self.rate])
        return result

    def _relaxivity(self, data: Mapping[Hashable, Any]) -> float:
        """Dr of the request, in 1/s/ppm."""
        name = "relaxivity_per_s_ppm"
        if requested(data, name, AUTO) == AUTO:
            b0_tesla = _number(data, "b0_tesla", self.b0_tesla)
            return self.relaxivity_per_s_ppm * hz_per_ppm(b0_tesla) / hz_per_ppm(self.b0_tesla)
        return _number(data, name, self.relaxivity_per_s_ppm)


class RequestedSourced(MapTransform):
    """Replace a prediction (2, X, Y, Z) by the one map that a request asks for, (1, X, Y, Z) in ppm.

    Settings of the request, both optional: ``source`` (chi_para, chi_dia, chi_total) and ``reference`` (none, csf,
    brain).

    Args:
        keys: key of the prediction.
        source: default of the setting of that name.
        reference: likewise; see :class:`ReferenceSources`.
        mask_key: key of the mask.
    """

    def __init__(
        self,
        keys: KeysCollection = PRED,
        *,
        source: str = CHI_PARA,
        reference: str = "none",
        mask_key: str = MASK,
    ) -> None:
        super().__init__(keys)
        self.source, self.reference, self.mask_key = source, reference, mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Choose the map.

        Raises:
            ValueError: unknown source or reference.
        """
        result = dict(data)
        source = requested(result, "source", self.source)
        if source not in SOURCES:
            raise ValueError(f"source must be one of {', '.join(SOURCES)}, got {source!r}")
        reference = ReferenceSources(reference=requested(result, "reference", self.reference))
        for key in self.key_iterator(result):
            para, dia = reference(result[key], result[self.mask_key])[:2].split(1)
            result[key] = {CHI_PARA: para, CHI_DIA: dia, CHI_TOTAL: para - dia}[source]
        return result
