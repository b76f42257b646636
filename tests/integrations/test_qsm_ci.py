"""The submission to QSM-CI, run and scored by its local runner."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from shutil import copy2

import nibabel as nib
import numpy as np
import pytest
import torch

from custom_transforms import keys
from custom_transforms.metrics import deep_grey_linearity, nrmse_percent, xsim
from custom_transforms.phantom.structures import REGIONS
from custom_transforms.simulate import map_path, simulate

pytest.importorskip("qsm_ci", reason="needs the extra qsm-ci")
yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "integrations" / "qsm-ci"
PRINTED = 6e-5  # the runner prints four decimals
INPUTS = {keys.LOCAL_FIELD: "localfield", keys.R2PRIME: "r2prime", keys.MASK: "mask"}
TRUTH = {keys.CHI_PARA: "chi-para", keys.CHI_DIA: "chi-dia"}
LABELS = {  # of QSM-CI, where it scores regions
    "caudate": 1,
    "pallidum_internal": 2,
    "pallidum_external": 2,
    "putamen": 3,
    "red_nucleus": 4,
    "dentate_nucleus": 5,
    "substantia_nigra": 6,
    "calcification": 16,
}


def load(path: Path) -> np.ndarray:
    return nib.load(path).get_fdata()


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def qsm_ci(dataset: Path, output: Path, *options: str, python: str = sys.executable) -> subprocess.CompletedProcess:
    files = [f"--{name}={dataset / 'inputs' / name}.nii.gz" for name in INPUTS.values()]
    rest = ["--runner", "local", "--params", dataset / "inputs" / "params.json", "-o", output, *options]
    score = ["--truth", dataset / "truth", "--seg", dataset / "truth" / "dseg.nii.gz"]
    command = [sys.executable, "-m", "qsm_ci.cli", "run", FOLDER, *files, *rest, *score]
    environment = {**os.environ, "CHISEP_PYTHON": python, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tilted head in QSM-CI's layout."""
    folder = tmp_path_factory.mktemp("qsm-ci")
    simulate(output=str(folder / "bids"), voxel_size=(4.0, 4.0, 4.0), tilt_deg=25.0, lesions=2, seed=7)
    for name, files in {"inputs": INPUTS, "truth": TRUTH}.items():
        (folder / name).mkdir()
        for key, file in files.items():
            copy2(map_path(folder / "bids", "sub-01", key), folder / name / f"{file}.nii.gz")
    regions = nib.load(map_path(folder / "bids", "sub-01", keys.REGIONS))
    table = np.zeros(max(REGIONS.values()) + 1, dtype=np.uint8)
    table[[REGIONS[name] for name in LABELS]] = list(LABELS.values())
    nib.save(nib.Nifti1Image(table[np.asarray(regions.dataobj)], regions.affine), folder / "truth" / "dseg.nii.gz")
    sidecar = json.loads((folder / "bids" / "sub-01" / "sub-01_simulation.json").read_text())
    params = {"B0": 3.0, "B0_dir": sidecar["b0_direction"], "voxel_size": [4.0, 4.0, 4.0]}
    write_json(folder / "inputs" / "params.json", {"TE": sidecar["gradient_echo_times_s"], **params})
    return folder


@pytest.fixture(scope="module")
def scored(dataset: Path) -> tuple[Path, str]:
    """What the runner writes, and what it prints."""
    done = qsm_ci(dataset, dataset / "output")
    assert done.returncode == 0, done.stderr
    return dataset / "output", done.stdout


def test_maps(dataset: Path, scored: tuple[Path, str]) -> None:
    output, _ = scored
    inside = load(dataset / "inputs" / "mask.nii.gz") > 0
    truth = {name: load(dataset / "truth" / f"{name}.nii.gz")[inside] for name in TRUTH.values()}
    for name, other in zip(TRUTH.values(), reversed(TRUTH.values()), strict=True):
        found = load(output / f"{name}.nii.gz")
        np.testing.assert_array_equal(
            nib.load(output / f"{name}.nii.gz").affine, nib.load(dataset / "inputs" / "localfield.nii.gz").affine
        )
        assert found.min() == 0
        assert not found[~inside].any()
        assert found[inside].mean() == pytest.approx(truth[name].mean(), rel=0.15)  # ppm, and not negative
        assert np.corrcoef(found[inside], truth[name])[0, 1] > 0.75
        assert np.corrcoef(found[inside], truth[other])[0, 1] < 0.5  # what swapped outputs would have


def test_scores_are_ours(dataset: Path, scored: tuple[Path, str]) -> None:
    output, printed = scored
    mask = torch.from_numpy(load(dataset / "inputs" / "mask.nii.gz"))[None, None]
    regions = torch.from_numpy(load(dataset / "truth" / "dseg.nii.gz"))[None, None]
    for name in TRUTH.values():
        block = printed.split(f"→ {name} ")[1].split("→")[0]
        theirs = dict(re.findall(r"^ *(\w+) +(-?[\d.]+)$", block, flags=re.MULTILINE))
        maps = (torch.from_numpy(load(folder / f"{name}.nii.gz"))[None, None] for folder in (output, dataset / "truth"))
        found, truth = (values * mask for values in maps)
        assert float(theirs["nrmse"]) == pytest.approx(
            float(nrmse_percent(found, truth, mask, demean=True)), abs=PRINTED
        )
        assert float(theirs["nrmse"]) != pytest.approx(float(nrmse_percent(found, truth, mask)), abs=0.1)
        assert float(theirs["xsim"]) == pytest.approx(float(xsim(found, truth, mask)), abs=PRINTED)
        assert float(theirs["coverage"]) > 0.99
        if name == TRUTH[keys.CHI_PARA]:
            linearity = float(deep_grey_linearity(found, truth, regions, labels=range(1, 7)))
            assert float(theirs["dgm_linearity"]) == pytest.approx(linearity, abs=PRINTED)


def test_runner_tells_wrong_params(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "inputs").mkdir()
    for file in (dataset / "inputs").iterdir():
        copy2(file, tmp_path / "inputs")
    (tmp_path / "truth").symlink_to(dataset / "truth")
    params = json.loads((dataset / "inputs" / "params.json").read_text())
    write_json(tmp_path / "inputs" / "params.json", {**params, "voxel_size": [4, 4, 2]})
    done = qsm_ci(tmp_path, tmp_path / "output")
    assert done.returncode == 1
    assert done.stderr == (
        "chisep: voxel_size in params.json is 4 x 4 x 2 mm, but localfield.nii.gz has 4 x 4 x 4 mm; correct one\n"
    )
    assert not (tmp_path / "output").exists()


def test_python_without_chisep(dataset: Path, tmp_path: Path) -> None:
    done = qsm_ci(dataset, tmp_path / "output", python="false")
    assert done.returncode == 1
    assert done.stderr.startswith("chisep: false has no chisep; install it")


@pytest.mark.parametrize(("options", "variant"), [([], "unrolled"), (["--set", "variant=tv"], "tv")])
def test_variant_comes_from_the_runner(dataset: Path, tmp_path: Path, options: list[str], variant: str) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nfor last; do :; done\necho "variant: $last"\n')
    python.chmod(0o755)
    assert f"variant: {variant}\n" in qsm_ci(dataset, tmp_path / "output", *options, python=str(python)).stdout


def test_manifest_is_well_formed() -> None:
    """The rules of QSM-CI's gate for pull requests, and what ties the manifest to this project."""
    from qsm_ci.stages import STAGES

    manifest = yaml.safe_load((FOLDER / "algorithm.yml").read_text())
    assert set(manifest["inputs"]) < set(STAGES[manifest["stage"]]["consumes"])
    assert set(STAGES[manifest["stage"]]["produces"]) == set(TRUTH.values())
    assert manifest["slug"] == f"{manifest['algorithm']}-{manifest['variant']}"
    assert (FOLDER / manifest["run"].split()[-1]).is_file()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert manifest["image"] == f"chisep:{version}"
    (parameter,) = manifest["parameters"]
    assert parameter["default"] == manifest["variant"]
    recipe = (FOLDER / "Dockerfile").read_text()
    assert f"--tag {manifest['image']} " in recipe
    copied = " ".join(line.rsplit(" ", 1)[0] for line in re.findall(r"^COPY (.+)$", recipe, flags=re.MULTILINE))
    assert all((ROOT / path).exists() for path in copied.split())
