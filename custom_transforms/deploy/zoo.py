"""What the MONAI Model Zoo asks of a bundle, checked offline: each check gives findings, one line each.

Its continuous integration wants a valid metadata.json whose version is in the changelog, a file LICENSE,
models/model.pt, configs/inference.*, the required properties, network input and output as described, a TorchScript
file that loads; its contribution guide adds the names of config keys, the sections of the model card, and a limit on
the size of files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, verify_metadata
from monai.bundle.properties import InferProperties, MetaProperties, TrainProperties

from custom_transforms.deploy.card import HEADINGS
from custom_transforms.deploy.machine_paths import machine_paths
from custom_transforms.deploy.zoo_network import check_network, quiet
from custom_transforms.provenance import file_sha256

MAX_FILE_BYTES = 25_000_000
CONFIG_SUFFIXES = (".json", ".yaml", ".yml")
METADATA_KEYS = (
    "schema",
    "version",
    "changelog",
    "monai_version",
    "pytorch_version",
    "numpy_version",
    "required_packages_version",
    "name",
    "task",
    "description",
    "authors",
    "copyright",
    "network_data_format",
)
INFERENCE_KEYS = ("bundle_root", "device", "network_def", "inferer", "dataset_dir", "output_dir")
TRAINING_KEYS = (
    "bundle_root",
    "device",
    "network_def",
    "dataset_dir",
    "output_dir",
    "val_interval",
    "train::trainer::max_epochs",
    "train::dataset",
    "train::handlers",
    "train::inferer",
    "validate::evaluator",
    "validate::handlers",
    "validate::dataset",
)
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)+")


def _config_file(path: Path, name: str) -> Path | None:
    found = [path / "configs" / f"{name}{suffix}" for suffix in CONFIG_SUFFIXES]
    return next((file for file in found if file.is_file()), None)


def _large_files(path: Path) -> set[str]:
    """Name the files that large_files.yml says where to download."""
    listed = next(iter(sorted(path.glob("large_files.*"))), None)
    if listed is None:
        return set()
    files = ConfigParser.load_config_file(listed)["large_files"]
    return {str(file["path"]) for file in files if file.get("url")}


def _check_name(path: Path, metadata: Mapping[str, Any]) -> Iterator[str]:
    inputs = metadata.get("network_data_format", {}).get("inputs", {})
    modalities = {str(image.get("modality", "")).lower() for image in inputs.values() if isinstance(image, dict)}
    if not _NAME.fullmatch(path.name) or not modalities & set(path.name.split("_")):
        yield f"the name {path.name} must be small letters with _ between, with the modality ({', '.join(modalities)})"


def _check_metadata(path: Path, metadata: Mapping[str, Any], schema: Path | None) -> Iterator[str]:
    missing = [key for key in METADATA_KEYS if not metadata.get(key)]
    if missing:
        yield f"metadata.json lacks {', '.join(missing)}"
    version, changelog = metadata.get("version"), metadata.get("changelog") or {}
    if version not in changelog:
        yield f"version {version} is not in the changelog of metadata.json ({', '.join(changelog) or 'empty'})"
    if schema is not None:
        try:
            with quiet():
                verify_metadata(
                    meta_file=str(path / "configs" / "metadata.json"),
                    filepath=str(schema),
                    hash_val=file_sha256(schema),  # without one MONAI warns
                    hash_type="sha256",
                )
        except ValueError as error:
            yield f"metadata.json does not fit the schema: {' '.join(str(error).split())}"


def _check_config(file: Path, keys: tuple[str, ...], properties: Mapping[str, Any]) -> Iterator[str]:
    parser = ConfigParser()
    parser.read_config(file)
    parser.read_meta(file.parent / "metadata.json")
    required = [str(entry["id"]) for entry in properties.values() if entry.get("required")]
    missing = [key for key in dict.fromkeys([*keys, *required]) if key not in parser]
    if missing:
        yield f"{file.name} lacks {', '.join(missing)}"


def _check_configs(path: Path) -> Iterator[str]:
    inference, train = _config_file(path, "inference"), _config_file(path, "train")
    if inference is None:
        yield f"there is no configs/inference{' or '.join(CONFIG_SUFFIXES)}"
    else:
        yield from _check_config(inference, INFERENCE_KEYS, InferProperties | MetaProperties)
    if train is not None:
        yield from _check_config(train, TRAINING_KEYS, TrainProperties | MetaProperties)


def _check_files(path: Path, large: set[str]) -> Iterator[str]:
    for name in ("LICENSE", "models/model.pt", "docs/README.md", "docs/data_license.txt"):
        file = path / name
        if name not in large and not (file.is_file() and file.stat().st_size):
            yield f"there is no {name}, or it is empty"
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        name = file.relative_to(path).as_posix()
        if file.stat().st_size > MAX_FILE_BYTES and name not in large:
            size = f"{file.stat().st_size / 1e6:.1f} MB, more than {MAX_FILE_BYTES / 1e6:.0f}"
            yield f"{name} has {size}; list it in large_files.yml"
        if found := machine_paths(file):
            yield f"{name} names a folder of a machine: {found[0]}"


def _check_card(path: Path) -> Iterator[str]:
    card = path / "docs" / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    missing = [name for name in HEADINGS if not re.search(rf"^## {name}\n+(?!#)\S", text, flags=re.MULTILINE)]
    if missing or not text.startswith("# Model Overview\n"):
        yield f"docs/README.md lacks, or leaves empty, {', '.join(missing) or '# Model Overview as its first line'}"


def check_bundle(path: Path, *, schema: Path | None = None, network: bool = True) -> list[str]:
    """Check a bundle against what the Model Zoo asks for, without a connection.

    Args:
        path: folder of the bundle.
        schema: metadata schema that the bundle names, as a file; None leaves this check out.
        network: run its network too, which takes seconds; the package that it uses must be importable.

    Returns:
        Findings, one line each; nothing if all is well.

    Raises:
        FileNotFoundError: there is no configs/metadata.json.
    """
    file = path / "configs" / "metadata.json"
    if not file.is_file():
        raise FileNotFoundError(f"{path} holds no configs/metadata.json; give the folder of a bundle")
    metadata, large = json.loads(file.read_text(encoding="utf-8")), _large_files(path)
    findings = [
        *_check_name(path, metadata),
        *_check_metadata(path, metadata, schema),
        *_check_configs(path),
        *_check_files(path, large),
        *_check_card(path),
    ]
    inference = _config_file(path, "inference")
    if network and inference is not None and (path / "models" / "model.pt").is_file():
        findings += check_network(path, inference)
    return findings
