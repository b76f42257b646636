"""`chisep run` from files to files, on a coarse head; figures at full resolution are of benchmarks/raw_to_maps.py."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from custom_transforms import keys
from custom_transforms.checks import InputError
from custom_transforms.cli import COMMANDS, check_arguments
from custom_transforms.data import bids_data_list
from custom_transforms.pipeline import case
from custom_transforms.pipeline.command import run
from custom_transforms.pipeline.derivatives import SUFFIXES, map_path, read_record
from custom_transforms.pipeline.preprocess import preprocessing_config

FIRST = "sub-01"
QUICK = {"regions": False, "register_spin_echo": False}


def values(path):
    return nib.load(path).get_fdata()


def truth(dataset, key):
    return values(map_path(dataset / "derivatives" / "truth", FIRST, key))


def copied(dataset, folder, without="derivatives"):
    """Copy a dataset, less its truth."""
    shutil.copytree(dataset, folder, ignore=shutil.ignore_patterns("derivatives", without))
    return folder


@pytest.fixture(scope="module")
def derivative(raw_dataset, tmp_path_factory):
    """Give the derivative of the first subject."""
    folder = tmp_path_factory.mktemp("run") / "maps"
    run(str(raw_dataset), output=str(folder), participant_label="01", **QUICK)
    return folder


def test_every_map_has_the_grid_of_the_input_and_a_sidecar(raw_dataset, derivative):
    reference = nib.load(raw_dataset / f"{FIRST}/anat/{FIRST}_echo-1_part-mag_MEGRE.nii.gz")
    expected = SUFFIXES.keys() - {keys.REGIONS, "chi_para_sd", "chi_dia_sd"}
    for key in expected:
        image = nib.load(map_path(derivative, FIRST, key))
        assert image.shape == reference.shape
        assert np.allclose(image.affine, reference.affine, atol=1e-4)
        sidecar = json.loads(Path(str(map_path(derivative, FIRST, key)).replace(".nii.gz", ".json")).read_text())
        assert {"Description", "Units"} <= sidecar.keys()
    assert (derivative / "dataset_description.json").is_file()


def test_the_field_is_that_of_the_brain(raw_dataset, derivative):
    both = (values(map_path(derivative, FIRST, keys.MASK)) > 0) & (truth(raw_dataset, keys.MASK) > 0)
    deep = ndimage.binary_erosion(both, iterations=2)
    field = values(map_path(derivative, FIRST, keys.LOCAL_FIELD))[deep]
    expected, total = truth(raw_dataset, keys.LOCAL_FIELD)[deep], truth(raw_dataset, keys.TOTAL_FIELD)[deep]
    assert np.corrcoef(field, expected)[0, 1] > 0.6  # voxels of 3 mm; it is 0.97 at 1 mm
    assert np.corrcoef(total, expected)[0, 1] < 0.5  # the background rules the total field


@pytest.mark.parametrize("key", [keys.R2STAR, keys.R2])
def test_rates_are_those_of_the_tissue(raw_dataset, derivative, key):
    inside = (values(map_path(derivative, FIRST, keys.MASK)) > 0) & (truth(raw_dataset, keys.MASK) > 0)
    found, expected = values(map_path(derivative, FIRST, key))[inside], truth(raw_dataset, key)[inside]
    assert np.median(found) == pytest.approx(np.median(expected), rel=0.03)
    assert np.corrcoef(found, expected)[0, 1] > 0.9


def test_sources_resemble_the_truth(raw_dataset, derivative):
    inside = (values(map_path(derivative, FIRST, keys.MASK)) > 0) & (truth(raw_dataset, keys.MASK) > 0)
    for key in (keys.CHI_PARA, keys.CHI_DIA):
        found, expected = values(map_path(derivative, FIRST, key))[inside], truth(raw_dataset, key)[inside]
        assert np.linalg.norm(found - expected) < 0.6 * np.linalg.norm(expected)


def test_the_record_says_what_was_done(derivative):
    record = read_record(derivative, FIRST)
    assert record["measured"]["R2'"] == "measured"
    assert record["stages"]["background"]["method"] == "pdf"
    assert record["separation"]["variant"] == "unrolled"
    assert record["separation"]["weights"][0]["sha256"]
    assert len(record["inputs"]) == 5 + 5 + 6
    assert record["acquisition"]["echo_times_s"] == [0.005, 0.011, 0.017, 0.023, 0.029]


def test_the_report_is_there_and_the_cache_is_gone(derivative):
    page = (derivative / FIRST / "report.html").read_text()
    assert FIRST in page
    assert not (derivative / "work" / FIRST).exists()


def test_what_is_done_is_skipped_and_other_options_run_again(raw_dataset, derivative, monkeypatch, capsys):
    calls = []
    stand_in = "custom_transforms.pipeline.workers.process_scan"
    monkeypatch.setattr(stand_in, lambda *args, **options: calls.append(args) or {"warnings": []})
    copy = copied(derivative, derivative.parent / "again")
    run(str(raw_dataset), output=str(copy), participant_label="01", **QUICK)
    assert not calls
    assert "1 were done before" in capsys.readouterr().out
    run(str(raw_dataset), output=str(copy), participant_label="01", **QUICK, reference="csf")
    assert len(calls) == 1


def test_a_run_that_was_killed_goes_on(raw_dataset, tmp_path, monkeypatch):
    stages = []
    monkeypatch.setattr(case, "_separate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(str(raw_dataset), output=str(tmp_path), participant_label="01", **QUICK)
    assert not list(tmp_path.glob("sub-*"))
    monkeypatch.undo()
    begin = case.Progress.end
    monkeypatch.setattr(
        case.Progress, "end", lambda self, how="": stages.append((self._current, how)) or begin(self, how)
    )
    run(str(raw_dataset), output=str(tmp_path), participant_label="01", **QUICK)
    restored = [name for name, how in stages if how == "from the cache"]
    assert {"mask", "unwrapping", "background", "r2"} <= set(restored)
    assert (tmp_path / FIRST / "report.html").is_file()


def test_a_cohort_goes_on_after_a_failure_and_lists_it(raw_dataset, tmp_path, capsys):
    dataset = copied(raw_dataset, tmp_path / "raw")
    for file in (raw_dataset / FIRST).rglob("*_*"):
        copy = dataset / str(file.relative_to(raw_dataset)).replace(FIRST, "sub-02")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    broken = dataset / f"{FIRST}/anat/{FIRST}_echo-2_part-phase_MEGRE.nii.gz"
    broken.write_bytes(broken.read_bytes()[:5000])
    with pytest.raises(SystemExit) as stop:
        run(str(dataset), output=str(tmp_path / "maps"), **QUICK)
    assert stop.value.code == 1
    text = capsys.readouterr()
    assert "1 done, 0 were done before, 1 failed" in text.out
    assert str(broken) in text.err
    assert (tmp_path / "maps/sub-02/report.html").is_file()
    assert not (tmp_path / f"maps/{FIRST}").exists()


def test_a_scan_alone_that_fails_is_an_error(raw_dataset, tmp_path):
    with pytest.raises(InputError, match="mask"):
        run(
            str(raw_dataset),
            output=str(tmp_path / "maps"),
            participant_label="01",
            mask=str(raw_dataset / f"derivatives/truth/{FIRST}/anat/{FIRST}_none.nii.gz"),
        )
    assert not list((tmp_path / "maps").glob("sub-*"))


def test_the_users_own_maps_replace_stages(raw_dataset, tmp_path):
    true = raw_dataset / "derivatives" / "truth"
    own = {key: str(map_path(true, FIRST, key)) for key in (keys.MASK, keys.LOCAL_FIELD, keys.R2PRIME)}
    run(str(raw_dataset), output=str(tmp_path), participant_label="01", **QUICK, **own)
    for key, path in own.items():
        inside = values(own[keys.MASK]) > 0
        assert np.allclose(values(map_path(tmp_path, FIRST, key))[inside], values(path)[inside], atol=1e-6)
    record = read_record(tmp_path, FIRST)
    assert record["measured"]["local field"] == record["measured"]["mask"] == "the user's"
    assert not map_path(tmp_path, FIRST, keys.TOTAL_FIELD).exists()


def test_gradient_echoes_alone_say_that_r2prime_is_predicted(raw_dataset, tmp_path):
    dataset = copied(raw_dataset, tmp_path / "raw", without="*MESE*")
    run(str(dataset), output=str(tmp_path / "maps"), **QUICK)
    record = read_record(tmp_path / "maps", FIRST)
    assert record["measured"]["R2'"] == "predicted from R2*"
    assert any("not measured" in warning for warning in record["warnings"])


def test_files_named_one_by_one(raw_dataset, tmp_path):
    parts = {
        part: ",".join(
            str(raw_dataset / f"{FIRST}/anat/{FIRST}_echo-{i}_part-{short}_MEGRE.nii.gz") for i in range(1, 6)
        )
        for part, short in (("magnitude", "mag"), ("phase", "phase"))
    }
    run(output=str(tmp_path), participant_label="A7", **QUICK, **parts)
    assert map_path(tmp_path, "sub-A7", keys.CHI_PARA).is_file()


def test_lists_of_numbers_on_the_command_line():
    given = ["run", "--output", "o", "--magnitude", "m.nii", "--phase", "p.nii", "--echo_times_s", "0.004,0.008,0.012"]
    assert "--echo_times_s=(0.004, 0.008, 0.012)" in check_arguments(given)
    assert "run" in COMMANDS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "--workers"),
        ({"phase_sign": "2"}, "--phase_sign"),
        ({"device": "tpu"}, "--device"),
        ({"magnitude": "m.nii"}, "give one or the other"),
        ({"participant_label": "99"}, "99"),
    ],
)
def test_options_that_do_not_fit_are_refused(raw_dataset, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        run(str(raw_dataset), output=str(tmp_path / "maps"), **options)
    assert not list(tmp_path.glob("maps/sub-*"))


def test_the_bundle_runs_the_stages_alone_and_inference_takes_what_they_give(raw_dataset, tmp_path):
    options = {"input_dir": str(raw_dataset), "output_dir": str(tmp_path), "register_spin_echo": False}
    assert preprocessing_config(options).get_parsed_content("run") == [[FIRST]]
    (files,) = bids_data_list(tmp_path)
    assert {keys.LOCAL_FIELD, keys.R2PRIME, keys.MASK} <= files.keys()
    assert not list(tmp_path.glob("**/*Chimap*"))
