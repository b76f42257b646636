"""From the echoes of a scanner to the maps that source separation takes, each step a MONAI transform.

stages         named steps, replaced by the user's own maps, cached on disk
phase          the stored phase to rad; the sign of each vendor
phase_offset   the phase at echo time 0, which coils leave
unwrapping     congruent unwrapping in space and over the echoes
field_fit      the total field and its quality
brain_mask     a mask where the user has none
background     the field of all that is around the brain, by pdf and vsharp
phase_sign     the sign of the field, tested on veins and deep grey matter
relaxation     R2* of the gradient echoes, R2 of the spin echoes
"""

from .background import BackgroundMethod, RemoveBackgroundd
from .brain_mask import BrainMaskd
from .field_fit import FitTotalFieldd
from .phase import PhaseUnit, ScalePhased
from .phase_offset import RemovePhaseOffsetd
from .phase_sign import CheckPhaseSignd
from .relaxation import AlignSpinEchod, FitR2d, FitR2Stard, R2StarMethod
from .stages import Stage, StageCache
from .unwrapping import UnwrapPhased

__all__ = [
    "AlignSpinEchod",
    "BackgroundMethod",
    "BrainMaskd",
    "CheckPhaseSignd",
    "FitR2Stard",
    "FitR2d",
    "FitTotalFieldd",
    "PhaseUnit",
    "R2StarMethod",
    "RemoveBackgroundd",
    "RemovePhaseOffsetd",
    "ScalePhased",
    "Stage",
    "StageCache",
    "UnwrapPhased",
]
