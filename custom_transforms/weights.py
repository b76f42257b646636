"""Weights files: a plain state dictionary, in half precision to keep the file small."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of a weights file or of a training checkpoint.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights file {path}; train and export one, or name another")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, IndexError, KeyError) as error:
        raise ValueError(f"{path} is not a weights file of PyTorch, or is damaged; fetch or export it again") from error
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dictionary; give a file that the export workflow has written")
    return dict(state)


def save_weights(checkpoint_path: str | Path, path: str | Path) -> None:
    """Write the weights of a checkpoint in half precision.

    Args:
        checkpoint_path: ``best.pt`` or ``last.pt`` of a training run.
        path: file to write; its folder is made if need be.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is no checkpoint, or a weight does not fit half precision.
    """
    state = read_state_dict(checkpoint_path)
    half: dict[str, Tensor] = {}
    stored: dict[tuple[int, ...], Tensor] = {}
    for name, value in state.items():
        # DynUNet names each of its layers several times: what was one tensor stays one, and is stored once
        key = (value.data_ptr(), *value.shape)
        half[name] = stored.setdefault(key, value.half() if value.is_floating_point() else value)
    overflown = [name for name, value in half.items() if not torch.isfinite(value).all()]
    if overflown:
        raise ValueError(f"{checkpoint_path} has weights beyond half precision or not finite: {', '.join(overflown)}")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    torch.save(half, path)


def load_weights(network: Network, path: str | Path, *, prefix: str = "") -> Network:
    """Fill a network from a weights file; every weight must be there, and nothing else.

    Args:
        network: changed in place; keeps its precision and device.
        path: weights file or training checkpoint.
        prefix: take only the weights whose names begin so, without the prefix: those of a part of a larger network.

    Returns:
        The network.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else, or the weights of another network.
    """
    state = {n.removeprefix(prefix): w for n, w in read_state_dict(path).items() if n.startswith(prefix)}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        own = network.state_dict()
        wrong = sorted(own.keys() ^ state.keys()) or [n for n in own if own[n].shape != state[n].shape]
        raise ValueError(
            f"{path} holds the weights of another network: {len(wrong)} names or shapes differ, first {wrong[0]}; "
            "use the settings that it was trained with"
        ) from error
    return network
