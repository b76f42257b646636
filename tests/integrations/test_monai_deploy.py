"""MONAI Deploy: the functions of the operators, and, marked, the whole graph in an environment with the SDK."""

import importlib.util
import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch

from custom_transforms import keys
from custom_transforms.bundle_path import bundle_path
from custom_transforms.checks import InputError
from custom_transforms.deploy.pack import pack_bundle
from custom_transforms.deploy.torchscript import export_torchscript
from custom_transforms.physics import hz_per_ppm
from custom_transforms.reconstruct import reconstruct
from custom_transforms.separation import MAPS

ROOT = Path(__file__).resolve().parents[2]
APPLICATION = ROOT / "integrations" / "monai_deploy"
ENVIRONMENT = Path(os.environ.get("CHISEP_DEPLOY_ENV", ROOT / "build" / "monai_deploy" / "environment"))
SAME_PPM = 2e-6  # float32 through FFTs

Files = dict[str, str]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"monai_deploy_{name}", APPLICATION / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


separation = load("separation")


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the functions read of a pack: its configs and its TorchScript file."""
    folder = tmp_path_factory.mktemp("pack")
    (folder / "models").mkdir()
    (folder / "configs").symlink_to(bundle_path() / "configs")
    export_torchscript("unrolled", folder / "models" / "model.ts")
    return folder


@pytest.fixture
def case(files: Files) -> Path:
    """The folder of the oblique, anisotropic head."""
    folder = Path(files[keys.MASK]).parent
    yield folder
    (folder / "settings.json").unlink(missing_ok=True)


def run(folder: Path, pack: Path, output: Path) -> dict[str, nib.Nifti1Image]:
    case = separation.read_case(folder, pack)
    maps = separation.separate(case, pack, torch.device("cpu"))
    separation.write_maps(maps, torch.as_tensor(case.image.affine), output)
    return {name: nib.load(output / f"{name}.nii.gz") for name in MAPS}


def largest_difference(maps: Mapping[str, nib.Nifti1Image], folder: Path) -> float:
    reference = {name: nib.load(folder / f"{name}.nii.gz").get_fdata() for name in MAPS}
    return max(float(np.abs(maps[name].get_fdata() - reference[name]).max()) for name in MAPS)


def test_maps_are_those_of_reconstruct(
    case: Path, pack: Path, files: Files, oblique_affine: np.ndarray, tmp_path: Path
) -> None:
    maps = run(case, pack, tmp_path / "maps")
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {f"{name}.nii.gz" for name in MAPS}
    for image in maps.values():
        assert image.get_data_dtype() == np.float32
        assert np.allclose(image.affine, oblique_affine, atol=1e-5)
    reconstruct(**files, field_unit="ppm", output=str(tmp_path / "expected"))
    assert largest_difference(maps, tmp_path / "expected") < SAME_PPM


def test_settings_arrive(case: Path, pack: Path, files: Files, tmp_path: Path) -> None:
    field = nib.load(files[keys.LOCAL_FIELD])
    hertz = tmp_path / "hertz"
    hertz.mkdir()
    for key in (keys.R2PRIME, keys.MASK):
        (hertz / f"{key}.nii.gz").symlink_to(files[key])
    values = (-field.get_fdata() * hz_per_ppm(7.0)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, field.affine), hertz / f"{keys.LOCAL_FIELD}.nii")
    settings = {"field_unit": "hz", "field_sign": -1, "b0_tesla": 7, "reference": "csf"}
    (hertz / "settings.json").write_text(json.dumps(settings))
    maps = run(hertz, pack, tmp_path / "maps")
    reconstruct(**files, field_unit="ppm", b0_tesla=7.0, reference="csf", output=str(tmp_path / "expected"))
    assert largest_difference(maps, tmp_path / "expected") < 10 * SAME_PPM
    (hertz / "settings.json").write_text(json.dumps({**settings, "b0_tesla": 3}))
    assert largest_difference(run(hertz, pack, tmp_path / "wrong"), tmp_path / "expected") > 1e-3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "an object"),
        ('{"device": "cpu"}', "names among"),
        ('{"field_unit": "$__import__(\'os\').abort()"}', "field_unit must be a unit"),
        ('{"b0_tesla": "$3"}', "b0_tesla must be a number"),
        ('{"b0_tesla": true}', "b0_tesla must be a number"),
        ('{"b0_tesla": -3}', "field strength|positive"),
        ('{"reference": {"_target_": "os.abort"}}', "reference must be"),
    ],
)
def test_wrong_settings_are_refused(case: Path, pack: Path, text: str, message: str) -> None:
    (case / "settings.json").write_text(text)
    with pytest.raises(InputError, match=message):
        separation.read_case(case, pack)


def test_missing_and_damaged_maps_are_refused(files: Files, pack: Path, tmp_path: Path) -> None:
    for key in (keys.R2PRIME, keys.MASK):
        (tmp_path / f"{key}.nii.gz").symlink_to(files[key])
    with pytest.raises(FileNotFoundError, match="there is no local_field"):
        separation.read_case(tmp_path, pack)
    (tmp_path / f"{keys.LOCAL_FIELD}.nii.gz").write_bytes(Path(files[keys.LOCAL_FIELD]).read_bytes()[:500])
    with pytest.raises(InputError, match="damaged"):
        separation.read_case(tmp_path, pack)


# The whole graph, with the SDK


@pytest.fixture(scope="module")
def sdk() -> Path:
    """Python of an environment with the SDK, made as the README says unless it is there."""
    python = ENVIRONMENT / "bin" / "python"
    ready = [str(python), "-c", "import monai.deploy.core, highdicom"]
    if python.is_file() and subprocess.run(ready, capture_output=True, check=False).returncode == 0:
        return python
    venv.create(ENVIRONMENT, clear=True, with_pip=True)
    requirements = str(APPLICATION / "requirements.txt")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--constraint", requirements, "torch==2.13.0"], check=True)
    if subprocess.run([*pip, "--no-deps", "--requirement", requirements], check=False).returncode:
        pytest.skip("the SDK cannot be installed on this machine; holoscan-cu13 needs glibc 2.35 or newer")
    subprocess.run(ready, check=True)
    return python


def door(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.doors(pytest.mark.app(pytest.mark.timeout(2400)(test)))


def write_series(folder: Path) -> pydicom.Dataset:
    """One slice of an MR series of the same study, as a scanner would store it."""
    image = pydicom.Dataset()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    image.SOPClassUID = pydicom.uid.MRImageStorage
    for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(image, name, pydicom.uid.generate_uid())
    image.PatientID, image.PatientName, image.PatientBirthDate, image.PatientSex = "P1", "Head^Simulated", "", ""
    image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = "20261201", "120000", "1", ""
    image.ReferringPhysicianName, image.Modality, image.PositionReferenceIndicator = "", "MR", ""
    image.Rows, image.Columns, image.SeriesNumber, image.InstanceNumber = 28, 32, 1, 1
    image.ImageOrientationPatient, image.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 0]
    image.PixelSpacing, image.SliceThickness = [1, 1], 1
    folder.mkdir()
    image.save_as(folder / "1.dcm", enforce_file_format=True)
    return image


def start(sdk: Path, pack: Path, folder: Path, output: Path) -> subprocess.CompletedProcess[str]:
    output.mkdir()
    command = [str(sdk), str(APPLICATION / "application.py"), "-i", str(folder), "-o", str(output), "-m", str(pack)]
    environment = {**os.environ, "PYTHONPATH": str(pack), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=output)


def volume_of(path: Path, slices_along: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
    """Values (X, Y, Z) of a parametric map, and the affine (RAS+) that its frames tell, in whatever order they are."""
    image = pydicom.dcmread(path)
    frames = np.frombuffer(image.FloatPixelData, "<f4").reshape(-1, image.Rows, image.Columns)
    shared = image.SharedFunctionalGroupsSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    row_mm, column_mm = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    places = [f.PlanePositionSequence[0].ImagePositionPatient for f in image.PerFrameFunctionalGroupsSequence]
    positions = np.array(places, float)
    order = (positions @ (slices_along * (-1, -1, 1))).argsort()
    frames, positions = frames[order], positions[order]
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = orientation[:3] * column_mm, orientation[3:] * row_mm
    affine[:3, 2], affine[:3, 3] = positions[1] - positions[0], positions[0]
    return frames.transpose(2, 1, 0), np.diag([-1, -1, 1, 1]) @ affine, image


@door
def test_the_graph_writes_nifti_and_dicom(sdk: Path, files: Files, oblique_affine: np.ndarray, tmp_path: Path) -> None:
    pack = pack_bundle("unrolled", tmp_path / "packs")
    folder = tmp_path / "input"
    folder.mkdir()
    for key, path in files.items():
        (folder / f"{key}.nii.gz").symlink_to(path)
    series = write_series(folder / "dicom")
    result = start(sdk, pack, folder, tmp_path / "maps")
    assert result.returncode == 0, result.stderr[-3000:]
    reconstruct(**files, field_unit="ppm", output=str(tmp_path / "expected"))
    maps = {name: nib.load(tmp_path / "maps" / f"{name}.nii.gz") for name in MAPS}
    difference = largest_difference(maps, tmp_path / "expected")
    print(f"largest difference {difference:.1e} ppm")
    assert difference < SAME_PPM
    for name, image in maps.items():
        values, affine, header = volume_of(tmp_path / "maps" / f"{name}.dcm", oblique_affine[:3, 2])
        assert image.get_data_dtype() == np.float32
        assert np.array_equal(values, image.get_fdata(dtype=np.float32))
        assert np.allclose(affine, oblique_affine, atol=1e-4)
        assert np.allclose(image.affine, oblique_affine, atol=1e-5)
        assert (header.StudyInstanceUID, header.PatientID) == (series.StudyInstanceUID, "P1")
        assert header.FrameOfReferenceUID == series.FrameOfReferenceUID

    (folder / f"{keys.MASK}.nii.gz").unlink()
    refused = start(sdk, pack, folder, tmp_path / "refused")
    assert refused.returncode == 2
    assert "there is no mask.nii.gz" in refused.stderr
    assert not list((tmp_path / "refused").glob("*.nii.gz"))

    (folder / f"{keys.MASK}.nii.gz").symlink_to(files[keys.MASK])
    (folder / "dicom" / "1.dcm").unlink()
    without_series = start(sdk, pack, folder, tmp_path / "without")
    assert "0 DICOM series" in without_series.stderr
    assert not list((tmp_path / "without").glob("*.nii.gz"))  # nothing half-written
