"""Every variant trains, leaves what is frozen in it alone, and exports weights that load again."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from custom_transforms import variants
from custom_transforms.networks import Frozen

TINY = {"max_epochs": 1, "epoch_length": 2, "val_length": 1, "device": "cpu"}
FEW_ITERATIONS = {"unrolled": 2, "unrolled_r2star": 2, "unrolled_thesis": 2}  # more take longer and show no more


@pytest.fixture
def copy(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle without weights, whose unrolled networks have few iterations."""
    shutil.copytree(bundle / "configs", tmp_path / "bundle/configs")
    (tmp_path / "bundle/models").mkdir()
    monkeypatch.setattr(variants, "bundle_path", lambda: tmp_path / "bundle")
    for name, iterations in FEW_ITERATIONS.items():
        path = variants.variant_path(name)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"iterations": iterations}))
    return tmp_path / "bundle"


def write_frozen_weights(name: str) -> list[Path]:
    """Write random weights of the frozen networks in a variant, innermost first."""
    config = variants.inference_config(name)
    files = [Path(config.get_parsed_content(key)) for key in config[""] if key.endswith("_weights")]
    for path in sorted(files, key=lambda path: path.stem != "qsmnet"):
        network = variants.inference_config(path.stem).get_parsed_content("network_def")
        torch.save({key: value.half() for key, value in network.state_dict().items()}, path)
    return files


def training(name: str, copy: Path, output: Path) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([copy / f"configs/{part}.json" for part in ("train", f"variants/{name}", "quick")])
    parser.update({**TINY, "bundle_root": str(copy), "output_dir": str(output)})
    parser.get_parsed_content("initialize")
    return parser


def weights(network: torch.nn.Module, *, trained: bool) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad is trained}


LEARNED = [name for name in variants.variant_names() if variants.is_learned(name)]


@pytest.mark.parametrize("name", LEARNED)
def test_training_and_export(name: str, copy: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    frozen_files = {path: path.read_bytes() for path in write_frozen_weights(name)}
    parser = training(name, copy, tmp_path / "run")
    network = parser.get_parsed_content("network_def")
    before, frozen_before = weights(network, trained=True), weights(network, trained=False)
    parser.get_parsed_content("training")

    assert torch.isfinite(torch.as_tensor(parser.get_parsed_content("train::trainer").state.output[0]["loss"]))
    after, frozen_after = weights(network, trained=True), weights(network, trained=False)
    changed = [key for key, value in before.items() if not torch.equal(value, after[key])]
    assert len(changed) > len(before) / 2
    assert any(isinstance(module, Frozen) for module in network.modules()) is bool(frozen_files)
    assert bool(frozen_before) is bool(frozen_files)
    assert all(torch.equal(value, frozen_after[key]) for key, value in frozen_before.items())

    parser.get_parsed_content("export")
    loaded = variants.load_variant(name)
    assert {path: path.read_bytes() for path in frozen_files} == frozen_files
    best = torch.load(tmp_path / "run/checkpoints/best.pt", weights_only=True)
    for key, value in loaded.network.state_dict().items():
        torch.testing.assert_close(value, best[key], rtol=1e-3, atol=1e-6)  # half precision
    image = torch.rand(1, 3, 32, 32, 32)
    geometry = torch.ones(1, 3), torch.tensor([[0.0, 0.0, 1.0]])
    chi = loaded.inferer(image, loaded.network, *geometry)
    assert chi.shape == (1, 2, 32, 32, 32) and bool((chi >= 0).all()) and bool(chi.isfinite().all())


def test_missing_and_wrong_frozen_weights_are_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        training("chi_sepnet_r2prime", copy, tmp_path).get_parsed_content("network_def")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    torch.save({"susceptibility.weight": torch.zeros(1)}, copy / "models/qsmnet.pt")
    with pytest.raises(RuntimeError) as caught:
        training("chi_sepnet_r2prime", copy, tmp_path).get_parsed_content("network_def")
    assert "holds the weights of another network" in str(caught.value.__cause__)
