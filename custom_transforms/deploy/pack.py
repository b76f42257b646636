"""A variant as a bundle of the Model Zoo: one folder that needs no installation of this package.

    brain_mr_chi_separation_NAME/
        LICENSE
        configs/            metadata.json, inference.json and train.json with the variant's patch in them, others
        custom_transforms/  this package
        docs/               README.md, the model card, and what it links to; data_license.txt
        models/             model.pt, model.ts

All weights are in model.pt, those of frozen networks too.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from custom_transforms.bundle_path import bundle_path
from custom_transforms.checks import InputError, user_input
from custom_transforms.data import BIDS_SUFFIXES
from custom_transforms.deploy.card import model_card, write_documents
from custom_transforms.deploy.torchscript import export_network, export_torchscript, stacked_config, variant_metadata
from custom_transforms.deploy.zoo import check_bundle
from custom_transforms.networks import Frozen
from custom_transforms.output import staged_folder, write_json
from custom_transforms.provenance import file_sha256
from custom_transforms.variants import DEFAULT, is_learned, variant_names, variant_path
from custom_transforms.weights import save_weights

_PACKAGE = Path(__file__).resolve().parents[1]
_NOT_VENDORED = shutil.ignore_patterns("__pycache__", "_bundle", "*.pyc")
_FROZEN = "custom_transforms.networks.Frozen"


def pack_name(name: str) -> str:
    """Name the packed bundle of a variant by body part, modality and task, as the Model Zoo does."""
    return f"brain_mr_chi_separation_{name}"


def _pack_metadata(name: str) -> dict[str, Any]:
    metadata = variant_metadata(name)
    del metadata["required_packages_version"]["chisep"]  # the package is in the pack
    if name == DEFAULT:
        return metadata
    phantom = ConfigParser.load_config_files([bundle_path() / "configs" / "train.json", variant_path(name)])["phantom"]
    if not phantom["_target_"].endswith("PhantomMixture"):
        metadata["data_source"] = f"simulated on the fly by {phantom['_target_']}"
    what = ConfigParser.load_config_file(variant_path(name))["_desc_"]
    outcome = "Gives maps of paramagnetic and of diamagnetic susceptibility of the brain; trained on simulations alone."
    return metadata | {"name": f"{metadata['name']}: {name}", "description": f"{what}. {outcome}"}


def _with_one_weights_file(content: Any) -> Any:
    """Have frozen networks stored with what is around them."""
    if isinstance(content, list):
        return [_with_one_weights_file(value) for value in content]
    if not isinstance(content, dict):
        return content
    if content.get("_target_") == _FROZEN:
        content = {key: value for key, value in content.items() if key not in ("weights", "prefix")} | {"stored": True}
    return {key: _with_one_weights_file(value) for key, value in content.items()}


def _packed_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a config of the bundle, with the patch of a variant in it, into that of a pack."""
    own = {key: value for key, value in config.items() if not key.endswith("_weights")}  # files of frozen networks
    packed: dict[str, Any] = _with_one_weights_file(own) | {"model_file": "model.pt"}
    if len(own) < len(config) and "pretrained" in packed:
        packed["pretrained"] = "$@bundle_root + '/models/' + @model_file"  # what is frozen must come from somewhere
    return packed


def _write_configs(folder: Path, name: str, *, label: bool) -> None:
    """Write the configs of a pack; the patch of a variant is in them."""
    source = bundle_path() / "configs"
    write_json(folder / "metadata.json", _pack_metadata(name))
    inference = folder / "inference.json"
    write_json(inference, _packed_config(stacked_config(name)))
    if label:
        write_json(inference, ConfigParser.load_config_files([inference, source / "label.json"]))
    training = ConfigParser.load_config_files([source / "train.json", variant_path(name)])
    write_json(folder / "train.json", _packed_config(training))
    for other in (source / "evaluate.json", source / "logging.conf", *source.glob("multi_gpu_*.json")):
        shutil.copyfile(other, folder / other.name)
    own = {"_desc_": "This bundle as it is: what finds a variant by its name finds this one", "variant": name}
    write_json(folder / "variants" / f"{name}.json", own)


def _write_weights(path: Path, name: str) -> None:
    """Write all weights of a variant, in half precision like the files that they come from."""
    network = export_network(name)
    for module in network.modules():
        if isinstance(module, Frozen):
            module.stored = True
    with tempfile.TemporaryDirectory() as folder:
        torch.save(network.state_dict(), Path(folder) / "model.pt")
        save_weights(Path(folder) / "model.pt", path)


def _write_large_files(folder: Path, address: str) -> None:
    """Write the list by which MONAI downloads the weights."""
    lines = ["large_files:"]
    for path in sorted((folder / "models").iterdir()):
        file = path.relative_to(folder).as_posix()
        lines += [f'- path: "{file}"', f'  url: "{address.rstrip("/")}/{folder.name}/{file}"']
        lines += [f'  hash_val: "{file_sha256(path)}"', '  hash_type: "sha256"']
    (folder / "large_files.yml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_pack(folder: Path, name: str, *, label: bool, large_files: str | None) -> None:
    _write_configs(folder / "configs", name, label=label)
    _write_weights(folder / "models" / "model.pt", name)
    export_torchscript(name, folder / "models" / "model.ts")
    metadata = ConfigParser.load_config_file(folder / "configs" / "metadata.json")
    rate = ConfigParser.load_config_file(folder / "configs" / "inference.json")["rate"]
    about = {"folder": folder.name, "description": metadata["description"], "suffix": BIDS_SUFFIXES[rate]}
    write_documents(folder / "docs", model_card(name, **about, label=label))
    shutil.copyfile(bundle_path() / "LICENSE", folder / "LICENSE")
    shutil.copytree(_PACKAGE, folder / _PACKAGE.name, ignore=_NOT_VENDORED)
    if large_files:
        _write_large_files(folder, large_files)


def _check_request(name: str, folder: Path, *, label: bool, large_files: str | None) -> None:
    with user_input():
        has_weights = is_learned(name)
    if not has_weights:
        learned = ", ".join(filter(is_learned, variant_names()))
        raise InputError(
            f"variant {name!r} is a conventional method without weights, and the Model Zoo wants models/model.pt; "
            f"pack one of {learned}"
        )
    if folder.exists():
        raise InputError(f"{folder} is there already; remove it, or choose another --output")
    if label and not (bundle_path() / "configs" / "label.json").is_file():
        raise FileNotFoundError("the bundle has no configs/label.json; reinstall chisep, or leave out --label")
    if large_files and not re.match(r"https?://[^\s\"]+$", large_files):
        raise InputError(f"--large_files must be the address they will have, https://..., got {large_files!r}")


def pack_bundle(
    name: str, output: Path, *, archive: bool = False, large_files: str | None = None, label: bool = False
) -> Path:
    """Write a variant as a self-contained bundle, checked by :func:`check_bundle`, complete or not at all.

    Args:
        name: of the variant, which has weights.
        output: folder that will hold the pack; made if need be.
        archive: write NAME_vVERSION.zip beside it too, as MONAI downloads them.
        large_files: address of the folder where the pack will be published; with it, large_files.yml names the
            weights' addresses there.
        label: stack label.json on inference.json: one file a case, for servers such as MONAI Label.

    Returns:
        The pack's folder.

    Raises:
        InputError: the variant has no weights, the pack is there already, or it fails a check.
        ValueError: there is no such variant.
        FileNotFoundError: a weights file is missing.
    """
    folder = output / pack_name(name)
    _check_request(name, folder, label=label, large_files=large_files)
    with staged_folder(output) as stage:
        staged = stage / folder.name
        _write_pack(staged, name, label=label, large_files=large_files)
        if findings := check_bundle(staged):
            raise InputError(
                f"the pack of {name} fails the Model Zoo's checks, nothing is written: {'; '.join(findings)}"
            )
        if archive:
            version = ConfigParser.load_config_file(staged / "configs" / "metadata.json")["version"]
            shutil.make_archive(str(stage / f"{folder.name}_v{version}"), "zip", stage, folder.name)
    return folder
