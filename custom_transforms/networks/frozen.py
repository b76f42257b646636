"""A trained network inside another one: its weights stay as they are, and stay in their own file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from custom_transforms.weights import load_weights


class Frozen(nn.Module):
    """A network that is never trained, and by default not stored with what is around it.

    It stays in eval mode, gets no gradients, and, unless it is stored, leaves the state dictionary of its parents as if
    it were not there, so that each trained network is stored once.

    Args:
        network: the network; it is changed in place.
        weights: its weights file; None leaves the weights as they are.
        prefix: part of the file to take, for the weights of a network inside a larger one, such as "susceptibility.".
        stored: store it with what is around it after all, as packed bundles do, which have one weights file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds the weights of another network.
    """

    def __init__(
        self, network: nn.Module, *, weights: str | Path | None = None, prefix: str = "", stored: bool = False
    ) -> None:
        super().__init__()
        if weights is not None:
            load_weights(network, weights, prefix=prefix)
        self.network = network.requires_grad_(False).eval()
        self.stored = stored

    def train(self, mode: bool = True) -> Frozen:
        """Stay in eval mode."""
        return super().train(False)

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Give nothing of the network, unless it is stored."""
        if self.stored:
            return super().state_dict(*args, destination=destination, prefix=prefix, keep_vars=keep_vars)
        return {} if destination is None else destination

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        # where nothing of it is stored, what a strict load looks for is what it has already
        own = {} if self.stored else self.network.state_dict()
        state_dict.update({f"{prefix}network.{name}": value for name, value in own.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(
        self,
        image: Tensor,
        voxel_size_mm: Tensor | None = None,
        b0_direction: Tensor | None = None,
        relaxivity_weights: Tensor | None = None,
    ) -> Tensor:
        """Call the network without gradients; the arguments are those of every method."""
        with torch.no_grad():
            return self.network(image, voxel_size_mm, b0_direction, relaxivity_weights)


def own_modules(network: nn.Module) -> Mapping[str, nn.Module]:
    """Give all modules of a network by name, but for those inside :class:`Frozen`."""
    frozen = [f"{name}." for name, module in network.named_modules() if isinstance(module, Frozen)]
    return {name: module for name, module in network.named_modules() if not name.startswith(tuple(frozen))}
