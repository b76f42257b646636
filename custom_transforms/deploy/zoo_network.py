"""The network of a bundle, run as the Model Zoo's checks run it: weights, input and output, TorchScript."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, verify_net_in_out
from monai.data import load_net_with_metadata
from torch import Tensor, nn

from custom_transforms.weights import read_state_dict

_LARGEST_DIFFERENCE = 1e-3  # of the largest output; both are float32, the order of sums differs
_EDGE_VOXELS = 16


@contextmanager
def quiet() -> Iterator[None]:
    """Keep MONAI's log of its arguments out of what a user reads."""
    logger = logging.getLogger("monai.bundle.scripts")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _network(path: Path, inference: Path) -> nn.Module:
    """Build the network of a bundle on the CPU, in float32, with the weights of models/model.pt.

    Raises:
        RuntimeError, ValueError: the weights are those of another network, or no weights.
    """
    parser = ConfigParser()
    parser.read_config(inference)
    parser.read_meta(path / "configs" / "metadata.json")
    parser.update({"bundle_root": str(path), "device": "$torch.device('cpu')"})
    if "amp" in parser:
        parser.update({"amp": False})
    network: nn.Module = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(read_state_dict(path / "models" / "model.pt"))
    return network


def _image(path: Path, channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, channels, *[_EDGE_VOXELS] * 3, generator=generator)


def _check_torchscript(path: Path, network: nn.Module, metadata: dict[str, Any]) -> Iterator[str]:
    try:
        scripted, embedded, _ = load_net_with_metadata(
            str(path / "models" / "model.ts"), map_location=torch.device("cpu")
        )
    except Exception as error:
        yield f"models/model.ts does not load: {' '.join(str(error).split())[:200]}"
        return
    if embedded.get("version") != metadata["version"]:
        yield f"models/model.ts is of version {embedded.get('version')}, metadata.json of {metadata['version']}"
    image = _image(path, metadata["network_data_format"]["inputs"]["image"]["num_channels"])
    with torch.no_grad():
        wanted, got = network(image), scripted.eval()(image)
    difference = float((wanted - got).abs().max() / wanted.abs().max())
    if not difference <= _LARGEST_DIFFERENCE:
        yield f"models/model.ts and models/model.pt differ by {difference:.2g} of the largest output"


def check_network(path: Path, inference: Path) -> list[str]:
    """Check the weights of a bundle, that its network maps inputs to outputs as metadata.json says, and model.ts.

    Args:
        path: folder of the bundle.
        inference: its inference config.

    Returns:
        Findings.
    """
    metadata = path / "configs" / "metadata.json"
    try:
        network = _network(path, inference)
    except Exception as error:  # a file of somebody else: whatever is wrong with it is a finding
        return [f"models/model.pt does not fit network_def: {' '.join(str(error).split())[:200]}"]
    findings = []
    try:
        with quiet():
            verify_net_in_out("network_def", str(metadata), str(inference), device="cpu", n=1, bundle_root=str(path))
    except Exception as error:
        findings.append(
            f"the network does not map inputs to outputs as metadata.json says: {' '.join(str(error).split())[:200]}"
        )
    if (path / "models" / "model.ts").is_file():
        findings += _check_torchscript(path, network, ConfigParser.load_config_file(metadata))
    return findings
