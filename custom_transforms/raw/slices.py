"""The sign that alternates from slice to slice in complex images of GE scanners.

A shift by half the field of view along the slices, left out between k-space and image, is a factor (-1)^z in the image:

    s(x, y, z) -> (-1)^z s(x, y, z)

A phase that does so turns a field map into noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

_OPPOSITE = -0.5  # of the correlation of neighbouring slices: tissue without the factor has a positive one


def slice_correlation(echoes: Tensor) -> float:
    r"""Correlate neighbouring slices of complex echoes.

        c = Re sum s(z + 1) conj(s(z)) / sum \|s(z + 1)\| \|s(z)\|

    Args:
        echoes: (E, X, Y, Z) complex; the slices are along the last axis.

    Returns:
        c, from -1 to 1; 0 without signal.
    """
    later, earlier = echoes[..., 1:], echoes[..., :-1]
    total = (later.abs() * earlier.abs()).sum(dtype=torch.float64)
    return float((later * earlier.conj()).real.sum(dtype=torch.float64) / total.clamp(min=1e-30))


def undo_slice_alternation(echoes: Tensor) -> tuple[Tensor, bool]:
    """Turn every other slice round where neighbouring slices of the first echo are opposite.

    Args:
        echoes: (E, X, Y, Z) complex; the slices are along the last axis.

    Returns:
        The echoes, and whether the sign alternated.
    """
    finite = torch.nan_to_num(torch.view_as_real(echoes[:1]), 0.0, 0.0, 0.0)
    if slice_correlation(torch.view_as_complex(finite)) > _OPPOSITE:
        return echoes, False
    sign = torch.ones(echoes.shape[-1], device=echoes.device)
    sign[1::2] = -1
    return echoes * sign, True
