"""Steps from a phantom's tissue to the maps of a measurement, imperfections included: the training distribution.

Each is a callable (maps, draws) to maps with its ranges as arguments, to be listed by name in `train.json`. Those that
stand before :class:`ExactMaps` change the tissue, those after it the maps; :class:`Echoes` measures and fits them.
"""

from .base import Imperfection, Maps, Step
from .errors import MotionBlur, R2Error, RelaxivityMismatch, ResidualBackground
from .measurement import Echoes, ExactMaps, ideal_simulation
from .tissue import AnisotropicWhiteMatter, MaskErrors, SplitRelaxivity

__all__ = [
    "AnisotropicWhiteMatter",
    "Echoes",
    "ExactMaps",
    "Imperfection",
    "Maps",
    "MaskErrors",
    "MotionBlur",
    "R2Error",
    "RelaxivityMismatch",
    "ResidualBackground",
    "SplitRelaxivity",
    "Step",
    "ideal_simulation",
]
