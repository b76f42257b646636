"""Several processes that train, score or infer together, one for each GPU, started by ``torchrun``."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from ignite import distributed as idist


def local_device() -> torch.device:
    """Give the device of this process: a GPU of its own, or the CPU where there is none."""
    return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")


def join(device: torch.device | str) -> None:
    """Meet the other processes: NCCL between GPUs, Gloo between CPUs.

    Args:
        device: where this process computes, see :func:`local_device`.

    Raises:
        ValueError: ``torchrun`` has not started this process.
    """
    if not dist.is_torchelastic_launched():
        raise ValueError(
            "the multi_gpu configs need torchrun: torchrun --standalone --nproc-per-node 2 -m monai.bundle run ...; "
            "leave them out to use one process"
        )
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend="nccl" if device.type == "cuda" else "gloo")
    idist.sync()  # else ignite goes on as a single process, and ranks that wait for each other hang


def leave() -> None:
    """Wait for the others, then part: a process that leaves early breaks the connections of those that still work."""
    idist.barrier()
    idist.finalize()
