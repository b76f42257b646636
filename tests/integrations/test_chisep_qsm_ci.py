"""What the submission to QSM-CI makes of the stage's files: units, geometry, field strength, and what it refuses."""

import importlib.util
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom_transforms import keys
from custom_transforms.checks import InputError
from custom_transforms.reconstruct import reconstruct

SCRIPT = Path(__file__).resolve().parents[2] / "integrations" / "qsm-ci" / "chisep_qsm_ci.py"
SAME = 2e-6  # ppm; float32 through FFTs
INPUTS = {keys.LOCAL_FIELD: "localfield", keys.R2PRIME: "r2prime", keys.MASK: "mask"}
OUTPUTS = {keys.CHI_PARA: "chi-para", keys.CHI_DIA: "chi-dia"}
WRONG = {
    "another voxel size": ({"voxel_size": [1, 1.1, 1]}, "1 x 1.1 x 1 mm, but localfield.nii.gz has 1 x 1.1 x 1.4 mm"),
    "a flat direction": ({"B0_dir": [0, 1]}, "B0_dir must be 3 numbers"),
    "no direction": ({"B0_dir": [0, 0, 0]}, "not all zero"),
    "no field": ({"B0": None}, "B0 must be a number, got null"),
    "an infinite field": ({"B0": float("inf")}, "B0 must be a number"),
    "a field of zero": ({"B0": 0}, "must be positive"),
}

spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
submission = importlib.util.module_from_spec(spec)
spec.loader.exec_module(submission)


def load(path: Path) -> np.ndarray:
    return nib.load(path).get_fdata()


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def run(inputs: Path, output: Path, *, variant: str = "unrolled") -> np.ndarray:
    submission.separate(inputs, output, variant=variant)
    return np.stack([load(output / f"{name}.nii.gz") for name in OUTPUTS.values()])


@pytest.fixture
def inputs(head: Mapping[str, np.ndarray], oblique_affine: np.ndarray, tmp_path: Path) -> Path:
    """A small oblique head of 1.0 x 1.1 x 1.4 mm as the runner mounts it."""
    return write_inputs(tmp_path / "in", head, oblique_affine, axes=oblique_affine)


def write_inputs(
    folder: Path, head: Mapping[str, np.ndarray], affine: np.ndarray, *, axes: np.ndarray, b0_tesla: float = 3.0
) -> Path:
    """Write a head with B0 along the scanner's z, seen from the axes of an affine."""
    folder.mkdir()
    for key, name in INPUTS.items():
        nib.save(nib.Nifti1Image(head[key], affine), folder / f"{name}.nii.gz")
    size = np.linalg.norm(axes[:3, :3], axis=0)
    params = {"TE": [0.005], "B0": b0_tesla, "B0_dir": list(axes[2, :3] / size), "voxel_size": list(size.round(4))}
    write_json(folder / "params.json", params)
    return folder


@pytest.fixture(scope="module")
def expected(files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The small head by `chisep reconstruct`, with B0 from the affine."""
    folder = tmp_path_factory.mktemp("expected")
    reconstruct(**files, field_unit="ppm", output=str(folder))
    return np.stack([load(folder / f"{key}.nii.gz") for key in OUTPUTS])


def test_direction_is_in_voxel_axes(
    inputs: Path, expected: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert np.abs(run(inputs, tmp_path / "new" / "out") - expected).max() < SAME
    assert {path.name for path in (tmp_path / "new" / "out").iterdir()} == set(submission.OUTPUTS.values())
    assert capsys.readouterr() == ("", "")
    params = json.loads((inputs / "params.json").read_text())
    write_json(inputs / "params.json", {**params, "B0_dir": [0, 0, 1]})  # as if it were in the scanner's axes
    assert np.abs(run(inputs, tmp_path / "out") - expected).max() > 100 * SAME
    assert re.search(r"B0_dir of params.json, which is used, is \d\d degrees from", capsys.readouterr().err)


def test_direction_rules_over_the_affine(
    head: Mapping[str, np.ndarray], oblique_affine: np.ndarray, expected: np.ndarray, tmp_path: Path
) -> None:
    """A simulated head may have an affine without rotation."""
    plain = np.diag([*np.linalg.norm(oblique_affine[:3, :3], axis=0), 1.0])
    folder = write_inputs(tmp_path / "in", head, plain, axes=oblique_affine)
    assert np.abs(run(folder, tmp_path / "out") - expected).max() < SAME


def test_relaxivity_grows_with_the_field(
    head: Mapping[str, np.ndarray], oblique_affine: np.ndarray, expected: np.ndarray, tmp_path: Path
) -> None:
    at_7t = {**head, keys.R2PRIME: head[keys.R2PRIME] * 7 / 3}
    folder = write_inputs(tmp_path / "in", at_7t, oblique_affine, axes=oblique_affine, b0_tesla=7.0)
    assert np.abs(run(folder, tmp_path / "out") - expected).max() < SAME


def test_odd_values_are_scored(
    head: Mapping[str, np.ndarray], oblique_affine: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    strong = {**head, keys.LOCAL_FIELD: head[keys.LOCAL_FIELD] * 128}
    found = run(write_inputs(tmp_path / "in", strong, oblique_affine, axes=oblique_affine), tmp_path / "out")
    assert "chisep: warning: local_field" in capsys.readouterr().err
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", WRONG)
def test_wrong_params_are_refused(inputs: Path, tmp_path: Path, name: str) -> None:
    changes, message = WRONG[name]
    params = json.loads((inputs / "params.json").read_text())
    write_json(inputs / "params.json", {**params, **changes})
    with pytest.raises(InputError, match=re.escape(message)):
        run(inputs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[]", "must hold an object, got list")])
def test_unreadable_params_are_refused(inputs: Path, tmp_path: Path, text: str, message: str) -> None:
    (inputs / "params.json").write_text(text)
    with pytest.raises(InputError, match=message):
        run(inputs, tmp_path / "out")


@pytest.mark.parametrize(("variant", "message"), [("none", "no variant 'none'"), ("unrolled_r2star", "takes R2\\*")])
def test_variant_for_something_else_is_refused(inputs: Path, tmp_path: Path, variant: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        submission.separate(inputs, tmp_path / "out", variant=variant)


@pytest.mark.parametrize("name", ["params.json", "localfield.nii.gz", "r2prime.nii.gz", "mask.nii.gz"])
def test_absent_input_ends_in_one_line(
    inputs: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (inputs / name).unlink()
    monkeypatch.setattr(sys, "argv", ["chisep_qsm_ci.py", str(inputs), str(tmp_path / "out"), "unrolled"])
    with pytest.raises(SystemExit) as stop:
        submission.main()
    assert stop.value.code == 2
    assert re.fullmatch(rf"chisep: .*there is no file \S*{name}.*\n", capsys.readouterr().err)


def test_magnitude_goes_to_the_variants_that_use_it(
    inputs: Path, head: Mapping[str, np.ndarray], oblique_affine: np.ndarray, tmp_path: Path
) -> None:
    without = run(inputs, tmp_path / "without", variant="chi_separation")
    echoes = np.random.default_rng(0).random((*head[keys.MASK].shape, 2)).astype(np.float32) + 0.5
    nib.save(nib.Nifti1Image(echoes, oblique_affine), inputs / "magnitude.nii.gz")
    assert np.abs(run(inputs, tmp_path / "with", variant="chi_separation") - without).max() > 100 * SAME
    record = json.loads((tmp_path / "with" / "reconstruction.json").read_text())
    assert keys.MAGNITUDE in record["inputs"]
    run(inputs, tmp_path / "network", variant="unrolled")
    assert keys.MAGNITUDE not in json.loads((tmp_path / "network" / "reconstruction.json").read_text())["inputs"]
