"""Exported ONNX: equal to the module in onnxruntime, for any geometry that the module takes; NaN for any other."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from custom_transforms.deploy import onnx as exports
from custom_transforms.deploy.onnx import export_onnx, write_onnx
from custom_transforms.deploy.torchscript import export_network, stacked_config
from custom_transforms.keys import GEOMETRY, IMAGE, PRED
from custom_transforms.networks import ChiSepNet, Frozen, QsmNet, UnrolledChiSepNet
from custom_transforms.variants import is_learned, variant_names

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

LEARNED = [name for name in variant_names() if is_learned(name)]
ROOT = Path(__file__).resolve().parents[2]
EVEN, ODD = (8, 10, 12), (9, 11, 13)
ONE_MM, AXIAL, SINGLE_DR = torch.ones(1, 3), torch.tensor([[0.0, 0.0, 1.0]]), torch.ones(1, 2)
VOXEL_SIZE_MM = torch.tensor([[0.9, 1.2, 2.0]])
OBLIQUE = torch.nn.functional.normalize(torch.tensor([[0.2, -0.4, 0.9]]), dim=1)
WEIGHTS = torch.tensor([[1.2, 0.7]])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Grids this small run fastest so."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def measured(shape: tuple[int, int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, *shape, generator=generator) * torch.tensor([0.02, 0.1, 1.0])[:, None, None, None]
    image[:, 2] = (image[:, 2] > 0.1).float()
    return image


def run(path: Path, *inputs: Tensor) -> Tensor:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    named = {name: values.numpy() for name, values in zip((IMAGE, *GEOMETRY), inputs, strict=True)}
    (chi,) = session.run([PRED], named)
    return torch.from_numpy(chi)


def unrolled() -> nn.Module:
    torch.manual_seed(0)
    backbone = nn.Conv3d(5, 4, 3, padding=1)
    return UnrolledChiSepNet(backbone=backbone, iterations=1).requires_grad_(False).eval()


def direct() -> nn.Module:
    torch.manual_seed(0)
    frozen = Frozen(QsmNet(backbone=nn.Conv3d(1, 1, 3, padding=1), size_divisor=4))
    network = ChiSepNet(backbone=nn.Conv3d(3, 2, 3, padding=1), susceptibility=frozen, size_divisor=4)
    return network.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def direct_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("direct") / "models" / "direct.onnx"
    write_onnx(direct(), path, shape=EVEN)
    return path


def test_unrolled(tmp_path: Path) -> None:
    network, image, path = unrolled(), measured(ODD), tmp_path / "unrolled.onnx"
    write_onnx(network, path, shape=ODD, metadata={"variant": "probe"})
    expected = network(image, VOXEL_SIZE_MM, OBLIQUE, WEIGHTS)
    torch.testing.assert_close(run(path, image, VOXEL_SIZE_MM, OBLIQUE, WEIGHTS), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(run(path, image, ONE_MM, AXIAL, SINGLE_DR), network(image), rtol=1e-4, atol=1e-6)
    for wrong in ((ONE_MM, OBLIQUE, WEIGHTS), (VOXEL_SIZE_MM, AXIAL, WEIGHTS), (VOXEL_SIZE_MM, OBLIQUE, SINGLE_DR)):
        assert float((run(path, image, *wrong) - expected).abs().max()) > 1e-4
    for refused in ((-ONE_MM, AXIAL), (ONE_MM, 2 * AXIAL)):
        assert bool(run(path, image, *refused, SINGLE_DR).isnan().all())
    properties = {item.key: item.value for item in onnx.load(path).metadata_props}
    assert json.loads(properties["shape"]) == list(ODD) and properties["voxel_size_mm"] == "any"
    assert properties["variant"] == "probe"


def test_direct_network_gives_nan_where_the_module_refuses(direct_file: Path) -> None:
    network, image, path = direct(), measured(EVEN), direct_file
    for accepted in ((ONE_MM, AXIAL, SINGLE_DR), (1.01 * ONE_MM, -AXIAL, SINGLE_DR)):
        torch.testing.assert_close(run(path, image, *accepted), network(image, *accepted), rtol=1e-4, atol=1e-6)
    for refused in ((VOXEL_SIZE_MM, AXIAL, SINGLE_DR), (ONE_MM, OBLIQUE, SINGLE_DR), (ONE_MM, AXIAL, WEIGHTS)):
        with pytest.raises(ValueError, match="was trained"):
            network(image, *refused)
        assert bool(run(path, image, *refused).isnan().all())
    properties = {item.key: item.value for item in onnx.load(path).metadata_props}
    assert properties["voxel_size_mm"] == "1 mm isotropic, 2 % off at most"
    assert properties["b0_direction"] == "along z, 1 degree off at most" and properties["relaxivity_weights"] == "1, 1"


def test_another_grid_is_refused(direct_file: Path) -> None:
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, match="Got invalid dimensions"):
        run(direct_file, measured(ODD), ONE_MM, AXIAL, SINGLE_DR)


def test_no_path_of_the_sources_is_inside(direct_file: Path) -> None:
    content = direct_file.read_bytes()
    assert b"Conv" in content  # the check reads what the file holds
    assert str(ROOT).encode() not in content and b"site-packages" not in content


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 7), (8, 8, 8.5), (8, -8, 8)])
def test_wrong_shapes_are_refused(shape: tuple[float, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be three whole numbers from 8 on"):
        write_onnx(direct(), tmp_path / "direct.onnx", shape=shape)


def test_what_cannot_be_exported_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="'medi' is a conventional method without weights"):
        export_onnx("medi", tmp_path / "medi.onnx", shape=EVEN)
    with pytest.raises(ValueError, match=r"must end in \.onnx, got 'model\.ts'"):
        export_onnx("unrolled", tmp_path / "model.ts", shape=EVEN)
    monkeypatch.setattr(exports, "optional_import", lambda name: (None, False))
    with pytest.raises(ValueError, match="needs the packages onnx and onnxscript"):
        write_onnx(direct(), tmp_path / "model.onnx", shape=EVEN)
    assert not list(tmp_path.iterdir())


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise onnx.checker.ValidationError("bad graph")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(onnx.checker.ValidationError, match="bad graph"):
        write_onnx(direct(), tmp_path / "out" / "model.onnx", shape=EVEN)
    assert not list(tmp_path.iterdir())


@pytest.mark.doors
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", LEARNED)
def test_every_network(name: str, tmp_path: Path) -> None:
    network, path = export_network(name), tmp_path / f"{name}.onnx"
    any_geometry = name in ("unrolled", "unrolled_r2star")
    geometry = (VOXEL_SIZE_MM, OBLIQUE, WEIGHTS) if any_geometry else (ONE_MM, AXIAL, SINGLE_DR)
    for shape in ((16, 18, 20), (17, 19, 15))[: 2 if any_geometry else 1]:
        export_onnx(name, path, shape=shape)
        image = measured(shape)
        expected = network(image, *geometry)
        torch.testing.assert_close(run(path, image, *geometry), expected, rtol=1e-4, atol=2e-6)
        if any_geometry:
            assert float((run(path, image, ONE_MM, AXIAL, SINGLE_DR) - expected).abs().max()) > 1e-3
        else:
            assert bool(run(path, image, ONE_MM, OBLIQUE, SINGLE_DR).isnan().all())
    properties = {item.key: item.value for item in onnx.load(path).metadata_props}
    assert json.loads(properties["inference.json"]) == stacked_config(name)
