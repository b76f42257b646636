"""Frozen: neither trained nor stored, and its own weights file is checked."""

from pathlib import Path

import pytest
import torch
from torch import nn

from custom_transforms.networks import Frozen
from custom_transforms.networks.frozen import own_modules


class Parent(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.own = nn.BatchNorm1d(2)
        self.inner = inner


def frozen_parent(value: float) -> Parent:
    inner = nn.BatchNorm1d(2)
    nn.init.constant_(inner.weight, value)
    return Parent(Frozen(inner))


def test_stays_in_eval_mode_without_gradients() -> None:
    network = frozen_parent(3.0).train()
    assert network.own.training and not network.inner.network.training
    assert not any(p.requires_grad for p in network.inner.parameters())


def test_leaves_the_state_dictionary_alone() -> None:
    first, second = frozen_parent(3.0), frozen_parent(5.0)
    assert {name.split(".")[0] for name in first.state_dict()} == {"own"}
    nn.init.constant_(first.own.weight, 7.0)
    second.load_state_dict(first.state_dict())
    assert second.own.weight.tolist() == [7, 7]
    assert second.inner.network.weight.tolist() == [5, 5]
    with pytest.raises(RuntimeError, match=r"own\.bias"):
        second.load_state_dict({name: w for name, w in first.state_dict().items() if name != "own.bias"})


def test_unfrozen_it_would_be_stored() -> None:
    assert any(name.startswith("inner.") for name in Parent(nn.BatchNorm1d(2)).state_dict())


def test_stored_it_is_in_the_state_dictionary_and_is_loaded() -> None:
    first, second = (Parent(Frozen(nn.BatchNorm1d(2), stored=True)) for _ in range(2))
    nn.init.constant_(first.inner.network.weight, 7.0)
    second.load_state_dict(first.state_dict())
    assert second.inner.network.weight.tolist() == [7, 7]
    assert not any(p.requires_grad for p in second.inner.parameters())
    with pytest.raises(RuntimeError, match=r"inner\.network\.bias"):
        second.load_state_dict(frozen_parent(3.0).state_dict())


def test_own_modules() -> None:
    assert set(own_modules(frozen_parent(1.0))) == {"", "own", "inner"}


def test_weights_come_from_a_file_or_a_part_of_one(tmp_path: Path) -> None:
    source = nn.Linear(2, 2)
    torch.save({f"deep.{name}": w for name, w in source.state_dict().items()} | {"x": torch.ones(1)}, tmp_path / "w.pt")
    frozen = Frozen(nn.Linear(2, 2), weights=tmp_path / "w.pt", prefix="deep.")
    assert torch.equal(frozen.network.weight, source.weight)
    with pytest.raises(ValueError, match="weights of another network"):
        Frozen(nn.Linear(2, 2), weights=tmp_path / "w.pt")
    with pytest.raises(ValueError, match="weights of another network"):
        Frozen(nn.Linear(2, 3), weights=tmp_path / "w.pt", prefix="deep.")
    with pytest.raises(FileNotFoundError, match="no weights file"):
        Frozen(nn.Linear(2, 2), weights=tmp_path / "absent.pt")
