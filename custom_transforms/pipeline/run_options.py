"""How `chisep run` processes its scans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from custom_transforms.options import Settings, choose_relaxivities
from custom_transforms.transforms.reference import Reference


@dataclass(frozen=True)
class RunOptions:
    """How scans are processed; it can be sent to another process.

    Args:
        preprocessing: settings of preprocess.json, under its own names.
        variant: of the separation, or None for the default of the maps at hand.
        relaxivity: Dr of both sources in 1/s/ppm, or None for the default at the field strength.
        relaxivity_para: that of paramagnetic sources alone.
        relaxivity_dia: that of diamagnetic sources alone.
        reference: zero of chi_total.
        uncertainty: write standard deviations.
        refine: remove the background and separate the sources a second time, given the sources of the first.
        regions: register the template and write a table of regions.
        device: auto, cpu, cuda, ...
        force: warn of implausible values instead of refusing them.
        keep_work: leave the cache of a scan that is done.
        verbose: write a line for each stage.
    """

    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    variant: str | None = None
    relaxivity: float | None = None
    relaxivity_para: float | None = None
    relaxivity_dia: float | None = None
    reference: Reference = "none"
    uncertainty: bool = False
    refine: bool = True
    regions: bool = True
    device: str = "auto"
    force: bool = False
    keep_work: bool = False
    verbose: bool = False

    def settings(self, b0_tesla: float) -> Settings:
        """Give the settings of the separation at a field strength."""
        para, dia = choose_relaxivities(self.relaxivity, self.relaxivity_para, self.relaxivity_dia, b0_tesla)
        direction = self.preprocessing.get("b0_direction")
        given = None if direction is None else list(direction)
        return Settings("ppm", 1, None, "per_s", b0_tesla, para, dia, given, self.reference)
