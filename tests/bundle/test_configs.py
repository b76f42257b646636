"""The configs parse, name things that exist, fit together and have what MONAI requires."""

import json
import pydoc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, verify_net_in_out
from monai.bundle.config_item import ComponentLocator

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"
CONFIGS = sorted(path.name for path in (BUNDLE / "configs").glob("*.json") if path.name != "metadata.json")
PATCHES = sorted(set(CONFIGS) - {"train.json", "inference.json"})
STACKS = [["train.json"], ["inference.json"], *(["train.json", patch] for patch in PATCHES)]


def read(name: str) -> dict[str, Any]:
    return json.loads((BUNDLE / "configs" / name).read_text())


def targets(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        if "_target_" in config:
            yield config["_target_"]
        config = list(config.values())
    if isinstance(config, list):
        for item in config:
            yield from targets(item)


def resolves(target: str) -> bool:
    known = ComponentLocator().get_component_module_name(target)
    return callable(pydoc.locate(target)) if known is None else isinstance(known, str)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_target_exists(name: str) -> None:
    assert [target for target in targets(read(name)) if not resolves(target)] == []


def test_missing_target_is_found() -> None:
    assert not resolves("custom_transforms.losses.NoSuchLoss")


@pytest.mark.parametrize("patch", PATCHES)
def test_patches_change_what_is_there(patch: str) -> None:
    """A misspelt name in a patch would be as silent as one on the command line."""
    own = {"evaluate.json": {"weights", "evaluating"}, "multi_gpu_train.json": {"finalize"}}.get(patch, set())
    train = ConfigParser(read("train.json"))
    names = [name.lstrip("+") for name in read(patch) if name != "_desc_"]
    assert [name for name in names if name not in train and name not in own] == []


@pytest.mark.parametrize("stack", STACKS, ids="+".join)
def test_references_resolve(stack: list[str]) -> None:
    parser = ConfigParser()
    parser.read_config([BUNDLE / "configs" / name for name in stack])
    parser.parse()
    known = set(parser.ref_resolver.items)
    for item in parser.ref_resolver.items.values():
        if isinstance(config := item.get_config(), str) and config.startswith(("$", "@")):
            wanted = re.findall(r"@([\w#:]+)", config.replace("#", "::"))
            assert [name for name in wanted if name not in known] == [], config


@pytest.mark.parametrize(("name", "kind"), [("train.json", "train"), ("inference.json", "infer")])
def test_required_properties(name: str, kind: str, dataset_dir: Path, tmp_path: Path) -> None:
    workflow = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / name),
        workflow_type=kind,
        logging_file=False,
        bundle_root=str(BUNDLE),
        dataset_dir=str(dataset_dir),
        output_dir=str(tmp_path),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def network(name: str) -> torch.nn.Module:
    parser = ConfigParser(read(name))
    parser["device"] = "$torch.device('cpu')"
    return parser.get_parsed_content("network_def")


def test_training_and_inference_have_the_same_network() -> None:
    shapes = [{n: w.shape for n, w in network(name).state_dict().items()} for name in ("train.json", "inference.json")]
    assert shapes[0] == shapes[1]
    own = {"_desc_", "deep_supervision"}
    blocks = [
        {k: v for k, v in read(name)["network_def"].items() if k not in own}
        for name in ("train.json", "inference.json")
    ]
    assert blocks[0] == blocks[1]


def test_network_takes_and_gives_what_the_metadata_say() -> None:
    verify_net_in_out(
        net_id="network_def",
        config_file=str(BUNDLE / "configs/inference.json"),
        meta_file=str(BUNDLE / "configs/metadata.json"),
        device="cpu",
    )


def test_metadata() -> None:
    metadata = read("metadata.json")
    required = (
        "schema version monai_version pytorch_version numpy_version required_packages_version task description authors "
        "copyright network_data_format changelog"
    )
    assert set(required.split()) <= metadata.keys()
    assert metadata["version"] in metadata["changelog"]
    tensor = {"type": "string", "format": "string", "num_channels": "integer", "spatial_shape": "array"}
    tensor |= {"dtype": "string", "value_range": "array"}
    schema = {"properties": {k: {"type": v} for k, v in tensor.items()}, "required": list(tensor)}
    jsonschema.validate(metadata["network_data_format"]["inputs"]["image"], schema)
    jsonschema.validate(metadata["network_data_format"]["outputs"]["pred"], schema)


def test_metadata_versions_are_the_pinned_ones() -> None:
    metadata = read("metadata.json")
    pinned = dict(line.split("==") for line in (BUNDLE.parent / "constraints.txt").read_text().split() if "==" in line)
    named = {
        "monai": metadata["monai_version"],
        "torch": metadata["pytorch_version"],
        "numpy": metadata["numpy_version"],
    }
    named |= {k: v for k, v in metadata["required_packages_version"].items() if k != "chisep"}
    assert named == {name: pinned[name] for name in named}
