"""Simulated heads and their measurement: random shapes, the anatomical brain, and the acquisition."""

from .acquisition import Acquisition, AnalyticNoise, GradientEchoProtocol, SpinEchoProtocol
from .datasets import SimulatedBatches
from .random_shapes import Ellipsoids, RandomShapes

__all__ = [
    "Acquisition",
    "AnalyticNoise",
    "Ellipsoids",
    "GradientEchoProtocol",
    "RandomShapes",
    "SimulatedBatches",
    "SpinEchoProtocol",
]
