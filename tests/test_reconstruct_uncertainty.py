"""`chisep reconstruct --uncertainty`: standard deviations beside the maps, their record, and what is refused."""

import json
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from custom_transforms import keys
from custom_transforms.bundle_path import bundle_path
from custom_transforms.cli import main
from custom_transforms.provenance import file_sha256
from custom_transforms.reconstruct import reconstruct
from custom_transforms.separation import MAPS, SD_MAPS
from custom_transforms.variants import inference_config

Maps = dict[str, np.ndarray]


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configs with random weights for the default variant and its head, and for no other."""
    copy = tmp_path / "bundle"
    shutil.copytree(bundle_path() / "configs", copy / "configs")
    (copy / "models").mkdir()
    monkeypatch.setattr("custom_transforms.bundle_path._CANDIDATES", (copy,))
    torch.manual_seed(0)
    config = inference_config("unrolled", uncertainty=True)
    torch.save(config.get_parsed_content("network_def").state_dict(), copy / "models" / "model.pt")
    torch.save(config.get_parsed_content("uncertainty_def").state_dict(), copy / "models" / "uncertainty.pt")
    return copy


def load(folder: Path, name: str) -> np.ndarray:
    return nib.load(folder / f"{name}.nii.gz").get_fdata(dtype=np.float32)


def test_standard_deviations_beside_the_maps(
    bundle: Path, files: dict[str, str], head: Maps, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    reconstruct(**files, field_unit="ppm", output=str(tmp_path / "plain"))
    capsys.readouterr()
    reconstruct(**files, field_unit="ppm", output=str(tmp_path / "sd"), uncertainty=True)
    assert "chi_para_sd.nii.gz, chi_dia_sd.nii.gz" in capsys.readouterr().out
    for name in MAPS:
        np.testing.assert_allclose(load(tmp_path / "sd", name), load(tmp_path / "plain", name), atol=2e-6)
    for name in SD_MAPS:
        assert np.array_equal(load(tmp_path / "sd", name) > 0, head[keys.MASK] > 0)
        assert not (tmp_path / "plain" / f"{name}.nii.gz").exists()
    record, plain = (json.loads((tmp_path / run / "reconstruction.json").read_text()) for run in ("sd", "plain"))
    assert record["intervals"] == {"68.27%": "± 1 sd", "95.00%": "± 1.96 sd"}
    assert plain["intervals"] is None
    file = {"path": "models/uncertainty.pt", "sha256": file_sha256(bundle / "models/uncertainty.pt")}
    assert file in record["weights"] and file not in plain["weights"]
    assert len(record["weights"]) == len(plain["weights"]) + 1


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, **options: object) -> str:
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["chisep", "reconstruct", "--field_unit", "ppm", *arguments, "--uncertainty"])
    with pytest.raises(SystemExit) as left:
        main()
    said = capsys.readouterr().err
    assert left.value.code == 2 and said.count("\n") == 1
    assert not Path(str(options["output"])).exists()
    return said


@pytest.mark.parametrize("variant", ["chi_separation", "chi_sepnet_r2prime"])
def test_variants_without_a_head(
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    files: dict[str, str],
    tmp_path: Path,
    variant: str,
) -> None:
    said = refusal(monkeypatch, capsys, **files, variant=variant, output=tmp_path / "maps")
    assert f"--variant {variant} has no head for --uncertainty: leave it out, or use --variant unrolled\n" in said


def test_default_without_a_head(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, files: dict[str, str], tmp_path: Path
) -> None:
    (bundle / "models" / "uncertainty.pt").unlink()
    said = refusal(monkeypatch, capsys, **files, output=tmp_path / "maps")
    assert "has no head for --uncertainty: leave it out, or train one with configs/train_uncertainty.json" in said


def test_total_alone_has_none(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, files: dict[str, str], tmp_path: Path
) -> None:
    field = {name: path for name, path in files.items() if name != keys.R2PRIME}
    said = refusal(monkeypatch, capsys, **field, variant="tv", output=tmp_path / "maps")
    assert "--uncertainty is for chi_para and chi_dia: give --r2prime too" in said
