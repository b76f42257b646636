"""The checks of the Model Zoo find nothing in a pack, and each of them finds its damage."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import load_net_with_metadata, save_net_with_metadata

from custom_transforms.deploy import zoo
from custom_transforms.deploy.machine_paths import machine_paths
from custom_transforms.deploy.zoo import check_bundle

FOREIGN = "/".join(["", "home", "ada", "maps"])  # in pieces: no file of the repository names such a folder

SCHEMA = Path(__file__).resolve().parents[3] / "shared" / "schemas" / "meta_schema_20240725.json"


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def edit_text(file: Path, old: str, new: str) -> None:
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def edit_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = torch.load(path / "models/model.pt", weights_only=True)
    change(state)
    torch.save(state, path / "models/model.pt")


def oversize(path: Path) -> None:
    with (path / "models/model.pt").open("r+b") as file:
        file.truncate(zoo.MAX_FILE_BYTES + 1)


def test_a_pack_passes(pack: Path) -> None:
    assert check_bundle(pack) == []


@pytest.mark.skipif(not SCHEMA.is_file(), reason="the schema is not part of the repository")
def test_schema(damaged: Path) -> None:
    assert check_bundle(damaged, schema=SCHEMA, network=False) == []
    edit(damaged / "configs/metadata.json", lambda metadata: metadata.update(version=5))
    assert "schema" in check_bundle(damaged, schema=SCHEMA, network=False)[-1]


def unlink(*names: str) -> Callable[[Path], None]:
    return lambda path: [path.joinpath(name).unlink() for name in names] and None


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no licence": (unlink("LICENSE"), "there is no LICENSE"),
    "empty licence": (lambda path: (path / "LICENSE").write_text(""), "there is no LICENSE, or it is empty"),
    "no data licence": (unlink("docs/data_license.txt"), "there is no docs/data_license.txt"),
    "no weights": (unlink("large_files.yml", "models/model.pt"), "there is no models/model.pt"),
    "no inference config": (unlink("configs/inference.json"), "there is no configs/inference.json or .yaml or .yml"),
    "version without a line": (
        lambda path: edit(path / "configs/metadata.json", lambda metadata: metadata.update(version="9.9.9")),
        "version 9.9.9 is not in the changelog",
    ),
    "no changelog": (
        lambda path: edit(path / "configs/metadata.json", lambda metadata: metadata.pop("changelog")),
        "metadata.json lacks changelog",
    ),
    "config key": (
        lambda path: edit(path / "configs/inference.json", lambda config: config.pop("output_dir")),
        "inference.json lacks output_dir",
    ),
    "required property": (
        lambda path: edit(path / "configs/inference.json", lambda config: config.pop("evaluator")),
        "inference.json lacks evaluator",
    ),
    "required property of training": (
        lambda path: edit(path / "configs/train.json", lambda config: config["train"]["trainer"].pop("max_epochs")),
        "train.json lacks train::trainer::max_epochs",
    ),
    "oversize": (
        lambda path: (unlink("large_files.yml")(path), oversize(path)),
        r"models/model.pt has 25\.0 MB, more than 25; list it in large_files.yml",
    ),
    "no section": (
        lambda path: edit_text(path / "docs/README.md", "## Limitations", "### Limitations"),
        "leaves empty, Limitations",
    ),
    "empty section": (
        lambda path: edit_text(path / "docs/README.md", "## Data\n", "## Data\n\n## More data\n"),
        "leaves empty, Data",
    ),
    "no title": (
        lambda path: edit_text(path / "docs/README.md", "# Model Overview\n", ""),
        "Model Overview as its first",
    ),
    "path of a machine": (
        lambda path: edit_text(path / "configs/inference.json", '"output_dir": "', f'"output_dir": "{FOREIGN}'),
        f"configs/inference.json names a folder of a machine: {FOREIGN}",
    ),
    "name": (
        lambda path: edit_text(path / "configs/metadata.json", '"modality": "MR"', '"modality": "CT"'),
        "must be small letters with _ between, with the modality",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found(name: str, damaged: Path) -> None:
    damage, finding = DAMAGE[name]
    assert check_bundle(damaged, network=False) == []
    damage(damaged)
    findings = check_bundle(damaged, network=False)
    with pytest.raises(ValueError, match=finding):  # one finding, that of the damage
        raise ValueError(*findings)


def test_listed_large_files_may_be_large_or_elsewhere(damaged: Path) -> None:
    oversize(damaged)
    assert check_bundle(damaged, network=False) == []
    (damaged / "models/model.pt").unlink()
    assert check_bundle(damaged) == []


def double_a_bias(state: dict[str, torch.Tensor]) -> None:
    name = next(name for name in state if name.startswith("susceptibility.") and name.endswith("bias"))
    state[name] += 1


def damage_torchscript(path: Path, **metadata: object) -> None:
    file = path / "models/model.ts"
    network, embedded, _ = load_net_with_metadata(str(file))
    save_net_with_metadata(network, str(file), meta_values={**embedded, **metadata})


NETWORK_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights of another training": (
        lambda path: edit_weights(path, double_a_bias),
        r"model.ts and models/model.pt differ",
    ),
    "weight missing": (
        lambda path: edit_weights(path, lambda state: state.pop(next(iter(state)))),
        "model.pt does not fit network_def",
    ),
    "no weights": (lambda path: (path / "models/model.pt").write_text("text"), "model.pt does not fit network_def"),
    "other channels": (
        lambda path: edit(
            path / "configs/metadata.json",
            lambda metadata: metadata["network_data_format"]["outputs"]["pred"].update(num_channels=3),
        ),
        "does not map inputs to outputs as metadata.json says",
    ),
    "no TorchScript": (lambda path: (path / "models/model.ts").write_bytes(b"x" * 99), "model.ts does not load"),
    "older TorchScript": (lambda path: damage_torchscript(path, version="0.0.1"), "model.ts is of version 0.0.1"),
}


@pytest.mark.parametrize("name", NETWORK_DAMAGE)
def test_damage_of_the_network_is_found(name: str, damaged: Path) -> None:
    damage, finding = NETWORK_DAMAGE[name]
    damage(damaged)
    with pytest.raises(ValueError, match=finding):
        raise ValueError(*check_bundle(damaged))


def test_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="give the folder of a bundle"):
        check_bundle(tmp_path)


def test_machine_paths_are_found_in_archives_and_addresses_are_not(tmp_path: Path) -> None:
    torch.save({"path": f"{tmp_path}/x, as it was"}, tmp_path / "hidden.pt")
    assert machine_paths(tmp_path / "hidden.pt") == [f"{tmp_path}/x"]
    (tmp_path / "text").write_text("https://a.org/home/x, ~/work/x, ./root/x, /data/x")
    assert machine_paths(tmp_path / "text") == []


def test_yaml_configs_count(damaged: Path) -> None:
    file = damaged / "configs/inference.json"
    ConfigParser.export_config_file(json.loads(file.read_text()), str(file.with_suffix(".yaml")), fmt="yaml")
    file.unlink()
    assert check_bundle(damaged, network=False) == []
