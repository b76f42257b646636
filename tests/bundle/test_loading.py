"""`monai.bundle.load`, offline: the default and every learned variant, from the checkout and from a wheel."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import monai
import pytest
import torch
from torch import nn

from custom_transforms.variants import DEFAULT, inference_config, is_learned, load_variant, variant_names
from custom_transforms.weights import load_weights, read_state_dict

pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")

LEARNED = [name for name in variant_names() if is_learned(name)]
ROOT = Path(__file__).resolve().parents[2]
MAX_WHEEL_MIB = 60


def load(bundle: Path, name: str) -> nn.Module:
    """Load a variant as the documentation says."""
    if name == DEFAULT:
        return monai.bundle.load(bundle.name, bundle_dir=bundle.parent, workflow_type="inference", device="cpu").eval()
    config = inference_config(name)
    return monai.bundle.load(
        bundle.name,
        bundle_dir=bundle.parent,
        model=config.get_parsed_content("network_def"),
        model_file=f"models/{config['model_file']}",
        device="cpu",
    ).eval()


def check_weights(network: nn.Module, file: Path) -> None:
    """MONAI's loader leaves out, without a word, what does not fit."""
    stored, own = read_state_dict(file), network.state_dict()
    assert own.keys() == stored.keys()
    for key, value in own.items():
        torch.testing.assert_close(value, stored[key].to(value), rtol=0.0, atol=0.0)


@pytest.fixture(autouse=True)
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the loader wants to download")

    monkeypatch.setattr(monai.bundle.scripts, "download", refuse)


@pytest.mark.parametrize("name", LEARNED)
def test_variant(name: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # from any folder
    network = load(bundle, name)
    assert not any(module.training for module in network.modules())
    check_weights(network, bundle / "models" / inference_config(name)["model_file"])
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 16, 16, 16, generator=generator) * torch.tensor([0.02, 0.1, 1.0])[:, None, None, None]
    with torch.no_grad():
        expected = load_variant(name).network(image)
        torch.testing.assert_close(network(image), expected)
        untrained = inference_config(name).get_parsed_content("network_def").eval()
        assert float((untrained(image) - expected).abs().max()) > 1e-3


@pytest.mark.parametrize("damage", ["renamed", "missing", "another network"])
def test_checkpoint_with_wrong_keys_is_noticed(damage: str, bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle / "configs", copy / "configs")
    (copy / "models").mkdir()
    state = read_state_dict(bundle / "models/model.pt")
    if damage == "renamed":
        state = {f"module.{key}": value for key, value in state.items()}
    elif damage == "missing":
        state.popitem()
    else:
        state = read_state_dict(bundle / "models/qsmnet.pt")
    torch.save(state, copy / "models/model.pt")
    network = load(copy, DEFAULT)  # MONAI says nothing
    with pytest.raises(AssertionError):
        check_weights(network, copy / "models/model.pt")
    with pytest.raises(ValueError, match="holds the weights of another network"):
        load_weights(network, copy / "models/model.pt")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what git knows."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True)
    for name in listed.stdout.decode().splitlines():
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "dist", "./source"]
    subprocess.run(build, cwd=folder, check=True)
    (built,) = (folder / "dist").glob("chisep-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel in it; what the wheel depends on comes from this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "pip", "-q", "--python", python, "install", "--no-deps", wheel], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    # a line of a .pth file adds a folder, but not the .pth files in it: the checkout stays out
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return folder


LOAD_ALL = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
import custom_transforms, torch
from custom_transforms.bundle_path import bundle_path
from test_loading import LEARNED, check_weights, load
torch.set_num_threads(1)
assert Path(custom_transforms.__file__).is_relative_to(sys.prefix), custom_transforms.__file__
for name in LEARNED:
    network = load(bundle_path(), name)
    check_weights(network, bundle_path() / "models" / sys.modules["test_loading"].inference_config(name)["model_file"])
    chi = network(torch.full((1, 3, 16, 16, 16), 0.05))
    print(name, network.training, tuple(chi.shape))
"""


@pytest.mark.doors
@pytest.mark.wheel
@pytest.mark.timeout(900)
def test_installed_wheel(wheel: Path, installed: Path, tmp_path: Path) -> None:
    assert wheel.stat().st_size <= MAX_WHEEL_MIB * 2**20
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    shown = subprocess.run(
        [installed / "bin/chisep", "bundle-path"], cwd=tmp_path, env=environment, check=True, capture_output=True
    )
    path = Path(shown.stdout.decode().strip())
    assert path.is_relative_to(installed) and (path / "models/model.pt").is_file()
    run = [installed / "bin/python", "-c", LOAD_ALL, str(Path(__file__).parent)]
    loaded = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True)
    assert loaded.returncode == 0, loaded.stderr.decode()
    lines = [line for line in loaded.stdout.decode().splitlines() if line.startswith(tuple(LEARNED))]
    assert lines == [f"{name} False (1, 2, 16, 16, 16)" for name in LEARNED]
