"""Maps as the report shows them: what they are called, their units and their windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from custom_transforms import keys
from custom_transforms.report.figures import WINDOWS_PPM
from custom_transforms.transforms.sources import SD_SUFFIX

Window = tuple[float, float]

FIELD_RESIDUAL = "field_residual"  # ppm
RATE_RESIDUAL = "rate_residual"  # ppm

_PERCENTILES = (0.5, 99.5)


class Appearance(NamedTuple):
    """How a kind of map is shown.

    Attributes:
        title: its name, short enough to stand above a small picture.
        about: what it is; empty if the title says it.
        unit: of its values; empty if they have none.
        window: values that are black and white, or None for what the map itself holds.
        in_viewer: whether it is worth its bytes in the 3-D viewer.
    """

    title: str
    about: str
    unit: str
    window: Window | None
    in_viewer: bool = True


APPEARANCES = {
    keys.MAGNITUDE: Appearance("Magnitude", "", "", None),
    keys.FIELD_QUALITY: Appearance("Field quality", "agreement of the echoes", "", (0.0, 1.0), in_viewer=False),
    keys.TOTAL_FIELD: Appearance("Total field", "with that of the background", "ppm", None),
    keys.LOCAL_FIELD: Appearance("Local field", "of the sources in the mask", "ppm", (-0.05, 0.05)),
    keys.R2STAR: Appearance("R2*", "", "1/s", (0.0, 50.0)),
    keys.R2: Appearance("R2", "", "1/s", (0.0, 30.0)),
    keys.R2PRIME: Appearance("R2'", "R2* - R2", "1/s", (0.0, 20.0)),
    keys.CHI_PARA: Appearance("chi_para", "paramagnetic sources", "ppm", WINDOWS_PPM[keys.CHI_PARA]),
    keys.CHI_DIA: Appearance("chi_dia", "diamagnetic sources, as a magnitude", "ppm", WINDOWS_PPM[keys.CHI_DIA]),
    keys.CHI_TOTAL: Appearance("chi_total", "chi_para - chi_dia", "ppm", WINDOWS_PPM[keys.CHI_TOTAL]),
    f"{keys.CHI_PARA}{SD_SUFFIX}": Appearance("SD of chi_para", "in each voxel", "ppm", (0.0, 0.02), in_viewer=False),
    f"{keys.CHI_DIA}{SD_SUFFIX}": Appearance("SD of chi_dia", "in each voxel", "ppm", (0.0, 0.02), in_viewer=False),
    FIELD_RESIDUAL: Appearance("Field residual", "local field - D(chi_total)", "ppm", (-0.02, 0.02), in_viewer=False),
    RATE_RESIDUAL: Appearance("R2' residual", "R2'/Dr - (chi_para + chi_dia)", "ppm", (-0.05, 0.05), in_viewer=False),
}
"""The windows of the report, in one place: those in which the field shows its maps, for 3 T."""


@dataclass(frozen=True)
class MapForReport:
    """A map and how it is shown.

    Attributes:
        values: (X, Y, Z) on the grid of the mask; what is not finite is shown as black.
        title: heading, also above its histogram and in the viewer.
        unit: of the values and the window; empty if they have none.
        window: values that are black and white; None for the 0.5th to 99.5th percentile in the mask, symmetric about
            zero if there are values of both signs.
        about: what it is, beside the heading.
        note: what is special about it in this report, such as "predicted from R2*".
        in_viewer: show it in the 3-D viewer, too.
    """

    values: NDArray
    title: str
    unit: str = ""
    window: Window | None = None
    about: str = ""
    note: str = ""
    in_viewer: bool = True

    def __post_init__(self) -> None:
        if self.values.ndim != 3:
            raise ValueError(f"expected the map {self.title!r} as (X, Y, Z), got {self.values.shape}; squeeze it")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError(f"expected a window (low, high) for {self.title!r}, got {self.window}")

    @classmethod
    def named(cls, name: str, values: ArrayLike, *, note: str = "") -> MapForReport:
        """Show a map (X, Y, Z) as :data:`APPEARANCES` says of its name.

        Raises:
            ValueError: there is no such name.
        """
        if name not in APPEARANCES:
            raise ValueError(f"expected one of {', '.join(APPEARANCES)}, got {name!r}; make a MapForReport of it")
        shown = APPEARANCES[name]
        return cls(
            np.asarray(values),
            shown.title,
            unit=shown.unit,
            window=shown.window,
            about=shown.about,
            note=note,
            in_viewer=shown.in_viewer,
        )

    def window_in(self, mask: NDArray) -> Window:
        """Give the window, or find it inside a mask (X, Y, Z)."""
        if self.window is not None:
            return self.window
        inside = self.values[(mask > 0.5) & np.isfinite(self.values)]
        if inside.size == 0:
            return 0.0, 1.0
        low, high = (float(value) for value in np.percentile(inside, _PERCENTILES))
        if low >= 0:
            return 0.0, high or 1.0
        bound = max(-low, abs(high))
        return -bound, bound
