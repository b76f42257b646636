"""Scans of BIDS datasets: parts and echoes, inherited sidecars, runs and sessions, spin echoes and maps."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from custom_transforms import keys
from custom_transforms.checks import InputError
from custom_transforms.raw import find_bids, load_scan

Echoes = tuple[np.ndarray, np.ndarray]
Write = Callable[..., None]

TIMES = (0.004, 0.009, 0.02)
SCANNER = {"MagneticFieldStrength": 3, "Manufacturer": "SIEMENS"}


def write_image(path: Path, values: np.ndarray, affine: np.ndarray, sidecar: dict[str, Any] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, affine), path)
    if sidecar is not None:
        path.with_name(path.name.removesuffix(".nii.gz") + ".json").write_text(json.dumps(sidecar))


@pytest.fixture
def write(tmp_path: Path, echoes: Echoes, oblique_affine: np.ndarray) -> Write:
    """Write the echoes of a subject; the scanner is said once for all."""
    (tmp_path / "dataset_description.json").write_text('{"Name": "test", "BIDSVersion": "1.10.0"}')

    def write(
        name: str,
        *,
        suffix: str = "MEGRE",
        parts: tuple[str, ...] = ("mag", "phase"),
        entity: str = "echo",
        scanner: dict[str, Any] = SCANNER,
        times: tuple[float, ...] = TIMES,
        whole: bool = False,
    ) -> None:
        folder = tmp_path.joinpath(*name.split("_acq")[0].split("_run")[0].split("_"), "anat")
        (tmp_path / f"{suffix}.json").write_text(json.dumps(scanner))
        for part, values in zip(parts, echoes if len(parts) > 1 else echoes[:1], strict=True):
            ending = f"_part-{part}" if part else ""
            if whole:
                sidecar = {"EchoTime": list(times)}
                write_image(
                    folder / f"{name}{ending}_{suffix}.nii.gz", np.moveaxis(values, 0, -1), oblique_affine, sidecar
                )
                continue
            for index, time in enumerate(times):
                path = folder / f"{name}_{entity}-{index + 1}{ending}_{suffix}.nii.gz"
                write_image(path, values[index], oblique_affine, {"EchoTime": time})

    return write


def test_a_subject(tmp_path: Path, write: Write, echoes: Echoes) -> None:
    write("sub-01")
    (scan,) = find_bids(tmp_path)
    assert (scan.name, scan.echo_times_s, scan.b0_tesla, scan.vendor) == ("sub-01", TIMES, 3.0, "Siemens")
    data = load_scan(scan)
    assert np.array_equal(data[keys.MAGNITUDE].numpy(), echoes[0])
    assert np.array_equal(data[keys.PHASE].numpy(), echoes[1])
    assert data[keys.NOTES] == []


@pytest.mark.parametrize("suffix", ["MEGRE", "T2starw", "GRE"])
@pytest.mark.parametrize("parts", [("mag", "phase"), ("", "phase"), ("real", "imag")])
def test_spellings(tmp_path: Path, write: Write, suffix: str, parts: tuple[str, str]) -> None:
    write("sub-01", suffix=suffix, parts=parts)
    (scan,) = find_bids(tmp_path)
    assert len(scan.magnitude or scan.real) == len(scan.phase or scan.imaginary) == 3
    assert bool(scan.real) == (parts[0] == "real")
    assert scan.echo_times_s == scan.phase_echo_times_s == TIMES


def test_one_file_with_all_echoes(tmp_path: Path, write: Write, echoes: Echoes) -> None:
    write("sub-01", whole=True)
    (scan,) = find_bids(tmp_path)
    assert scan.echo_times_s == TIMES
    assert np.array_equal(load_scan(scan)[keys.PHASE].numpy(), echoes[1])


def test_ten_echoes_are_in_order(tmp_path: Path, write: Write, oblique_affine: np.ndarray) -> None:
    """Echo 10 comes after echo 9, also where no sidecar says so."""
    shape = (4, 4, 4)
    for part in ("mag", "phase"):
        for echo in range(1, 12):
            path = tmp_path / "sub-01" / "anat" / f"sub-01_echo-{echo}_part-{part}_MEGRE.nii.gz"
            write_image(path, np.random.default_rng(echo).random(shape), oblique_affine)
    (scan,) = find_bids(tmp_path)
    assert [f"echo-{echo}_" in path for echo, path in enumerate(scan.magnitude, 1)] == [True] * 11
    with pytest.raises(InputError, match="sub-01 has no echo times"):
        load_scan(scan)


def test_the_first_suffix_counts(tmp_path: Path, write: Write) -> None:
    write("sub-01", suffix="T2starw")
    write("sub-01")
    (scan,) = find_bids(tmp_path)
    assert all("MEGRE" in path for path in scan.magnitude)


def test_names_tell_scans_apart(tmp_path: Path, write: Write) -> None:
    write("sub-01_ses-a_run-01")
    write("sub-01_ses-a_run-02")
    write("sub-01_ses-b_run-01")
    write("sub-02_acq-fine_run-1")
    write("sub-02_acq-coarse_run-1")
    names = [scan.name for scan in find_bids(tmp_path)]
    assert names == [
        "sub-01_ses-a_run-01",
        "sub-01_ses-a_run-02",
        "sub-01_ses-b",
        "sub-02_acq-coarse",
        "sub-02_acq-fine",
    ]
    assert len({path for scan in find_bids(tmp_path) for path in scan.phase}) == 15


@pytest.mark.parametrize("label", ["02", "sub-02", ["sub-02"], ("02",)])
def test_chosen_subjects(tmp_path: Path, write: Write, label: Any) -> None:
    for name in ("sub-01", "sub-02", "sub-022"):
        write(name)
    assert [scan.name for scan in find_bids(tmp_path, label)] == ["sub-02"]
    assert [scan.name for scan in find_bids(tmp_path, "01,sub-022")] == ["sub-01", "sub-022"]


def test_chosen_by_a_number(tmp_path: Path, write: Write) -> None:
    write("sub-7")
    write("sub-8")
    assert [scan.name for scan in find_bids(tmp_path, 7)] == ["sub-7"]


def test_chosen_session(tmp_path: Path, write: Write) -> None:
    write("sub-01_ses-a")
    write("sub-01_ses-b")
    assert [scan.name for scan in find_bids(tmp_path, "01", "ses-b")] == ["sub-01_ses-b"]


@pytest.mark.parametrize("manufacturer", [{}, {"Manufacturer": ""}, {"Manufacturer": "Bruker BioSpin"}])
def test_missing_vendor_is_a_note(tmp_path: Path, write: Write, manufacturer: dict[str, str]) -> None:
    write("sub-01", scanner={"MagneticFieldStrength": 3, **manufacturer})
    (scan,) = find_bids(tmp_path)
    assert scan.vendor is None
    assert "vendor is not known" in load_scan(scan)[keys.NOTES][0]


def test_spin_echoes_of_the_session(tmp_path: Path, write: Write, echoes: Echoes) -> None:
    write("sub-01_run-1")
    write("sub-01_run-2")
    write("sub-01", suffix="MESE", parts=("",), times=(0.02, 0.04, 0.06))
    for scan in find_bids(tmp_path):
        assert scan.spin_echo_times_s == (0.02, 0.04, 0.06)
        assert np.array_equal(load_scan(scan)[keys.SPIN_ECHO].numpy(), echoes[0])


def test_spin_echoes_of_the_same_run(tmp_path: Path, write: Write) -> None:
    for run in (1, 2):
        write(f"sub-01_run-{run}")
        write(f"sub-01_run-{run}", suffix="MESE", parts=("",))
    for run, scan in enumerate(find_bids(tmp_path), 1):
        assert all(f"run-{run}" in path for path in scan.spin_echo)
        assert scan.notes == ()


def test_several_spin_echoes_are_not_chosen_from(tmp_path: Path, write: Write) -> None:
    write("sub-01")
    for run in (1, 2):
        write(f"sub-01_run-{run}", suffix="MESE", parts=("",))
    (scan,) = find_bids(tmp_path)
    assert scan.spin_echo == ()
    assert "several spin-echo scans" in scan.notes[0]


def test_maps_of_the_dataset_and_of_derivatives(
    tmp_path: Path, write: Write, echoes: Echoes, oblique_affine: np.ndarray
) -> None:
    write("sub-01")
    raw, made = tmp_path / "sub-01" / "anat", tmp_path / "derivatives" / "tool"
    write_image(raw / "sub-01_R2map.nii.gz", echoes[0][0][..., None], oblique_affine)
    write_image(raw / "sub-01_label-lesion_mask.nii.gz", echoes[0][0], oblique_affine)
    write_image(
        made / "sub-01" / "anat" / "sub-01_desc-brain_mask.nii.gz",
        (echoes[0][0] > 500).astype(np.float32),
        oblique_affine,
    )
    write_image(made / "sub-01" / "anat" / "sub-01_R2starmap.nii.gz", echoes[0][0], oblique_affine)
    write_image(made / "sub-01" / "anat" / "sub-01_space-MNI_R2primemap.nii.gz", echoes[0][0], oblique_affine)
    (scan,) = find_bids(tmp_path)
    assert set(scan.maps) == {keys.R2}  # derivatives are taken where they are named only
    (scan,) = find_bids(tmp_path, derivatives=[made])
    assert set(scan.maps) == {keys.R2, keys.MASK, keys.R2STAR}
    assert "desc-brain" in scan.maps[keys.MASK]
    assert load_scan(scan)[keys.R2].shape == (1, 8, 7, 6)


def test_a_second_mask_is_noted(tmp_path: Path, write: Write, echoes: Echoes, oblique_affine: np.ndarray) -> None:
    write("sub-01")
    for name in ("sub-01_desc-brain_mask", "sub-01_mask"):
        write_image(tmp_path / "sub-01" / "anat" / f"{name}.nii.gz", echoes[0][0], oblique_affine)
    (scan,) = find_bids(tmp_path)
    assert "is not used" in scan.notes[0]


def test_magnitude_without_phase_is_found_and_refused_later(tmp_path: Path, write: Write) -> None:
    write("sub-01", parts=("mag",))
    write("sub-02")
    first, second = find_bids(tmp_path)
    with pytest.raises(InputError, match="sub-01 has no phase"):
        load_scan(first)
    load_scan(second)


def test_a_dataset_without_description(tmp_path: Path, write: Write) -> None:
    write("sub-01")
    (tmp_path / "dataset_description.json").unlink()
    assert [scan.name for scan in find_bids(tmp_path)] == ["sub-01"]


def test_what_is_no_dataset_is_refused(tmp_path: Path, write: Write) -> None:
    with pytest.raises(InputError, match="no BIDS dataset, it has no folder sub-"):
        find_bids(tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        find_bids(tmp_path / "nowhere")
    write("sub-01", suffix="T1w", parts=("",))
    with pytest.raises(InputError, match="no gradient echoes with a phase of sub-01"):
        find_bids(tmp_path)
    with pytest.raises(InputError, match="no subject 05; there are 01"):
        find_bids(tmp_path, "05")
    with pytest.raises(InputError, match="participant_label=01"):
        find_bids(tmp_path / "sub-01")


def test_a_damaged_sidecar_is_named(tmp_path: Path, write: Write) -> None:
    write("sub-01")
    (tmp_path / "MEGRE.json").write_text("{")
    with pytest.raises(InputError, match=r"MEGRE\.json, it is not JSON"):
        find_bids(tmp_path)
