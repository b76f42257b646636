"""Conventional methods, as modules with the same call as the networks."""

from .closed_form import ClosedFormSeparation, TikhonovSusceptibility

__all__ = ["ClosedFormSeparation", "TikhonovSusceptibility"]
