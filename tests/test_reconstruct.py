"""Reconstruction from files to files: units, geometry, storage order, the record, and what it refuses."""

import json
import sys
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from custom_transforms import keys
from custom_transforms.bundle_path import bundle_path
from custom_transforms.checks import InputError
from custom_transforms.cli import main
from custom_transforms.metrics import nrmse_percent
from custom_transforms.options import choose_device
from custom_transforms.provenance import file_sha256
from custom_transforms.reconstruct import reconstruct
from custom_transforms.separation import MAPS

HZ_PER_PPM = 42.577 * 3.0
SAME = 2e-6  # ppm; float32 through FFTs in another order
ORDERS = list(product(permutations(range(3)), product((1, -1), repeat=3)))[1::5]  # all axis orders, all sets of flips

Maps = dict[str, np.ndarray]
Store = Callable[..., dict[str, str]]


def voxel_size_mm(affine: np.ndarray) -> np.ndarray:
    return np.linalg.norm(affine[:3, :3], axis=0)


def results(folder: Path) -> Maps:
    return {name: nib.load(folder / f"{name}.nii.gz").get_fdata() for name in MAPS}


def largest_difference(a: Maps, b: Maps) -> float:
    return max(float(np.abs(a[name] - b[name]).max()) for name in MAPS)


@pytest.fixture(scope="module")
def output(files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reconstruction with the defaults."""
    folder = tmp_path_factory.mktemp("results") / "new" / "sub-01"
    reconstruct(**files, field_unit="ppm", output=str(folder))
    return folder


def test_files(output: Path, head: Maps, oblique_affine: np.ndarray) -> None:
    assert {path.name for path in output.iterdir()} == {
        *(f"{name}.nii.gz" for name in MAPS),
        "reconstruction.json",
        "reconstruction.png",
    }
    assert [path.name for path in output.parent.iterdir()] == ["sub-01"]
    for name in MAPS:
        image = nib.load(output / f"{name}.nii.gz")
        assert image.get_data_dtype() == np.float32
        assert np.allclose(image.affine, oblique_affine, atol=1e-5)
        assert image.shape == head[keys.MASK].shape
    chi = results(output)
    assert np.allclose(chi[keys.CHI_TOTAL], chi[keys.CHI_PARA] - chi[keys.CHI_DIA], atol=1e-7)
    assert min(chi[keys.CHI_PARA].min(), chi[keys.CHI_DIA].min()) >= 0
    assert not any(volume[head[keys.MASK] == 0].any() for volume in chi.values())


def test_maps_are_near_the_truth(output: Path, head: Maps) -> None:
    chi, mask = results(output), torch.from_numpy(head[keys.MASK])[None, None]

    def error(first: str, second: str) -> torch.Tensor:
        pred = torch.from_numpy(np.stack([chi[first], chi[second]]))[None]
        truth = torch.from_numpy(np.stack([head[keys.CHI_PARA], head[keys.CHI_DIA]]))[None]
        return nrmse_percent(pred, truth, mask)[0]

    right, swapped = error(keys.CHI_PARA, keys.CHI_DIA), error(keys.CHI_DIA, keys.CHI_PARA)
    assert bool((right < 60).all()), right
    assert bool((swapped > 1.5 * right).all()), swapped


def test_record(output: Path, files: dict[str, str], oblique_affine: np.ndarray) -> None:
    record = json.loads((output / "reconstruction.json").read_text())
    assert record["inputs"] == {key: {"path": path, "sha256": file_sha256(path)} for key, path in files.items()}
    assert record["settings"]["relaxivity_para_per_s_ppm"] == record["settings"]["relaxivity_dia_per_s_ppm"] == 137.0
    assert record["settings"]["reference"] == "none"
    assert (record["variant"], record["r2prime"]) == ("unrolled", "measured")
    model = "models/model.pt"
    assert record["weights"] == [{"path": model, "sha256": file_sha256(bundle_path() / model)}]
    assert record["versions"]["torch"] == torch.__version__
    assert np.allclose(record["geometry"]["voxel_size_mm"], voxel_size_mm(oblique_affine))
    b0 = oblique_affine[2, :3] / voxel_size_mm(oblique_affine)
    assert np.allclose(record["geometry"]["b0_direction_voxel_axes"], b0, atol=1e-5)
    assert record["warnings"] == []
    assert record["wall_time_s"] > 0


def test_units_and_relaxivity(output: Path, head: Maps, tmp_path: Path, store: Store) -> None:
    """The same measurement in other units, at another field strength, gives the same maps."""
    at_7_tesla = {
        **head,
        keys.LOCAL_FIELD: head[keys.LOCAL_FIELD] * HZ_PER_PPM * 7 / 3,
        keys.R2PRIME: head[keys.R2PRIME] * 7 / 3 / 1000,
    }
    in_hz = store(tmp_path / "hz", at_7_tesla)
    reconstruct(**in_hz, field_unit="hz", rate_unit="per_ms", b0_tesla=7.0, output=str(tmp_path / "a"))
    assert largest_difference(results(output), results(tmp_path / "a")) < SAME
    phase = {**head, keys.LOCAL_FIELD: 2 * np.pi * 0.02 * HZ_PER_PPM * head[keys.LOCAL_FIELD]}
    in_rad = store(tmp_path / "rad", phase)
    both = {"relaxivity_para": 137.0, "relaxivity_dia": 137.0}
    reconstruct(**in_rad, field_unit="rad", echo_time_s=0.02, **both, output=str(tmp_path / "b"))
    assert largest_difference(results(output), results(tmp_path / "b")) < SAME
    reconstruct(**in_rad, field_unit="rad", echo_time_s=0.02, relaxivity=114.0, output=str(tmp_path / "c"))
    assert largest_difference(results(output), results(tmp_path / "c")) > 100 * SAME


def test_two_relaxivities_fit_r2prime(files: dict[str, str], head: Maps, tmp_path: Path) -> None:
    reconstruct(**files, field_unit="ppm", relaxivity_para=160.0, relaxivity_dia=114.0, output=str(tmp_path))
    chi, inside = results(tmp_path), head[keys.MASK] > 0
    measured = head[keys.R2PRIME][inside]

    def misfit(para: float, dia: float) -> float:
        predicted = (para * chi[keys.CHI_PARA] + dia * chi[keys.CHI_DIA])[inside]
        return float(np.linalg.norm(predicted - measured) / np.linalg.norm(measured))

    assert misfit(160, 114) < misfit(114, 160)


def test_explicit_b0_direction(output: Path, files: dict[str, str], tmp_path: Path, oblique_affine: np.ndarray) -> None:
    b0 = tuple(2 * oblique_affine[2, :3] / voxel_size_mm(oblique_affine))
    reconstruct(**files, field_unit="ppm", b0_direction=b0, output=str(tmp_path / "same"))
    assert largest_difference(results(output), results(tmp_path / "same")) < SAME
    reconstruct(**files, field_unit="ppm", b0_direction=(1.0, 0.0, 0.0), output=str(tmp_path / "other"))
    assert largest_difference(results(output), results(tmp_path / "other")) > 1000 * SAME


@pytest.mark.parametrize(("axes", "signs"), ORDERS)
def test_storage_order_does_not_matter(
    output: Path,
    head: Maps,
    tmp_path: Path,
    axes: tuple[int, ...],
    signs: tuple[int, ...],
    oblique_affine: np.ndarray,
    store: Store,
) -> None:
    to_old = np.zeros((4, 4))
    to_old[3, 3] = 1
    for new, (old, sign) in enumerate(zip(axes, signs, strict=True)):
        to_old[old, new] = sign
        to_old[old, 3] = 0 if sign > 0 else head[keys.MASK].shape[old] - 1
    flips = [new for new, sign in enumerate(signs) if sign < 0]
    stored = {name: np.flip(volume.transpose(axes), flips) for name, volume in head.items()}
    files = store(tmp_path / "input", stored, oblique_affine @ to_old)
    reconstruct(**files, field_unit="ppm", output=str(tmp_path / "output"))
    chi = {name: np.flip(v, flips).transpose(np.argsort(axes)) for name, v in results(tmp_path / "output").items()}
    assert largest_difference(results(output), chi) < SAME


def test_wrong_orientation_would_show(output: Path, head: Maps, tmp_path: Path, store: Store) -> None:
    """Flipping the maps without their affine is another head in another field."""
    files = store(tmp_path / "input", {name: np.flip(volume, 0) for name, volume in head.items()})
    reconstruct(**files, field_unit="ppm", output=str(tmp_path / "output"))
    flipped = {name: np.flip(volume, 0) for name, volume in results(tmp_path / "output").items()}
    assert largest_difference(results(output), flipped) > 1000 * SAME


def test_negative_r2prime_counts_as_zero(
    head: Maps, tmp_path: Path, capsys: pytest.CaptureFixture, store: Store
) -> None:
    rate = head[keys.R2PRIME] - 3
    for name, values in {"negative": rate, "zero": rate.clip(min=0)}.items():
        files = store(tmp_path / name, {**head, keys.R2PRIME: values})
        reconstruct(**files, field_unit="ppm", output=str(tmp_path / name))
    assert largest_difference(results(tmp_path / "negative"), results(tmp_path / "zero")) < SAME
    assert "is negative in" in capsys.readouterr().err
    assert "is negative in" in json.loads((tmp_path / "negative" / "reconstruction.json").read_text())["warnings"][0]


def test_reference(output: Path, files: dict[str, str], head: Maps, tmp_path: Path) -> None:
    reconstruct(**files, field_unit="ppm", reference="brain", output=str(tmp_path / "brain"))
    inside = head[keys.MASK] > 0
    before, after = results(output), results(tmp_path / "brain")
    shift = before[keys.CHI_TOTAL][inside].mean()
    shifted = inside & (after[keys.CHI_PARA] > 0) & (after[keys.CHI_DIA] > 0)
    assert np.allclose((before[keys.CHI_TOTAL] - after[keys.CHI_TOTAL])[shifted], shift, atol=SAME)
    reconstruct(**files, field_unit="ppm", reference="csf", output=str(tmp_path / "csf"))
    assert json.loads((tmp_path / "csf" / "reconstruction.json").read_text())["settings"]["reference"] == "csf"


def test_force_goes_on_with_a_warning(
    output: Path, head: Maps, tmp_path: Path, capsys: pytest.CaptureFixture, store: Store
) -> None:
    files = store(tmp_path / "input", {**head, keys.MASK: 255 * head[keys.MASK]})
    with pytest.raises(InputError, match=r"mask\.nii\.gz\) has values other than 0 and 1; .* --force"):
        reconstruct(**files, field_unit="ppm", output=str(tmp_path / "output"))
    assert not (tmp_path / "output").exists()
    reconstruct(**files, field_unit="ppm", output=str(tmp_path / "output"), force=True)
    assert "chisep: warning: mask" in capsys.readouterr().err
    assert "other than 0 and 1" in json.loads((tmp_path / "output" / "reconstruction.json").read_text())["warnings"][0]
    assert largest_difference(results(output), results(tmp_path / "output")) < SAME


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"field_unit": "hz"}, ["local_field", "it looks like ppm"]),
        ({"rate_unit": "per_ms"}, ["r2prime", "it looks like per_s"]),
        ({"mask": "nowhere.nii.gz"}, ["mask", "nowhere.nii.gz"]),
        ({"field_unit": "rad"}, ["echo_time_s"]),
        ({"b0_direction": "0,0,0"}, ["direction", "0, 0, 1"]),
        ({"b0_tesla": "0"}, ["b0_tesla must be positive"]),
        ({"relaxivity": "-1"}, ["relaxivities must be positive"]),
        ({"relaxivity_para": "150"}, ["--relaxivity_para and --relaxivity_dia belong together"]),
        ({"relaxivity": "1", "relaxivity_para": "1", "relaxivity_dia": "1"}, ["--relaxivity stands for both"]),
        ({"device": "abacus"}, ["no device 'abacus'"]),
        ({"device": "cuda:99"}, ["cuda:99 is not available"]),
        ({"device": "meta"}, ["meta is not supported"]),
        ({"echo_time_s": "0.02"}, ["--echo_time_s is for a field in rad"]),
        ({"relaxivity": "0.137"}, ["a relaxivity of 0.137"]),
        ({"reference": "bone"}, ["expected none or csf or brain"]),
        ({"variant": "rolled"}, ["no variant 'rolled'", "unrolled_thesis"]),
        (
            {"variant": "unrolled_r2star"},
            ["unrolled_r2star takes R2*: give --r2star alone", "qsmnet_plus, tikhonov, "],
        ),
        ({"r2star": "r.nii"}, ["got both", "--r2star is for --variant chi_separation_r2star, "]),
        ({"r2star": "r.nii", "variant": "qsmnet"}, ["takes R2': give --r2prime alone", "or unrolled_r2star"]),
    ],
)
def test_refusals(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    files: dict[str, str],
    tmp_path: Path,
    options: dict[str, str],
    words: list[str],
) -> None:
    """One line on standard error, exit code 2, nothing written."""
    given = {**files, "field_unit": "ppm", "output": str(tmp_path / "output"), **options}
    monkeypatch.setattr(sys, "argv", ["chisep", "reconstruct", *(f"--{name}={text}" for name, text in given.items())])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.count("\n") == 1
    assert not [word for word in words if word not in said]
    assert not list(tmp_path.iterdir())


def test_output_that_cannot_be_written(files: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for output in ("file", "file/folder"):
        with pytest.raises(InputError, match="cannot write to the output"):
            reconstruct(**files, field_unit="ppm", output=str(tmp_path / output))
    assert (tmp_path / "file").read_text() == "mine"


def test_failure_leaves_earlier_results_alone(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], tmp_path: Path, head: Maps
) -> None:
    (tmp_path / "chi_para.nii.gz").write_text("earlier")
    (tmp_path / "notes.txt").write_text("mine")

    def fail(*_: object, note: str) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("custom_transforms.reconstruct.save_maps_figure", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            reconstruct(**files, field_unit="ppm", output=str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"chi_para.nii.gz", "notes.txt"}
    assert (tmp_path / "chi_para.nii.gz").read_text() == "earlier"
    reconstruct(**files, field_unit="ppm", output=str(tmp_path))
    assert results(tmp_path)[keys.CHI_PARA].shape == head[keys.MASK].shape
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_device_names() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == torch.device("cpu")


def test_sign_of_the_field(tmp_path: Path, head: Maps, capsys: pytest.CaptureFixture[str], store: Store) -> None:
    """A field of the other sign gives the same maps if it is said, and a warning if it is not."""
    right = store(tmp_path / "right", head)
    turned = store(tmp_path / "turned", {**head, keys.LOCAL_FIELD: -head[keys.LOCAL_FIELD]})
    reconstruct(**right, field_unit="ppm", output=str(tmp_path / "a"), device="cpu")
    reconstruct(**turned, field_unit="ppm", field_sign=-1, output=str(tmp_path / "b"), device="cpu")
    for name in MAPS:
        first, second = (nib.load(tmp_path / folder / f"{name}.nii.gz").get_fdata() for folder in "ab")
        np.testing.assert_allclose(first, second, atol=1e-7)
    assert "sign" not in capsys.readouterr().err
    reconstruct(**turned, field_unit="ppm", output=str(tmp_path / "c"), device="cpu")
    assert "the sign of the field is wrong" in capsys.readouterr().err
    assert json.loads((tmp_path / "c" / "reconstruction.json").read_text())["warnings"]
