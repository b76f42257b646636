"""Learned methods: each is a module ``method(image, voxel_size_mm, b0_direction, relaxivity_weights) -> chi``."""

from .chi_sepnet import ChiSepNet
from .unrolled import UnrolledChiSepNet

__all__ = ["ChiSepNet", "UnrolledChiSepNet"]
