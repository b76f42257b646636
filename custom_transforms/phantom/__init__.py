"""Simulated heads and their measurement: random shapes, warped and whole anatomy, and the acquisition."""

from .acquisition import Acquisition, GradientEchoProtocol, SpinEchoProtocol
from .brain import AnatomicalBrain
from .datasets import SimulatedBatches, SimulatedSubjects
from .mixture import PhantomMixture
from .random_shapes import RandomShapes
from .shapes import Ellipsoids, Vessels
from .warped_anatomy import WarpedAnatomy

__all__ = [
    "Acquisition",
    "AnatomicalBrain",
    "Ellipsoids",
    "GradientEchoProtocol",
    "PhantomMixture",
    "RandomShapes",
    "SimulatedBatches",
    "SimulatedSubjects",
    "SpinEchoProtocol",
    "Vessels",
    "WarpedAnatomy",
]
