"""Weights survive export and loading; wrong files are refused in words."""

from pathlib import Path

import pytest
import torch
from torch import nn

from custom_transforms.weights import load_weights, save_weights


def network(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


@pytest.mark.parametrize(
    "wrap", [lambda state: state, lambda state: {"model": state, "epoch": 3}], ids=["best", "last"]
)
def test_round_trip_in_half_precision(tmp_path: Path, wrap: object) -> None:
    original = network()
    torch.save(wrap(original.state_dict()), tmp_path / "checkpoint.pt")
    save_weights(tmp_path / "checkpoint.pt", tmp_path / "models/model.pt")
    stored = torch.load(tmp_path / "models/model.pt", weights_only=True)
    assert stored["0.weight"].dtype == torch.float16
    assert stored["1.num_batches_tracked"].dtype == torch.int64
    loaded = load_weights(network(), tmp_path / "models/model.pt")
    for name, value in loaded.state_dict().items():
        assert value.dtype == original.state_dict()[name].dtype
        torch.testing.assert_close(value, original.state_dict()[name], rtol=1e-3, atol=1e-6)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights file .*none\.pt"):
        load_weights(network(), tmp_path / "none.pt")


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"PK\x03\x04broken"])
def test_file_that_holds_no_weights(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(ValueError, match="is not a weights file"):
        load_weights(network(), tmp_path / "model.pt")


def test_file_that_holds_something_else(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "model.pt")
    with pytest.raises(ValueError, match="no state dictionary"):
        load_weights(network(), tmp_path / "model.pt")


@pytest.mark.parametrize("other", [network(4), nn.Linear(2, 3)], ids=["shape", "names"])
def test_weights_of_another_network(tmp_path: Path, other: nn.Module) -> None:
    torch.save(network().state_dict(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="weights of another network"):
        load_weights(other, tmp_path / "model.pt")


def test_weights_beyond_half_precision(tmp_path: Path) -> None:
    torch.save({"weight": torch.tensor([1e6])}, tmp_path / "best.pt")
    with pytest.raises(ValueError, match="beyond half precision"):
        save_weights(tmp_path / "best.pt", tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()


def test_a_layer_of_two_names_is_stored_once(tmp_path: Path) -> None:
    layer = nn.Linear(100, 100)
    torch.save(nn.Sequential(layer, layer).state_dict(), tmp_path / "twice.pt")
    torch.save(nn.Sequential(layer, nn.Linear(100, 100)).state_dict(), tmp_path / "two.pt")
    for name in ("twice", "two"):
        save_weights(tmp_path / f"{name}.pt", tmp_path / f"{name}_half.pt")
    once, both = ((tmp_path / f"{name}_half.pt").stat().st_size for name in ("twice", "two"))
    assert once < 0.6 * both
    load_weights(nn.Sequential(layer, layer), tmp_path / "twice_half.pt")
