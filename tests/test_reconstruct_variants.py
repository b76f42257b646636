"""Every variant reconstructs from files to files: the choice among them, their weights, R2* instead of R2'."""

import json
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom_transforms import keys
from custom_transforms.bundle_path import bundle_path
from custom_transforms.checks import InputError
from custom_transforms.cli import main
from custom_transforms.metrics import nrmse_percent
from custom_transforms.options import choose_variant
from custom_transforms.provenance import describe_weights, file_sha256
from custom_transforms.reconstruct import reconstruct
from custom_transforms.variants import inference_config, is_learned, load_variant, variant_names
from custom_transforms.weights import save_weights

SAME = 2e-6  # ppm; float32 through FFTs in another order
SOURCES = (keys.CHI_PARA, keys.CHI_DIA)
FROZEN = ("qsmnet", "chi_sepnet_r2prime")  # each inside those that come later

Maps = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle with narrow networks and random weights for every variant."""
    folder = tmp_path_factory.mktemp("bundle")
    shutil.copytree(bundle_path() / "configs", folder / "configs")
    for path in (folder / "configs" / "variants").glob("*.json"):
        patch = json.loads(path.read_text())
        patch |= {name: [2] * len(patch[name]) for name in patch if name.endswith("channels")}
        path.write_text(json.dumps({"channels": [2, 2, 2]} | patch))
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as context:
        context.setattr("custom_transforms.bundle_path._CANDIDATES", (folder,))
        for name in dict.fromkeys([*FROZEN, *filter(is_learned, variant_names())]):
            config = inference_config(name)
            config["weights"] = False
            torch.save(config.get_parsed_content("network").state_dict(), folder / "checkpoint.pt")
            save_weights(folder / "checkpoint.pt", folder / "models" / config["model_file"])
    return folder


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch, small_bundle: Path, tmp_path: Path) -> Path:
    """A copy of that bundle, in use."""
    folder = shutil.copytree(small_bundle, tmp_path / "bundle")
    monkeypatch.setattr("custom_transforms.bundle_path._CANDIDATES", (folder,))
    return folder


def results(folder: Path) -> np.ndarray:
    """Read chi_para and chi_dia, (2, X, Y, Z)."""
    return np.stack([nib.load(folder / f"{name}.nii.gz").get_fdata() for name in SOURCES])


def run(monkeypatch: pytest.MonkeyPatch, **options: object) -> int:
    """Run the command; give its exit code."""
    given = [f"--{name}={value}" for name, value in options.items()]
    monkeypatch.setattr(sys, "argv", ["chisep", "reconstruct", "--field_unit=ppm", "--device=cpu", *given])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize(
    ("variant", "chosen", "weights"),
    [
        (None, "unrolled_r2star", ["unrolled_r2star"]),
        ("chi_sepnet_r2star", "chi_sepnet_r2star", ["chi_sepnet_r2prime", "chi_sepnet_r2star", "qsmnet"]),
    ],
)
def test_gradient_echoes_alone(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    bundle: Path,
    gradient_echoes: dict[str, str],
    head: Maps,
    oblique_affine: np.ndarray,
    tmp_path: Path,
    variant: str | None,
    chosen: str,
    weights: list[str],
) -> None:
    """R2* in ppm is what the network gets, and the output says that R2' is a prediction."""
    options = {} if variant is None else {"variant": variant}
    assert run(monkeypatch, **gradient_echoes, **options, output=tmp_path / "maps") == 0
    record = json.loads((tmp_path / "maps" / "reconstruction.json").read_text())
    assert (record["variant"], record["r2prime"]) == (chosen, "predicted from R2*")
    assert keys.R2STAR in record["inputs"] and keys.R2PRIME not in record["inputs"]
    paths = [f"models/{name}.pt" for name in weights]
    expected = [{"path": path, "sha256": file_sha256(bundle / path)} for path in paths]
    assert sorted(record["weights"], key=lambda file: file["path"]) == expected
    assert record["warnings"][-1] == f"R2' is not measured but predicted from R2* (variant {chosen})"
    assert f"chisep: warning: {record['warnings'][-1]}\n" in capsys.readouterr().err
    assert sum("expect blurring" in warning for warning in record["warnings"]) == (chosen == "chi_sepnet_r2star")
    loaded = load_variant(chosen)
    image = np.stack([head[keys.LOCAL_FIELD], head[keys.R2STAR] / 137, head[keys.MASK]])
    image[:2] *= head[keys.MASK]
    tensor = MetaTensor(torch.from_numpy(image)[None], affine=torch.from_numpy(oblique_affine))
    with torch.no_grad():
        chi = loaded.inferer(tensor, loaded.network)[0].numpy()
    assert chi.max() > 100 * SAME
    assert np.abs(results(tmp_path / "maps") - chi).max() < SAME


def test_figure_says_what_is_predicted(
    monkeypatch: pytest.MonkeyPatch,
    bundle: Path,
    files: dict[str, str],
    gradient_echoes: dict[str, str],
    tmp_path: Path,
) -> None:
    notes: list[str] = []
    monkeypatch.setattr("custom_transforms.reconstruct.save_maps_figure", lambda *_, note: notes.append(note))
    for given in (files, gradient_echoes):
        reconstruct(**given, field_unit="ppm", output=str(tmp_path / "maps"), device="cpu")
    assert notes == ["", "R2' is not measured but predicted from R2* (variant unrolled_r2star)"]


def test_neither_r2prime_nor_r2star() -> None:
    with pytest.raises(InputError, match=r"got neither; --r2prime is for --variant .*; --r2star is for --variant "):
        choose_variant(None, [])
    with pytest.raises(InputError, match=r"^--variant unrolled_r2star takes R2\*: give --r2star alone$"):
        choose_variant("unrolled_r2star", [])
    assert choose_variant(None, [keys.R2PRIME]) == choose_variant("unrolled", [keys.R2PRIME]) == "unrolled"


@pytest.mark.parametrize("missing", ["qsmnet", "chi_sepnet_r2prime", "chi_sepnet_r2star"])
def test_missing_weights(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    bundle: Path,
    gradient_echoes: dict[str, str],
    tmp_path: Path,
    missing: str,
) -> None:
    (bundle / "models" / f"{missing}.pt").unlink()
    assert run(monkeypatch, **gradient_echoes, variant="chi_sepnet_r2star", output=tmp_path / "maps") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "variant chi_sepnet_r2star has no weights at" in said and f"{missing}.pt" in said
    assert not (tmp_path / "maps").exists()


def test_direct_networks_learnt_a_single_relaxivity(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    bundle: Path,
    files: dict[str, str],
    tmp_path: Path,
) -> None:
    both = {"relaxivity_para": 160.0, "relaxivity_dia": 114.0, "output": tmp_path / "maps"}
    assert run(monkeypatch, **files, variant="chi_sepnet_r2prime", **both) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "chi_sepnet_r2prime learnt a single relaxivity; give --relaxivity" in said and "--variant unrolled\n" in said
    assert not (tmp_path / "maps").exists()
    assert run(monkeypatch, **files, variant="qsmnet", **both) == 0


@pytest.mark.parametrize("name", variant_names())
def test_shipped_variants(
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    gradient_echoes: dict[str, str],
    head: Maps,
    tmp_path: Path,
    name: str,
) -> None:
    """The weights that the bundle has tell one source from the other."""
    config = inference_config(name)
    try:
        describe_weights(config)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    given = files if config["rate"] == keys.R2PRIME else gradient_echoes
    assert run(monkeypatch, **given, variant=name, output=tmp_path) == 0
    pred, mask = torch.from_numpy(results(tmp_path))[None], torch.from_numpy(head[keys.MASK])[None, None]
    truth = torch.from_numpy(np.stack([head[source] for source in SOURCES]))[None]
    right, swapped = nrmse_percent(pred, truth, mask)[0], nrmse_percent(pred.flip(1), truth, mask)[0]
    assert bool((right < 0.7 * swapped).all()), (right, swapped)
