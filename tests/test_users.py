"""What users of existing tools trip over, point by point: one short test for each."""

import inspect
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from custom_transforms import keys
from custom_transforms.bundle_path import bundle_path
from custom_transforms.checks import InputError
from custom_transforms.physics import GAMMA_BAR_MHZ_PER_TESLA
from custom_transforms.pipeline.command import run
from custom_transforms.pipeline.derivatives import TEXTS
from custom_transforms.pipeline.preprocess import preprocess, preprocessing_config, stages_of
from custom_transforms.pipeline.run_options import RunOptions
from custom_transforms.preprocessing.pdf import margin_box
from custom_transforms.preprocessing.phase import scale_phase
from custom_transforms.raw import explicit_scan, load_scan
from custom_transforms.reconstruct import reconstruct

TIMES_S = (0.004, 0.009, 0.015)  # not equally spaced
B0_TESLA = 3.0
RAD_PER_PPM_S = 2 * np.pi * GAMMA_BAR_MHZ_PER_TESLA * B0_TESLA

Head = dict[str, np.ndarray]
Files = dict[str, str]
Process = Callable[..., dict[Any, Any]]


def echoes_of(head: Head, times_s: tuple[float, ...] = TIMES_S) -> tuple[np.ndarray, np.ndarray]:
    """Give magnitude and wrapped phase in rad, (X, Y, Z, E), with noise for a phase outside of the head."""
    rng, t = np.random.default_rng(0), np.array(times_s)
    magnitude = 1000 * np.exp(-head[keys.R2STAR][..., None] * t) * (head[keys.MASK][..., None] + 0.001)
    phase = RAD_PER_PPM_S * head[keys.LOCAL_FIELD][..., None] * t
    noise = rng.uniform(-np.pi, np.pi, phase.shape)
    return magnitude, np.where(head[keys.MASK][..., None] > 0, np.angle(np.exp(1j * phase)), noise)


def save(path: Path, values: np.ndarray, affine: np.ndarray) -> str:
    nib.save(nib.Nifti1Image(np.asarray(values, dtype=np.float32), affine), path)
    return str(path)


@pytest.fixture
def raw(head: Head, oblique_affine: np.ndarray, tmp_path: Path) -> dict[str, Any]:
    """Magnitude, phase and mask as files, with what else a scan needs."""
    magnitude, phase = echoes_of(head)
    return {
        "magnitude": save(tmp_path / "magnitude.nii.gz", magnitude, oblique_affine),
        "phase": save(tmp_path / "phase.nii.gz", phase, oblique_affine),
        "maps": {keys.MASK: save(tmp_path / "mask.nii.gz", head[keys.MASK], oblique_affine)},
        "echo_times_s": TIMES_S,
        "b0_tesla": B0_TESLA,
        "vendor": "Siemens",
    }


@pytest.fixture
def process() -> Process:
    """Take a scan from its files to its local field, as chisep run does before the separation."""

    def run_stages(b0_direction: tuple[float, ...] | None = None, phase_sign: Any = "auto", **scan: Any) -> dict:
        parser = preprocessing_config({"register_spin_echo": False, "phase_sign": phase_sign})
        described = explicit_scan(**scan)
        stages = stages_of(parser.get_parsed_content("preprocessing"))
        return preprocess(load_scan(described), stages, provided=described.maps, b0_direction=b0_direction)

    return run_stages


def field_of(data: dict[Any, Any], key: str = keys.LOCAL_FIELD) -> np.ndarray:
    return np.asarray(data[key].numpy()[0])


def test_01_rate_units(files: Files, tmp_path: Path) -> None:
    """Is R2' in 1/s or in 1/ms? The option says it, a wrong one is refused, and the sidecar names the unit."""
    with pytest.raises(InputError, match=r"r2prime.* it looks like per_s: give --rate_unit per_s"):
        reconstruct(**files, field_unit="ppm", rate_unit="per_ms", output=str(tmp_path))
    assert TEXTS[keys.R2PRIME].units == "1/s"


@pytest.mark.parametrize("size_mm", [(0.75, 0.75, 0.75), (0.78, 0.78, 1.3)])
def test_02_any_voxel_size(
    size_mm: tuple[float, ...], raw: dict[str, Any], head: Head, process: Process, tmp_path: Path
) -> None:
    """Voxels of 0.75 mm are not taken for 1 mm, and 0.78 x 0.78 x 1.3 mm are not refused."""
    affine, (magnitude, phase) = np.diag([*size_mm, 1.0]), echoes_of(head)
    files = {"magnitude": save(tmp_path / "m.nii", magnitude, affine), "phase": save(tmp_path / "p.nii", phase, affine)}
    maps = {keys.MASK: save(tmp_path / "mask.nii", head[keys.MASK], affine)}
    data = process(**{**raw, **files, "maps": maps})
    assert torch.allclose(data[keys.VOXEL_SIZE_MM], torch.tensor(size_mm))
    assert np.isfinite(field_of(data)).all()


def test_03_the_mask_of_the_user(raw: dict[str, Any], head: Head, process: Process) -> None:
    """The tool does not cut away brain with a mask of its own."""
    assert np.array_equal(field_of(process(**raw), keys.MASK), head[keys.MASK])


def test_04_nii_and_nii_gz(raw: dict[str, Any], head: Head, oblique_affine: np.ndarray, tmp_path: Path) -> None:
    """Both endings load, with the same numbers."""
    packed = load_scan(explicit_scan(**raw))
    plain = {key: save(tmp_path / f"{key}.nii", values, oblique_affine) for key, values in zip(
        ("magnitude", "phase"), echoes_of(head), strict=True)}  # fmt: skip
    unpacked = load_scan(explicit_scan(**{**raw, **plain}))
    for key in (keys.MAGNITUDE, keys.PHASE):
        assert torch.equal(packed[key], unpacked[key])


def test_05_no_licence(tmp_path: Path) -> None:
    """No licence file locks parallel jobs: the code is free, and a job is sent to another process as it is."""
    assert "Apache License" in (bundle_path() / "LICENSE").read_text()
    options = RunOptions(preprocessing={"background": "pdf"}, device="cpu")
    assert pickle.loads(pickle.dumps(options)) == options


def test_06_gradient_echoes_alone(gradient_echoes: Files, tmp_path: Path) -> None:
    """Without spin echoes R2' is predicted, and the output says so."""
    reconstruct(**gradient_echoes, field_unit="ppm", output=str(tmp_path), device="cpu")
    record = json.loads((tmp_path / "reconstruction.json").read_text())
    assert record["r2prime"] == "predicted from R2*"
    assert any("not measured" in warning for warning in record["warnings"])


def test_07_oblique_slices(raw: dict[str, Any], head: Head, process: Process, tmp_path: Path) -> None:
    """Slices tilted by 32.5 degrees: B0 follows the affine, and an explicit direction is read."""
    angle, affine = np.radians(32.5), np.eye(4)
    affine[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    maps = {key: save(tmp_path / f"{key}.nii", head[key], affine) for key in (keys.MASK, keys.LOCAL_FIELD)}
    given = {"maps": maps, "b0_tesla": B0_TESLA}
    expected = torch.tensor([0.0, np.sin(angle), np.cos(angle)]).float()
    assert torch.allclose(process(**given)[keys.B0_DIRECTION], expected, atol=1e-6)
    assert process(**given, b0_direction=(0, 3, 4))[keys.B0_DIRECTION].tolist() == pytest.approx([0, 0.6, 0.8])


def test_08_own_field_and_its_unit(
    raw: dict[str, Any], head: Head, files: Files, process: Process, oblique_affine: np.ndarray, tmp_path: Path
) -> None:
    """One's own unwrapped phase is taken, and Hz, rad and ppm are told apart."""
    made = process(**raw)
    phase = RAD_PER_PPM_S * head[keys.LOCAL_FIELD][..., None] * np.array(TIMES_S)
    own = {keys.UNWRAPPED_PHASE: save(tmp_path / "u.nii", phase, oblique_affine), **raw["maps"]}
    taken = process(**{**raw, "maps": own})
    assert np.allclose(field_of(taken), field_of(made), atol=5e-4)
    with pytest.raises(InputError, match="it looks like ppm: give --field_unit ppm"):
        reconstruct(**files, field_unit="hz", output=str(tmp_path / "maps"))


def test_09_zero_and_pi_are_phases() -> None:
    """Voxels at 0 or +-pi are not replaced."""
    phase = torch.empty(1, 6, 7, 8).uniform_(-np.pi, np.pi, generator=torch.Generator().manual_seed(0))
    phase[0, 0, 0, :4] = torch.tensor([0.0, np.pi, -np.pi, 0.0])
    assert torch.equal(scale_phase(phase)[0], phase)


def test_10_shapes_and_echoes(raw: dict[str, Any], head: Head, process: Process, tmp_path: Path) -> None:
    """Sizes that differ are explained; unequal echo spacing and a single echo work."""
    magnitude, phase = echoes_of(head, TIMES_S[1:2])
    affine = nib.load(raw["phase"]).affine
    files = {"magnitude": save(tmp_path / "m.nii", magnitude, affine), "phase": save(tmp_path / "p.nii", phase, affine)}
    assert keys.LOCAL_FIELD in process(**raw)
    single = process(**{**raw, **files, "echo_times_s": TIMES_S[1:2]})
    assert keys.LOCAL_FIELD in single
    assert keys.R2STAR not in single
    cut = save(tmp_path / "cut.nii", magnitude[:-1], affine)
    with pytest.raises(InputError, match=r"shape \(.*\), not \(.*\); give both of the same scan"):
        run(output=str(tmp_path / "maps"), magnitude=cut, phase=files["phase"], echo_times_s=TIMES_S[1:2], b0_tesla=3.0)
    assert not list(tmp_path.glob("maps/sub-*"))


def test_11_the_rim(
    raw: dict[str, Any], head: Head, process: Process, oblique_affine: np.ndarray, tmp_path: Path
) -> None:
    """A strong background is removed up to the rim of the mask, which keeps every voxel."""
    x, y, _ = (axis / 16 for axis in np.indices(head[keys.MASK].shape))
    background = 0.5 * (x - 1) + 0.3 * ((x - 1) ** 2 - (y - 1) ** 2)
    total = save(tmp_path / "total.nii", head[keys.LOCAL_FIELD] + background, oblique_affine)
    data = process(maps={**raw["maps"], keys.TOTAL_FIELD: total}, b0_tesla=B0_TESLA)
    inside = head[keys.MASK] > 0
    rim = inside & ~ndimage.binary_erosion(inside, iterations=2)
    assert np.array_equal(field_of(data, keys.MASK) > 0, inside)
    left = (field_of(data) - head[keys.LOCAL_FIELD])[rim].std()
    assert left < 0.07 * background[rim].std()


def test_12_philips_and_ge(raw: dict[str, Any], head: Head, process: Process, tmp_path: Path) -> None:
    """The slope of Philips is applied once, whatever its unit; the phase of GE has the other sign."""
    affine, rad = nib.load(raw["phase"]).affine, echoes_of(head)[1]
    stored = np.round((rad / np.pi + 1) * 2047.5) * 2.442 - 5000.0  # as in "DV": neither rad nor integers
    expected = field_of(process(**raw), keys.TOTAL_FIELD)
    philips = {"vendor": "Philips", "phase": save(tmp_path / "philips.nii", stored, affine)}
    assert np.allclose(field_of(process(**{**raw, **philips}), keys.TOTAL_FIELD), expected, atol=5e-4)
    ge = {"vendor": "GE", "phase": save(tmp_path / "ge.nii", -rad, affine)}
    assert np.allclose(field_of(process(**{**raw, **ge}), keys.TOTAL_FIELD), expected, atol=1e-4)


def test_13_no_parameters_to_choose(files: Files, tmp_path: Path) -> None:
    """Every option of a run has a default but the output, and there is something to look at."""
    options = inspect.signature(run).parameters.values()
    assert [option.name for option in options if option.default is option.empty] == ["output"]
    given = {key: files[key] for key in (keys.LOCAL_FIELD, keys.MASK)}
    reconstruct(**given, field_unit="ppm", variant="tkd", output=str(tmp_path), device="cpu")
    assert (tmp_path / "reconstruction.png").stat().st_size > 10_000


def test_14_zero_of_the_map(files: Files, head: Head, tmp_path: Path) -> None:
    """What is zero is an option, and in the record."""
    given = {key: files[key] for key in (keys.LOCAL_FIELD, keys.MASK)}
    reconstruct(**given, field_unit="ppm", variant="tkd", reference="brain", output=str(tmp_path), device="cpu")
    chi = nib.load(tmp_path / "chi_total.nii.gz").get_fdata()[head[keys.MASK] > 0]
    assert abs(chi.mean()) < 1e-4 * chi.std()
    assert json.loads((tmp_path / "reconstruction.json").read_text())["settings"]["reference"] == "brain"


def test_15_memory_goes_with_the_brain() -> None:
    """A large field of view costs no memory where the brain is small."""
    mask = torch.zeros(1, 1, 200, 180, 160)
    mask[..., 50:60, 60:72, 30:44] = 1
    assert max(margin_box(mask, torch.ones(3), 10.0).grid) <= 32


def test_16_directions_of_dicom(raw: dict[str, Any], head: Head, tmp_path: Path) -> None:
    """Where the sidecar knows of oblique slices and the image pretends to be axial, the direction is spelled out."""
    magnitude, phase = echoes_of(head)
    files = {
        "magnitude": save(tmp_path / "m.nii.gz", magnitude, np.eye(4)),
        "phase": save(tmp_path / "p.nii.gz", phase, np.eye(4)),
    }
    orientation = [1.0, 0.0, 0.0, 0.0, np.cos(0.3), np.sin(0.3)]
    for name in ("m", "p"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"ImageOrientationPatientDICOM": orientation}))
    notes = load_scan(explicit_scan(**{**raw, **files, "maps": {}}))[keys.NOTES]
    assert any("--b0_direction=" in note and "deobliqued" in note for note in notes)


def test_17_missing_vendor(raw: dict[str, Any], process: Process) -> None:
    """A header without Manufacturer does not end the run: the sign is tested, and the notes say it is assumed."""
    data = process(**{**raw, "vendor": None})
    assert any("the vendor is not known" in note for note in data[keys.NOTES])
    assert np.array_equal(field_of(data), field_of(process(**raw)))
