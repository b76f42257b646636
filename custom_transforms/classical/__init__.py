"""Conventional methods, as modules with the same call as the networks, and the maker of labels, COSMOS."""

from .closed_form import ClosedFormSeparation, SusceptibilitySeparation, TikhonovSusceptibility
from .cosmos import cosmos, non_negative_sources

__all__ = [
    "ClosedFormSeparation",
    "SusceptibilitySeparation",
    "TikhonovSusceptibility",
    "cosmos",
    "non_negative_sources",
]
