"""Learned methods: each is a module ``method(image, voxel_size_mm, b0_direction, relaxivity_weights) -> chi``.

chi_sepnet         ChiSepNet: direct, both sources
unrolled           UnrolledChiSepNet: proximal steps and priors, the default
unrolled_gradient  GradientUnrolledChiSepNet: gradient steps and one prior, as in the thesis
qsmnet             QsmNet: direct, the total susceptibility alone
r2primenet         R2PrimeNet, R2Removal: R2' from R2*; PredictedR2Prime: any method on it
frozen             Frozen: a trained network inside another one
uncertainty        UncertainSeparation: any method, and a standard deviation for each of its maps
"""

from .chi_sepnet import ChiSepNet
from .frozen import Frozen
from .qsmnet import QsmNet
from .r2primenet import PredictedR2Prime, R2PrimeNet, R2Removal
from .uncertainty import UncertainSeparation
from .unrolled import UnrolledChiSepNet
from .unrolled_gradient import GradientUnrolledChiSepNet

__all__ = [
    "ChiSepNet",
    "Frozen",
    "GradientUnrolledChiSepNet",
    "PredictedR2Prime",
    "QsmNet",
    "R2PrimeNet",
    "R2Removal",
    "UncertainSeparation",
    "UnrolledChiSepNet",
]
