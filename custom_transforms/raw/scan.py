"""One scan as it came from the scanner: which files it has, and what is known of its acquisition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from custom_transforms import keys
from custom_transforms.checks import InputError

from .headers import vendor_of

MAPS = (
    keys.MASK,
    keys.R2,
    keys.R2STAR,
    keys.R2PRIME,
    keys.TOTAL_FIELD,
    keys.LOCAL_FIELD,
    keys.UNWRAPPED_PHASE,
)
"""Maps that users bring instead of having them made."""


@dataclass(frozen=True, kw_only=True)
class RawScan:
    """The files of one scan, and its acquisition.

    Attributes:
        name: such as "sub-01_ses-02", with acq- and run- where they tell scans apart.
        magnitude: one file an echo, or one file with all echoes; any unit.
        phase: likewise, in the unit of the scanner.
        real: likewise, instead of magnitude and phase.
        imaginary: likewise.
        echo_times_s: of the echoes in s; empty if unknown.
        phase_echo_times_s: of the phase where its sidecars have their own; empty if they do not.
        b0_tesla: main field in T, None if unknown.
        vendor: "GE", "Siemens", "Philips", "Canon", "UIH", or None.
        spin_echo: magnitude of spin echoes, as for ``magnitude``.
        spin_echo_times_s: their echo times in s.
        maps: the user's own maps, files by key of :data:`MAPS`.
        sidecar_orientation: ImageOrientationPatientDICOM, two unit vectors in LPS+, or None.
        notes: what the user should read.
    """

    name: str
    magnitude: tuple[str, ...] = ()
    phase: tuple[str, ...] = ()
    real: tuple[str, ...] = ()
    imaginary: tuple[str, ...] = ()
    echo_times_s: tuple[float, ...] = ()
    phase_echo_times_s: tuple[float, ...] = ()
    b0_tesla: float | None = None
    vendor: str | None = None
    spin_echo: tuple[str, ...] = ()
    spin_echo_times_s: tuple[float, ...] = ()
    maps: Mapping[str, str] = field(default_factory=dict)
    sidecar_orientation: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()

    def with_settings(
        self,
        *,
        echo_times_s: Sequence[float] | float | None = None,
        b0_tesla: float | None = None,
        vendor: str | None = None,
        spin_echo_times_s: Sequence[float] | float | None = None,
        maps: Mapping[str, str] | None = None,
    ) -> RawScan:
        """Give the scan with what the user says instead of what its files say.

        Args:
            echo_times_s: in s, in the order of the files.
            b0_tesla: main field in T.
            vendor: one of :data:`VENDORS`, in any case.
            spin_echo_times_s: in s, in the order of the files.
            maps: files by key of :data:`MAPS`; they replace those of the scan.

        Raises:
            InputError: a vendor or a map of another name.
        """
        changes: dict[str, object] = {}
        if echo_times_s is not None:
            changes |= {"echo_times_s": as_times(echo_times_s), "phase_echo_times_s": ()}
        if spin_echo_times_s is not None:
            changes["spin_echo_times_s"] = as_times(spin_echo_times_s)
        if b0_tesla is not None:
            changes["b0_tesla"] = float(b0_tesla)
        if vendor is not None:
            changes["vendor"] = _known_vendor(vendor)
        return replace(self, maps={**self.maps, **check_map_names(maps or {})}, **changes)  # type: ignore[arg-type]


def as_times(times: Sequence[float] | float) -> tuple[float, ...]:
    """Give one time or several as a tuple of floats.

    Raises:
        InputError: something else.
    """
    listed = times if isinstance(times, Sequence) and not isinstance(times, str) else [times]
    try:
        return tuple(float(time) for time in listed)
    except (TypeError, ValueError) as error:
        raise InputError(f"echo times must be numbers in s, got {times!r}; e.g. 0.004,0.008") from error


def _known_vendor(vendor: str) -> str:
    name = vendor_of(vendor)
    if name is None:
        raise InputError(f"the vendor {vendor!r} is not known; give one of GE, Siemens, Philips, Canon, UIH")
    return name


def check_map_names(maps: Mapping[str, str]) -> dict[str, str]:
    """Refuse maps that no step knows.

    Raises:
        InputError: a key that is not in :data:`MAPS`.
    """
    unknown = [key for key in maps if key not in MAPS]
    if unknown:
        raise InputError(f"there is no map called {', '.join(unknown)}; maps are {', '.join(MAPS)}")
    return dict(maps)
