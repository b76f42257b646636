"""Exported TorchScript: every network, equal to its module, on any grid and geometry that the module takes."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import monai
import pytest
import torch
from torch import Tensor, nn

from custom_transforms.deploy import torchscript
from custom_transforms.deploy.torchscript import export_network, export_torchscript, stacked_config, variant_metadata
from custom_transforms.variants import is_learned, variant_names

LEARNED = [name for name in variant_names() if is_learned(name)]
ANY_GEOMETRY = ["unrolled", "unrolled_r2star"]
ROOT = Path(__file__).resolve().parents[2]
VOXEL_SIZE_MM = torch.tensor([[0.9, 1.2, 2.0]])
OBLIQUE = torch.nn.functional.normalize(torch.tensor([[0.2, -0.4, 0.9]]), dim=1)
WEIGHTS = torch.tensor([[1.2, 0.7]])


class Exported(NamedTuple):
    path: Path
    module: nn.Module
    network: nn.Module


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Grids this small run fastest so."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """The file of a variant, loaded as users do, and the module that it was made of."""
    folder = tmp_path_factory.mktemp("exports")

    @cache
    def make(name: str) -> Exported:
        path = folder / "models" / f"{name}.ts"
        export_torchscript(name, path)
        return Exported(path, torch.jit.load(path), export_network(name))

    return make


def measured(shape: tuple[int, int, int], batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(batch, 3, *shape, generator=generator) * torch.tensor([0.02, 0.1, 1.0])[:, None, None, None]
    image[:, 2] = (image[:, 2] > 0.1).float()
    return image


@pytest.mark.parametrize("name", LEARNED)
def test_one_tensor(name: str, export: Callable[[str], Exported]) -> None:
    file = export(name)
    image = measured((16, 18, 17))
    assert not file.module.training
    chi = file.module(image)
    assert chi.shape == (1, 2, 16, 18, 17) and chi.dtype == torch.float32 and not chi.requires_grad
    torch.testing.assert_close(chi, file.network(image), rtol=1e-5, atol=1e-7)
    assert float(chi.std()) > 1e-3


@pytest.mark.parametrize("name", ANY_GEOMETRY)
def test_one_file_takes_every_grid_and_geometry(name: str, export: Callable[[str], Exported]) -> None:
    file = export(name)
    for shape, batch in (((16, 12, 20), 1), ((15, 13, 17), 1), ((14, 17, 16), 2)):
        image = measured(shape, batch)
        geometry = [values.repeat(batch, 1) for values in (VOXEL_SIZE_MM, OBLIQUE, WEIGHTS)]
        expected = file.network(image, *geometry)
        torch.testing.assert_close(file.module(image, *geometry), expected, rtol=1e-5, atol=1e-7)
        for i, other in enumerate((VOXEL_SIZE_MM.flip(1), OBLIQUE.flip(1), WEIGHTS.flip(1))):
            wrong = [*geometry[:i], other.repeat(batch, 1), *geometry[i + 1 :]]
            assert float((file.module(image, *wrong) - expected).abs().max()) > 1e-4


@pytest.mark.parametrize("name", sorted(set(LEARNED) - set(ANY_GEOMETRY)))
def test_direct_networks_refuse_other_geometry(name: str, export: Callable[[str], Exported]) -> None:
    file, image = export(name), measured((16, 16, 16))
    axial = torch.ones(1, 3), torch.tensor([[0.0, 0.0, 1.0]])
    torch.testing.assert_close(file.module(image, *axial), file.module(image))
    with pytest.raises(torch.jit.Error, match="was trained at 1"):
        file.module(image, VOXEL_SIZE_MM)
    with pytest.raises(torch.jit.Error, match=r"was trained with B0 along \+z"):
        file.module(image, None, OBLIQUE)


def test_nonsense_is_refused(export: Callable[[str], Exported]) -> None:
    module, image = export("unrolled").module, measured((8, 8, 8))
    with pytest.raises(torch.jit.Error, match="must hold unit vectors"):
        module(image, None, 2 * OBLIQUE)
    with pytest.raises(torch.jit.Error, match="voxel_size_mm must be positive"):
        module(image, -VOXEL_SIZE_MM)
    with pytest.raises(torch.jit.Error, match=r"must have shape \(1, 3\), got \[2, 3\]"):
        module(image, VOXEL_SIZE_MM.repeat(2, 1))
    with pytest.raises(torch.jit.Error, match="add the missing axes"):
        module(image[0])


@pytest.mark.parametrize("name", ["unrolled_r2star", "chi_sepnet_r2prime"])
def test_metadata_and_config_are_inside(name: str, export: Callable[[str], Exported]) -> None:
    path = export(name).path
    _, metadata, extra = monai.bundle.load(
        path.parent.parent.name,
        bundle_dir=path.parent.parent.parent,
        model_file=f"models/{path.name}",
        load_ts_module=True,
        config_files=["inference.json"],
        device="cpu",
    )
    assert metadata["version"] == variant_metadata(name)["version"] and metadata["variant"] == name
    rate = metadata["network_data_format"]["inputs"]["image"]["channel_def"]["1"]
    assert rate == ("R2* / Dr (ppm)" if name.endswith("r2star") else "R2' / Dr (ppm)")
    config = json.loads(extra["inference.json"])
    assert config == stacked_config(name) and config["variant"] == name and config["bundle_root"] == "."
    assert {"preprocessing", "inferer", "postprocessing", "network_def"} <= config.keys()
    assert not {"loss", "optimizer", "phantom"} & config.keys()


def test_no_path_of_the_sources_is_inside(export: Callable[[str], Exported]) -> None:
    with zipfile.ZipFile(export("unrolled").path) as file:
        content = b"".join(file.read(record) for record in file.infolist())
    assert b"UnrolledChiSepNet" in content  # the check reads what the file holds
    assert str(ROOT).encode() not in content and b"site-packages" not in content


def test_file_runs_without_the_package(export: Callable[[str], Exported], tmp_path: Path) -> None:
    file, image = export("unrolled"), measured((16, 12, 20))
    torch.save(image, tmp_path / "image.pt")
    code = (
        "import sys; sys.modules['custom_transforms'] = None; import torch; torch.set_num_threads(1)\n"
        "image = torch.load('image.pt'); torch.save(torch.jit.load(sys.argv[1])(image), 'chi.pt')"
    )
    subprocess.run([sys.executable, "-c", code, file.path], cwd=tmp_path, check=True)
    torch.testing.assert_close(torch.load(tmp_path / "chi.pt"), file.network(image), rtol=1e-5, atol=1e-6)


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'tv' is a conventional method without weights"):
        export_torchscript("tv", tmp_path / "tv.ts")
    with pytest.raises(ValueError, match="there is no variant 'unroled'"):
        export_torchscript("unroled", tmp_path / "unroled.ts")
    with pytest.raises(ValueError, match=r"must end in \.ts, got 'model\.pt'"):
        export_torchscript("unrolled", tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, stripped: Path) -> None:
        stripped.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torchscript, "_strip_source_paths", fail)
    with pytest.raises(OSError, match="no space left"):
        export_torchscript("unrolled", tmp_path / "out" / "model.ts")
    assert not list(tmp_path.iterdir())
