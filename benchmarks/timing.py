"""Timing and memory of a function, on a CPU or a GPU."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import torch


def median_seconds(function: Callable[[], object], device: torch.device, *, repeats: int = 7) -> float:
    """Give the median wall time of a call after two warm-up calls."""
    times = []
    for i in range(repeats + 2):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if i >= 2:
            times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def peak_memory_mib(device: torch.device) -> float:
    """Give the largest memory so far: allocated on a GPU, resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
