"""Conventional methods, as modules with the same call as the networks, and the maker of labels, COSMOS.

closed_form.py, tkd.py and total_variation.py invert the dipole; chi_separation.py finds both sources at once; admm.py
is what the iterative ones share.
"""

from .chi_separation import ChiSeparation, ConstantR2Removal
from .closed_form import ClosedFormSeparation, SusceptibilitySeparation, TikhonovSusceptibility
from .convergence import Residual, ResidualBar, StoppingRule
from .cosmos import cosmos, non_negative_sources
from .tkd import TKDSusceptibility
from .total_variation import MEDISusceptibility, TVSusceptibility

__all__ = [
    "ChiSeparation",
    "ClosedFormSeparation",
    "ConstantR2Removal",
    "MEDISusceptibility",
    "Residual",
    "ResidualBar",
    "StoppingRule",
    "SusceptibilitySeparation",
    "TKDSusceptibility",
    "TVSusceptibility",
    "TikhonovSusceptibility",
    "cosmos",
    "non_negative_sources",
]
