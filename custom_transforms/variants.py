"""The variants of the bundle: every network and conventional method, each a small patch in ``configs/variants``."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from monai.bundle import ConfigParser
from torch import nn

from custom_transforms.bundle_path import bundle_path
from custom_transforms.inferers import GeometryInferer
from custom_transforms.provenance import describe_weights

DEFAULT = "unrolled"


class LoadedVariant(NamedTuple):
    """A variant that is ready to run: ``inferer(image, network)``.

    Attributes:
        network: with its weights, in eval mode.
        inferer: brings the image's geometry to the network.
        rate: "r2prime" or "r2star", which of them the second channel of the image is.
    """

    network: nn.Module
    inferer: GeometryInferer
    rate: str


def variant_names() -> list[str]:
    """Give the names of all variants."""
    return sorted(path.stem for path in (bundle_path() / "configs" / "variants").glob("*.json"))


def variant_path(name: str) -> Path:
    """Give the patch of a variant.

    Raises:
        ValueError: there is no such variant.
    """
    if name not in variant_names():
        raise ValueError(f"there is no variant {name!r}; valid: {', '.join(variant_names())}")
    return bundle_path() / "configs" / "variants" / f"{name}.json"


def is_learned(name: str) -> bool:
    """Say whether a variant is a network with weights, and not a conventional method."""
    return bool(inference_config(name)["model_file"])


def inverts_dipole(name: str) -> bool:
    """Say whether a variant finds chi_total first, so that it can do without R2' if no more is wanted."""
    return str(inference_config(name)["network_def"]["_target_"]).endswith(".SusceptibilitySeparation")


def inference_config(
    name: str, *, device: torch.device | str = "cpu", qsm: bool = False, uncertainty: bool = False
) -> ConfigParser:
    """Give inference.json with the patch of a variant stacked on it.

    Args:
        name: of the variant.
        device: where its network runs.
        qsm: stack qsm.json too: chi_total alone, from the local field.
        uncertainty: stack uncertainty.json too: standard deviations as well.

    Raises:
        ValueError: there is no such variant.
    """
    parser = ConfigParser()
    configs = bundle_path() / "configs"
    patches = [configs / f"{patch}.json" for patch, wanted in (("qsm", qsm), ("uncertainty", uncertainty)) if wanted]
    parser.read_config([configs / "inference.json", variant_path(name), *patches])
    parser.read_meta(configs / "metadata.json")
    parser.update({"bundle_root": str(bundle_path()), "device": f"$torch.device('{device}')"})
    return parser


def gives_uncertainty(name: str) -> bool:
    """Say whether a variant has a head that gives standard deviations."""
    return Path(inference_config(name, uncertainty=True).get_parsed_content("uncertainty_weights")).is_file()


def uses_magnitude(network: nn.Module) -> bool:
    """Say whether a method takes a fourth channel of the image, the magnitude."""
    return any(getattr(module, "uses_magnitude", False) for module in network.modules())


def takes_magnitude(name: str) -> bool:
    """Say the same of a variant."""
    return uses_magnitude(inference_config(name).get_parsed_content("network_def"))


def load_variant(name: str, *, device: torch.device | str = "cpu") -> LoadedVariant:
    """Load a variant with its shipped weights.

    Args:
        name: of the variant.
        device: where its network runs.

    Raises:
        ValueError: there is no such variant.
        FileNotFoundError: it has no weights.
    """
    parser = inference_config(name, device=device)
    describe_weights(parser)  # what is missing is said here, in one line
    network, inferer, rate = (parser.get_parsed_content(key) for key in ("network", "inferer", "rate"))
    return LoadedVariant(network.eval(), inferer, rate)
