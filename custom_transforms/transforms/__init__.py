"""MONAI transforms, in array form and, with a trailing d, in dictionary form.

mask         binarise a mask, apply it
field        local field to ppm of B0, scaling by constants
relaxometry  R2' = max(R2* - R2, 0), and R2' to ppm
geometry     voxel size and B0 direction from the affine
sources      the pair of maps: total, sign convention of other tools, parts of a prediction
reference    the zero of the total susceptibility
simulation   the local field of two source maps
augmentation random rotation, susceptibility scaling and B0 direction, the field recomputed
stack        the image of all maps, which methods take
axial        the isotropic grid along B0 that direct networks need
files        files that are what their headers say
label        one file a case with the settings of a request, for servers
"""

from .augmentation import (
    RandB0Direction,
    RandB0Directiond,
    RandModelRotation,
    RandModelRotationd,
    RandSusceptibilityScaling,
    RandSusceptibilityScalingd,
)
from .axial import AxialFrame, AxialResampled
from .field import LocalFieldToPpm, LocalFieldToPpmd, Normalise, Normalised
from .files import CheckFilesd
from .geometry import Geometryd, b0_direction_from_affine, voxel_size_from_affine
from .label import RequestedSourced, RequestedUnitsd, SplitMapsd
from .mask import ApplyMask, ApplyMaskd, Mask, Maskd
from .reference import ReferenceSources, ReferenceSourcesd
from .relaxometry import R2Prime, R2Primed, ScaleR2Prime, ScaleR2Primed
from .simulation import SimulateLocalField, SimulateLocalFieldd
from .sources import SignedDiamagnetic, SignedDiamagneticd, SplitSourcesd, TotalSusceptibilityd
from .stack import StackMapsd

__all__ = [
    "ApplyMask",
    "ApplyMaskd",
    "AxialFrame",
    "AxialResampled",
    "CheckFilesd",
    "Geometryd",
    "LocalFieldToPpm",
    "LocalFieldToPpmd",
    "Mask",
    "Maskd",
    "Normalise",
    "Normalised",
    "R2Prime",
    "R2Primed",
    "RandB0Direction",
    "RandB0Directiond",
    "RandModelRotation",
    "RandModelRotationd",
    "RandSusceptibilityScaling",
    "RandSusceptibilityScalingd",
    "ReferenceSources",
    "ReferenceSourcesd",
    "RequestedSourced",
    "RequestedUnitsd",
    "ScaleR2Prime",
    "ScaleR2Primed",
    "SignedDiamagnetic",
    "SignedDiamagneticd",
    "SimulateLocalField",
    "SimulateLocalFieldd",
    "SplitMapsd",
    "SplitSourcesd",
    "StackMapsd",
    "TotalSusceptibilityd",
    "b0_direction_from_affine",
    "voxel_size_from_affine",
]
