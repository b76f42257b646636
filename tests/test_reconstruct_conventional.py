"""`chisep reconstruct` with conventional methods: magnitude, chi_total alone, the record of convergence."""

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from custom_transforms import keys
from custom_transforms.classical import ChiSeparation, MEDISusceptibility, TVSusceptibility
from custom_transforms.cli import main
from custom_transforms.transforms.geometry import b0_direction_from_affine, voxel_size_from_affine
from custom_transforms.variants import inference_config

SAME = 2e-6  # ppm; float32 through FFTs in another order

Maps = dict[str, np.ndarray]


def run(monkeypatch: pytest.MonkeyPatch, **options: object) -> int:
    """Run the command; give its exit code."""
    given = [f"--{name}={value}" for name, value in options.items()]
    monkeypatch.setattr(sys, "argv", ["chisep", "reconstruct", "--field_unit=ppm", "--device=cpu", *given])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def parameters(name: str, *names: str) -> dict[str, float]:
    config = inference_config(name)
    return {key: config[key] for key in (*names, "tolerance", "iterations")}


@pytest.fixture
def image(head: Maps) -> torch.Tensor:
    channels = np.stack([head[keys.LOCAL_FIELD], head[keys.R2PRIME] / 137, head[keys.MASK]]) * head[keys.MASK]
    return torch.from_numpy(channels)[None]


@pytest.fixture
def echoes(head: Maps, oblique_affine: np.ndarray, tmp_path: Path) -> tuple[str, torch.Tensor]:
    """A magnitude of two echoes with edges of its own: the file, and the root of the sum of squares."""
    values = np.random.default_rng(0).random((*head[keys.MASK].shape, 2), dtype=np.float32) + 1
    nib.save(nib.Nifti1Image(values, oblique_affine), tmp_path / "magnitude.nii.gz")
    combined = np.sqrt((values**2).sum(axis=-1)) * head[keys.MASK]
    return str(tmp_path / "magnitude.nii.gz"), torch.from_numpy(combined)[None, None]


@pytest.fixture
def geometry(oblique_affine: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return voxel_size_from_affine(oblique_affine)[None], b0_direction_from_affine(oblique_affine)[None]


def read(folder: Path, name: str) -> np.ndarray:
    return nib.load(folder / f"{name}.nii.gz").get_fdata()


def test_magnitude_is_used(
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    image: torch.Tensor,
    echoes: tuple[str, torch.Tensor],
    geometry: tuple[torch.Tensor, torch.Tensor],
    tmp_path: Path,
) -> None:
    path, magnitude = echoes
    assert run(monkeypatch, **files, magnitude=path, variant="chi_separation", output=tmp_path / "with") == 0
    assert run(monkeypatch, **files, variant="chi_separation", output=tmp_path / "without") == 0
    names = ("regularisation", "r2prime_weight", "edge_share", "csf_weight")
    method = ChiSeparation(**parameters("chi_separation", *names))
    expected = {"with": method(torch.cat([image, magnitude], dim=1), *geometry)}
    expected["without"] = method(image, *geometry)
    for folder, chi in expected.items():
        for i, source in enumerate((keys.CHI_PARA, keys.CHI_DIA)):
            assert np.abs(read(tmp_path / folder, source) - chi[0, i].numpy()).max() < SAME
    assert (expected["with"] - expected["without"]).abs().max() > 100 * SAME
    record = json.loads((tmp_path / "with/reconstruction.json").read_text())
    assert record["inputs"]["magnitude"]["path"] == path and record["weights"] == []
    assert record["peak_memory_gib"] > 0
    found = record["convergence"]
    assert found["converged"] and max(found["primal"], found["dual"]) < found["tolerance"] == 1e-3


@pytest.mark.parametrize(("name", "method"), [("tv", TVSusceptibility), ("medi", MEDISusceptibility)])
def test_dipole_inversion_alone(
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    image: torch.Tensor,
    geometry: tuple[torch.Tensor, torch.Tensor],
    tmp_path: Path,
    name: str,
    method: type[TVSusceptibility],
) -> None:
    given = {key: path for key, path in files.items() if key != keys.R2PRIME}
    assert run(monkeypatch, **given, variant=name, output=tmp_path / "maps") == 0
    written = {"chi_total.nii.gz", "reconstruction.json", "reconstruction.png"}
    assert {path.name for path in (tmp_path / "maps").iterdir()} == written
    image[:, 1] = 0
    names = ("regularisation", "edge_share") if name == "medi" else ("regularisation",)
    q = method(**parameters(name, *names))(image, *geometry)
    assert np.abs(read(tmp_path / "maps", keys.CHI_TOTAL) - q[0, 0].numpy()).max() < SAME
    record = json.loads((tmp_path / "maps/reconstruction.json").read_text())
    assert record["r2prime"] == "not used" and keys.R2PRIME not in record["inputs"]


def test_networks_invert_the_dipole_alone_too(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], tmp_path: Path
) -> None:
    given = {key: path for key, path in files.items() if key != keys.R2PRIME}
    assert run(monkeypatch, **given, variant="qsmnet", output=tmp_path) == 0
    assert read(tmp_path, keys.CHI_TOTAL).std() > 0.001 and not (tmp_path / "chi_para.nii.gz").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"variant": "unrolled", "magnitude": "R2PRIME"},
            ["unrolled has no use for --magnitude", "chi_separation,", "or tv"],
        ),
        ({"variant": "chi_separation", "r2prime": None}, ["chi_separation takes R2': give --r2prime alone"]),
        ({"variant": "chi_separation_r2star"}, ["chi_separation_r2star takes R2*: give --r2star alone"]),
        ({"variant": "medi", "magnitude": "nowhere.nii.gz"}, ["magnitude: there is no file nowhere.nii.gz"]),
    ],
)
def test_refusals(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    files: dict[str, str],
    tmp_path: Path,
    options: dict[str, str | None],
    words: list[str],
) -> None:
    given = {**files, "output": str(tmp_path / "out"), **options}
    given = {name: files["r2prime"] if text == "R2PRIME" else text for name, text in given.items() if text is not None}
    assert run(monkeypatch, **given) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and not [word for word in words if word not in said]
    assert not (tmp_path / "out").exists()


def test_not_converged_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, files: dict[str, str], tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "custom_transforms.separation.inference_config",
        lambda name, **options: _updated(inference_config(name, **options), iterations=10),
    )
    assert run(monkeypatch, **files, variant="tv", output=tmp_path) == 0
    assert "tv has not converged after 10 iterations; look at its record" in capsys.readouterr().err


def _updated(config, **settings):
    config.update(settings)
    return config
