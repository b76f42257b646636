"""Simulated heads and their measurement: random shapes, the anatomical brain, and the acquisition."""

from .acquisition import Acquisition, AnalyticNoise, GradientEchoProtocol, SpinEchoProtocol
from .brain import AnatomicalBrain
from .datasets import SimulatedBatches, SimulatedSubjects
from .random_shapes import Ellipsoids, RandomShapes

__all__ = [
    "Acquisition",
    "AnalyticNoise",
    "AnatomicalBrain",
    "Ellipsoids",
    "GradientEchoProtocol",
    "RandomShapes",
    "SimulatedBatches",
    "SimulatedSubjects",
    "SpinEchoProtocol",
]
