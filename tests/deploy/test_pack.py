"""A packed bundle gives the variant's maps, alone: without chisep, and its TorchScript file without any package."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import monai.bundle
import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from custom_transforms import variants
from custom_transforms.bundle_path import bundle_path
from custom_transforms.checks import InputError
from custom_transforms.cli import check_arguments
from custom_transforms.data import BIDS_SUFFIXES, bids_path
from custom_transforms.deploy import pack as module
from custom_transforms.deploy.pack import pack_bundle, pack_name
from custom_transforms.networks import Frozen

ROOT = Path(__file__).resolve().parents[2]
LEARNED = [name for name in variants.variant_names() if variants.is_learned(name)]
MAPS = ("chi_para", "chi_dia", "chi_total")


def image() -> torch.Tensor:
    return torch.rand(1, 3, 16, 16, 16, generator=torch.Generator().manual_seed(1))


def variant_output(name: str) -> torch.Tensor:
    config = variants.inference_config(name)
    config.update({"amp": False})
    with torch.no_grad():
        return config.get_parsed_content("network").eval()(image())


def alone(pack: Path, *arguments: str, package: bool = True, cwd: Path | None = None) -> str:
    """Run Python with the pack as the only place that holds the package: -S leaves out what is installed editable."""
    site = sysconfig.get_path("purelib")
    environment = {**os.environ, "PYTHONPATH": f"{pack}{os.pathsep}{site}" if package else site, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=cwd or pack,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_is_in_it(pack: Path) -> None:
    assert pack.name == "brain_mr_chi_separation_chi_sepnet_r2prime"
    top = {"LICENSE", "configs", "custom_transforms", "docs", "large_files.yml", "models"}
    assert {path.name for path in pack.iterdir()} == top
    assert {path.name for path in (pack / "models").iterdir()} == {"model.pt", "model.ts"}
    assert (pack / "LICENSE").read_bytes() == (bundle_path() / "LICENSE").read_bytes()
    vendored = {
        path.relative_to(pack): path.read_bytes() for path in pack.glob("custom_transforms/**/*") if path.is_file()
    }
    assert not [path for path in vendored if "_bundle" in path.parts or "__pycache__" in path.parts]
    assert Path("custom_transforms/report/page.html.jinja") in vendored  # package data
    assert all(content == (ROOT / path).read_bytes() for path, content in vendored.items())


def test_links_of_the_documents_lead_to_files(pack: Path) -> None:
    for document in (pack / "docs").glob("*.md"):
        links = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
        assert not [link for link in links if not (pack / "docs" / link).is_file()], document
    assert "](physics.md)" in (pack / "docs/README.md").read_text()


@pytest.mark.parametrize("name", LEARNED)
def test_metadata_and_card_of_every_variant(name: str, tmp_path: Path) -> None:
    module._write_configs(tmp_path, name, label=False)
    metadata, inference = (json.loads((tmp_path / f"{part}.json").read_text()) for part in ("metadata", "inference"))
    assert "chisep" not in metadata["required_packages_version"] and "fire" in metadata["required_packages_version"]
    rate = {"r2prime": "R2'", "r2star": "R2*"}[inference["rate"]]
    assert rate in metadata["network_data_format"]["inputs"]["image"]["channel_def"]["1"]
    assert inference["model_file"] == "model.pt" and inference["variant"] == name
    assert not [key for key in inference if key.endswith("_weights")]
    card = module.model_card(name, folder=pack_name(name), description=metadata["description"], suffix="X")
    assert metadata["description"] in card if name != "unrolled" else "unrolled network" in card
    others = {other for other in LEARNED if f"`{other}`" in card.split("## Data")[0]} - {name}
    assert others <= {name.rsplit("_", 1)[0]}


@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")  # MONAI warns of configs of strangers
def test_all_weights_are_in_one_file(pack: Path, tmp_path: Path) -> None:
    """Also those of the frozen network, and MONAI finds them from any working directory."""
    network = monai.bundle.load(pack.name, bundle_dir=str(pack.parent), workflow_type="inference", device="cpu").eval()
    assert any(isinstance(part, Frozen) for part in network.modules())
    with torch.no_grad():
        torch.testing.assert_close(network(image()), variant_output("chi_sepnet_r2prime"), rtol=0, atol=1e-6)
        next(network.susceptibility.parameters()).add_(1.0)  # what is frozen counts
        assert not torch.allclose(network(image()), variant_output("chi_sepnet_r2prime"), atol=1e-6)
    state = torch.load(pack / "models/model.pt", weights_only=True)
    assert all(value.dtype == torch.float16 for value in state.values() if value.is_floating_point())


@pytest.mark.parametrize("kind", ["inference", "train"])
def test_required_properties(kind: str, pack: Path, dataset: Path, tmp_path: Path) -> None:
    workflow = ConfigWorkflow(
        config_file=str(pack / "configs" / f"{kind}.json"),
        workflow_type=kind,
        logging_file=False,
        bundle_root=str(pack),
        dataset_dir=str(dataset) if kind == "inference" else None,
        output_dir=str(tmp_path),
        device="cpu",
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_training_starts_from_the_weights_and_stores_all_of_them(pack: Path, tmp_path: Path) -> None:
    parser = ConfigParser()
    parser.read_config(pack / "configs" / "train.json")
    tiny = {"max_epochs": 1, "epoch_length": 1, "batch_size": 1, "val_length": 1, "patience_epochs": 9}
    tiny |= {
        "volume_shape": [32] * 3,
        "patch_shape": [16] * 3,
        "device": "cpu",
        "export_path": str(tmp_path / "new.pt"),
    }
    parser.update({**tiny, "bundle_root": str(pack), "output_dir": str(tmp_path)})
    parser.get_parsed_content("training")
    parser.get_parsed_content("export")
    before, best = (torch.load(path, weights_only=True) for path in (pack / "models/model.pt", tmp_path / "new.pt"))
    assert before.keys() == best.keys()
    after = torch.load(tmp_path / "checkpoints/last.pt", weights_only=True)["model"]
    frozen = [name for name in before if name.startswith("susceptibility.")]
    assert frozen and all(torch.equal(before[name], after[name].to(before[name].dtype)) for name in frozen)
    trained = [name for name in before if name.startswith("mapping.") and name.endswith("conv.weight")]
    changes = [float((before[name] - after[name]).abs().max() / before[name].abs().max()) for name in trained]
    assert 0 < max(changes) < 0.5  # one step away from where it was, not at a random start


def test_archive_and_large_files(pack: Path) -> None:
    metadata = json.loads((pack / "configs/metadata.json").read_text())
    with zipfile.ZipFile(pack.parent / f"{pack.name}_v{metadata['version']}.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    stored = {str(p.relative_to(pack.parent)): p.read_bytes() for p in pack.rglob("*") if p.is_file()}
    assert files == stored
    listed = ConfigParser.load_config_file(pack / "large_files.yml")["large_files"]
    assert [file["path"] for file in listed] == ["models/model.pt", "models/model.ts"]
    for file in listed:
        assert file["url"] == f"https://example.org/zoo/{pack.name}/{file['path']}"
        assert file["hash_type"] == "sha256"
        assert file["hash_val"] == hashlib.sha256((pack / file["path"]).read_bytes()).hexdigest()


def contents(path: Path) -> bytes:
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return b"\n".join(archive.read(name) + name.encode() for name in archive.namelist())


def test_no_path_of_this_machine(pack: Path, tmp_path: Path) -> None:
    places = {str(ROOT), str(pack.parent), str(tmp_path.parent), sys.prefix, str(Path.home()), ".chisep-"}
    found = [
        (str(path.relative_to(pack)), place)
        for path in sorted(pack.rglob("*"))
        if path.is_file()
        for place in places
        if (place if len(place) > 6 else f"{place}/").encode() in contents(path)
    ]
    own_word = [("custom_transforms/output.py", ".chisep-")]  # the prefix of temporary folders
    assert [entry for entry in found if entry not in own_word] == []
    assert own_word[0] in found  # the search finds what is there


def test_label_config_takes_one_file(tmp_path: Path) -> None:
    module._write_configs(tmp_path, "unrolled", label=True)
    config = json.loads((tmp_path / "inference.json").read_text())
    loaded = [step["keys"] for step in config["preprocessing"]["transforms"] if step["_target_"] == "LoadImaged"]
    assert loaded == ["image"]
    module._write_configs(tmp_path / "plain", "unrolled", label=False)
    plain = json.loads((tmp_path / "plain/inference.json").read_text())["preprocessing"]["transforms"]
    assert [step["keys"] for step in plain if step["_target_"] == "LoadImaged"] == ["@maps"]
    data_format = json.loads((tmp_path / "metadata.json").read_text())["network_data_format"]
    assert all(key.isdigit() for side in data_format.values() for key in next(iter(side.values()))["channel_def"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tv", {}, r"'tv' is a conventional method without weights.*pack one of chi_sepnet_r2prime, "),
        ("unroled", {}, "there is no variant 'unroled'"),
        ("unrolled", {"large_files": "weights"}, "--large_files must be the address"),
    ],
)
def test_refused(name: str, options: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        pack_bundle(name, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_pack_that_is_there_is_left_alone(pack: Path) -> None:
    with pytest.raises(InputError, match="is there already; remove it"):
        pack_bundle("chi_sepnet_r2prime", pack.parent)


def test_nothing_is_left_of_a_pack_that_fails_a_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_licence(folder: Path, *args: object, **options: object) -> None:
        module._write_configs(folder / "configs", "unrolled", label=False)
        (folder / "models").mkdir()

    monkeypatch.setattr(module, "_write_pack", without_licence)
    with pytest.raises(InputError, match=r"nothing is written: there is no LICENSE"):
        pack_bundle("unrolled", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_command() -> None:
    assert check_arguments(["pack", "--output", "x", "--zip", "--variant", "qsmnet"]) == [
        "pack",
        "--output='x'",
        "--zip=True",
        "--variant='qsmnet'",
    ]
    with pytest.raises(InputError, match="--output missing"):
        check_arguments(["pack"])


def test_torchscript_needs_no_package(pack: Path, tmp_path: Path) -> None:
    code = f"""
import importlib.util, sys, torch, monai.bundle
assert importlib.util.find_spec("custom_transforms") is None, sys.path
where = {str(pack.parent)!r}
network, metadata, _ = monai.bundle.load({pack.name!r}, bundle_dir=where, load_ts_module=True, device="cpu")
image = torch.rand(1, 3, 16, 16, 16, generator=torch.Generator().manual_seed(1))
torch.save(network(image), "chi.pt")
print(metadata["version"])
"""
    version = alone(pack, "-c", code, package=False, cwd=tmp_path)
    assert version.split()[-1] == json.loads((pack / "configs/metadata.json").read_text())["version"]
    torch.testing.assert_close(torch.load(tmp_path / "chi.pt"), variant_output("chi_sepnet_r2prime"), rtol=0, atol=1e-6)


def maps(folder: Path) -> np.ndarray:
    return np.stack([nibabel.load(folder / f"{name}.nii.gz").get_fdata(dtype=np.float32) for name in MAPS])


def inference(dataset: Path, output: Path) -> list[str]:
    options = ("--config_file", "configs/inference.json", "--dataset_dir", str(dataset), "--output_dir", str(output))
    return ["-m", "monai.bundle", "run", *options, "--device", "cpu", "--amp", "False"]


def verification(pack: Path) -> str:
    """What a user of the pack does in Python, without chisep."""
    schema = ROOT.parent / "shared" / "schemas" / "meta_schema_20240725.json"
    known = f"Path({str(schema)!r})" if schema.is_file() else None
    return f"""
import sys, custom_transforms, custom_transforms.bundle_path, monai.bundle, torch
from pathlib import Path
from custom_transforms.deploy.zoo import check_bundle
from custom_transforms.variants import load_variant, variant_names
root = Path({str(pack)!r})
assert Path(custom_transforms.__file__).parent == root / "custom_transforms", custom_transforms.__file__
assert custom_transforms.bundle_path.bundle_path() == root
assert check_bundle(root, schema={known}) == []  # verify_metadata and verify_net_in_out are in it
network = monai.bundle.load(root.name, bundle_dir=str(root.parent), workflow_type="inference", device="cpu").eval()
same = load_variant(*variant_names()).network
for name, value in network.state_dict().items():
    assert torch.equal(value, same.state_dict()[name]), name
"""


@pytest.mark.doors
@pytest.mark.wheel
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", LEARNED)
def test_without_chisep(name: str, dataset: Path, tmp_path: Path) -> None:
    pack = pack_bundle(name, tmp_path / "packs")
    alone(pack, *inference(dataset, tmp_path / "maps"))
    parser = variants.inference_config(name)
    parser.update({"dataset_dir": str(dataset), "output_dir": str(tmp_path / "wanted"), "amp": False})
    parser.get_parsed_content("run")
    wanted, got = maps(tmp_path / "wanted"), maps(tmp_path / "maps")
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert wanted[0].max() > 0.01
    alone(pack, "-c", verification(pack), cwd=tmp_path)


@pytest.mark.doors
@pytest.mark.wheel
def test_wrong_order_of_channels_gives_other_maps(pack: Path, dataset: Path, tmp_path: Path) -> None:
    """The comparison with the variant's maps bites."""
    shutil.copytree(dataset, tmp_path / "swapped")
    field, rate = (bids_path(tmp_path / "swapped", "sub-01", BIDS_SUFFIXES[key]) for key in ("local_field", "r2prime"))
    field.rename(tmp_path / "kept")
    rate.rename(field)
    (tmp_path / "kept").rename(rate)
    alone(pack, *inference(dataset, tmp_path / "right"))
    alone(pack, *inference(tmp_path / "swapped", tmp_path / "wrong"))
    right, wrong = maps(tmp_path / "right"), maps(tmp_path / "wrong")
    assert np.abs(right - wrong).max() > 0.1 * np.abs(right).max()


@pytest.mark.doors
@pytest.mark.wheel
def test_required_packages_are_all_that_its_configs_import(pack: Path) -> None:
    code = """
import ast, importlib, re, sys
from pathlib import Path
configs = "".join(path.read_text() for path in Path("configs").glob("*.json"))
for name in set(re.findall(r"custom_transforms(?:\\.[a-z_0-9]+)+", configs)):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        importlib.import_module(name.rsplit(".", 1)[0])  # a function
files = [getattr(module, "__file__", None) for name, module in sys.modules.items() if name.startswith("custom_tr")]
nodes = [node for file in files if file for node in ast.parse(Path(file).read_text()).body]
names = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
names |= {n.module for n in nodes if isinstance(n, ast.ImportFrom) and not n.level}
print(*sorted({name.split(".")[0] for name in names} - sys.stdlib_module_names - {"custom_transforms"}))
"""
    imported = set(alone(pack, "-c", code).split("\n")[-2].split())
    required = json.loads((pack / "configs/metadata.json").read_text())["required_packages_version"]
    installed_as = {"pytorch-ignite": "ignite"}
    assert imported <= {installed_as.get(name, name) for name in required} | {"monai", "torch", "numpy"}
    assert {"ignite", "torch", "fire"} <= imported
