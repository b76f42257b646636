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
OF_INFERENCE = ["label.json", "qsm.json", "uncertainty.json"]
PATCHES = sorted(set(CONFIGS) - {"train.json", "inference.json", "preprocess.json", *OF_INFERENCE})
VARIANTS = sorted(f"variants/{path.name}" for path in (BUNDLE / "configs/variants").iterdir())
INVERSIONS = ("tikhonov", "tkd", "tv", "medi", "qsmnet", "qsmnet_plus")
STACKS = [
    ["train.json"],
    ["inference.json"],
    ["preprocess.json"],
    *(["train.json", patch] for patch in PATCHES),
    *(["train.json", variant] for variant in VARIANTS),
    *(["train.json", variant, patch] for variant in VARIANTS for patch in ("evaluate.json", "quick.json")),
    *(["inference.json", variant] for variant in VARIANTS),
    ["inference.json", "uncertainty.json"],
    ["inference.json", "label.json"],
    ["inference.json", "multi_gpu_evaluate.json"],
    ["inference.json", "variants/unrolled_r2star.json", "uncertainty.json"],
    *(["inference.json", f"variants/{name}.json", "qsm.json"] for name in INVERSIONS),
]


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


@pytest.mark.parametrize("name", CONFIGS + VARIANTS)
def test_every_target_exists(name: str) -> None:
    assert [target for target in targets(read(name)) if not resolves(target)] == []


def test_missing_target_is_found() -> None:
    assert not resolves("custom_transforms.losses.NoSuchLoss")


@pytest.mark.parametrize("patch", PATCHES)
def test_patches_change_what_is_there(patch: str) -> None:
    """A misspelt name in a patch would be as silent as one on the command line."""
    own = {
        "evaluate.json": {"section", "weights", "evaluating"},
        "multi_gpu_train.json": {"finalize"},
        "multi_gpu_evaluate.json": {"finalize"},
        "train_uncertainty.json": {"head_channels", "method", "calibration_brain", "calibration"},
    }.get(patch, set())
    train = ConfigParser(read("train.json"))
    names = [name.lstrip("+") for name in read(patch) if name != "_desc_"]
    assert [name for name in names if name not in train and name not in own] == []


def test_qsm_changes_what_is_in_inference() -> None:
    assert read("qsm.json").keys() - {"_desc_"} < read("inference.json").keys()


def unknown_names(variant: dict[str, Any]) -> list[str]:
    """What a variant sets, though neither train.json nor the variant itself refers to it."""
    referred = set(re.findall(r"@(\w+)", json.dumps({k: v for k, v in variant.items() if k != "_desc_"})))
    own = read("train.json").keys() | referred
    return [name for name in variant if name.lstrip("+") not in own]


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_change_what_is_there(name: str) -> None:
    variant = read(name)
    assert unknown_names(variant) == []
    assert unknown_names(variant | {"learning_rat": 1}) == ["learning_rat"]
    assert f"variants/{variant['variant']}.json" == name
    assert variant.get("rate", "r2prime") in ("r2prime", "r2star")


def test_variants_have_their_own_weights_files() -> None:
    files = [file for name in VARIANTS if (file := read(name)["model_file"])]
    assert len(set(files)) == len(files)
    assert read("variants/unrolled.json")["model_file"] == read("train.json")["model_file"]


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


def network(*names: str) -> torch.nn.Module:
    parser = ConfigParser()
    parser.read_config([BUNDLE / "configs" / name for name in names])
    frozen = [name for name in parser[""] if name.endswith("_weights")]
    parser.update({"device": "$torch.device('cpu')", **dict.fromkeys(frozen)})  # none of them is needed here
    return parser.get_parsed_content("network_def")


def without(config: Any, *names: str) -> Any:
    return {key: value for key, value in config.items() if key not in names}


@pytest.mark.parametrize("patch", [[], *([name] for name in VARIANTS)], ids="".join)
def test_training_and_inference_have_the_same_network(patch: list[str]) -> None:
    networks = [network(name, *patch) for name in ("train.json", "inference.json")]
    shapes = [{name: w.shape for name, w in net.state_dict().items()} for net in networks]
    assert shapes[0] == shapes[1] and bool(shapes[0]) is all(read(name)["model_file"] for name in patch)


def test_copies_of_a_block_are_the_same() -> None:
    blocks = [without(read(name)["network_def"], "_desc_") for name in ("train.json", "inference.json")]
    assert without(blocks[0], "deep_supervision") == blocks[1]
    method = without(read("variants/unrolled_r2star.json")["network_def"]["method"], "_desc_")
    blocks[0]["backbone"] = without(blocks[0]["backbone"], "_desc_")
    assert method == blocks[0]
    assert without(read("evaluate.json")["phantom"], "_desc_") == read("train.json")["phantom"]
    for name in ("volume_shape", "resampling"):
        found, expected = read("evaluate.json")[name], read("train.json")[name]
        assert (
            (without(found, "_desc_") == without(expected, "_desc_")) if isinstance(found, dict) else found == expected
        )


def test_frozen_networks_are_those_that_were_trained() -> None:
    """Each is a copy of the block that its weights belong to."""
    qsmnet, r2prime, r2star = (
        read(f"variants/{name}.json") for name in ("qsmnet", "chi_sepnet_r2prime", "chi_sepnet_r2star")
    )
    networks = [read(name).get("network_def", {}) for name in VARIANTS]
    frozen = [network["susceptibility"] for network in networks if "susceptibility" in network]
    copies = [part["network"] for part in frozen if "network" in part]  # QSMnet itself is not frozen
    own = json.dumps(qsmnet["network_def"]["susceptibility"]).replace("@channels", "@qsmnet_channels")
    assert len(copies) == 3 and all(json.dumps(copy) == own for copy in copies)
    own = json.dumps(r2prime["network_def"]).replace("@channels", "@chi_sepnet_channels")
    assert json.dumps(r2star["network_def"]["method"]["network"]) == own
    for name in VARIANTS:
        variant = read(name)
        assert variant.get("qsmnet_channels", qsmnet["channels"]) == qsmnet["channels"]
        assert variant.get("chi_sepnet_channels", r2prime["channels"]) == r2prime["channels"]


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
