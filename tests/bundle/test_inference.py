"""Inference writes quantitative maps on the input's grid; evaluation scores them; MONAI's loader finds the network."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import monai.bundle
import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from custom_transforms.bundle_path import bundle_path
from custom_transforms.classical import ClosedFormSeparation
from custom_transforms.data import bids_data_list
from custom_transforms.networks import UnrolledChiSepNet
from custom_transforms.physics import hz_per_ppm
from custom_transforms.provenance import describe_weights
from custom_transforms.variants import inference_config, load_variant, variant_names
from custom_transforms.weights import load_weights

Run = Callable[..., ConfigWorkflow]
MAPS = ("chi_para", "chi_dia", "chi_total")
CLOSED_FORM = {"_target_": "custom_transforms.classical.ClosedFormSeparation"}


def load(path: Path | str) -> np.ndarray:
    return nibabel.load(path).get_fdata(dtype=np.float32)


def network_def() -> UnrolledChiSepNet:
    config = ConfigParser.load_config_file(bundle_path() / "configs" / "inference.json")
    config |= {"device": "$torch.device('cpu')"}
    network: UnrolledChiSepNet = ConfigParser(config).get_parsed_content("network_def")
    return network


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.manual_seed(0)
    torch.save({name: value.half() for name, value in network_def().state_dict().items()}, path)
    return path


def test_every_case_of_a_data_set(tmp_path: Path, run: Run, dataset_dir: Path, weights: Path) -> None:
    run("run", ["inference.json"], dataset_dir=str(dataset_dir), output_dir=str(tmp_path), weights=str(weights))
    for case in bids_data_list(dataset_dir):
        folder = tmp_path / Path(case["local_field"]).name.split("_")[0]
        field = nibabel.load(case["local_field"])
        maps = {name: nibabel.load(folder / f"{name}.nii.gz") for name in MAPS}
        for image in maps.values():
            assert image.get_data_dtype() == np.float32
            assert image.shape == field.shape
            assert np.array_equal(image.affine, field.affine)
        para, dia, total = (image.get_fdata() for image in maps.values())
        assert para.min() >= 0 and dia.min() >= 0 and para.max() > 0.05
        np.testing.assert_allclose(total, para - dia, atol=1e-6)
        assert not para[load(case["mask"]) == 0].any()


def closed_form_maps(run: Run, case: dict[str, str], output: Path, **settings: object) -> np.ndarray:
    run(
        "run",
        ["inference.json"],
        datalist=[case],
        output_dir=str(output),
        weights=None,
        network_def=CLOSED_FORM,
        **settings,
    )
    return np.stack([load(output / f"{name}.nii.gz") for name in MAPS[:2]])


def scaled(case: dict[str, str], key: str, factor: float, folder: Path) -> dict[str, str]:
    image = nibabel.load(case[key])
    path = folder / f"{key}.nii.gz"
    nibabel.save(nibabel.Nifti1Image(image.get_fdata(dtype=np.float32) * np.float32(factor), image.affine), path)
    return {**case, key: str(path)}


def test_one_case_goes_through_the_same_algebra(tmp_path: Path, run: Run, dataset_dir: Path) -> None:
    case = bids_data_list(dataset_dir)[0]
    found = closed_form_maps(run, case, tmp_path)
    image = np.stack([load(case["local_field"]), load(case["r2prime"]) / 137, load(case["mask"])])
    affine = nibabel.load(case["local_field"]).affine
    size = np.linalg.norm(affine[:3, :3], axis=0)
    expected = ClosedFormSeparation()(
        torch.from_numpy(image)[None],
        torch.tensor(size)[None].float(),
        torch.tensor(affine[2, :3] / size)[None].float(),
    )
    np.testing.assert_allclose(found, expected[0].numpy(), atol=1e-6)
    axial = ClosedFormSeparation()(torch.from_numpy(image)[None], torch.tensor(size)[None].float())
    assert np.abs(found - axial[0].numpy()).max() > 1e-3  # so the direction matters


def test_units_and_relaxivities(tmp_path: Path, run: Run, dataset_dir: Path) -> None:
    case = bids_data_list(dataset_dir)[0]
    ppm = closed_form_maps(run, case, tmp_path / "ppm")
    hz = scaled(case, "local_field", -hz_per_ppm(3.0), tmp_path)
    ms = scaled(hz, "r2prime", 1e-3, tmp_path)
    same = closed_form_maps(run, ms, tmp_path / "hz", field_unit="hz", field_sign=-1, rate_unit="per_ms")
    np.testing.assert_allclose(same, ppm, rtol=1e-5, atol=1e-7)
    double = scaled(case, "r2prime", 2.0, tmp_path)
    strong = {"relaxivity_para_per_s_ppm": 274.0, "relaxivity_dia_per_s_ppm": 274.0}
    np.testing.assert_allclose(closed_form_maps(run, double, tmp_path / "d", **strong), ppm, rtol=1e-5, atol=1e-7)
    seven = closed_form_maps(run, case, tmp_path / "7T", b0_tesla=7.0)
    assert np.abs(seven - ppm).max() > 1e-3


def read_metrics(folder: Path) -> dict[str, float]:
    with open(folder / "metrics.csv") as file:
        return {name: float(value) for name, value in csv.reader(file)}


def test_evaluation(tmp_path: Path, run: Run, dataset_dir: Path) -> None:
    stack = ["train.json", "evaluate.json"]
    # False, as MONAI drops an override that is None
    settings = {"weights": False, "network_def": CLOSED_FORM, "output_dir": str(tmp_path)}
    run("evaluating", stack, dataset_dir=str(dataset_dir), **settings)
    found = read_metrics(tmp_path)
    scores = ("nrmse_{}", "nrmse_{}_demeaned", "psnr_{}", "ssim_{}", "xsim_{}", "hfen_{}", "leakage_{}")
    assert found.keys() == {"nrmse", *(name.format(source) for name in scores for source in ("para", "dia"))}
    errors = []
    for number, case in enumerate(bids_data_list(dataset_dir, labelled=True)):
        para = closed_form_maps(run, case, tmp_path / str(number))[0]
        truth = load(case["chi_para"])
        errors.append(100 * np.linalg.norm(para - truth) / np.linalg.norm(truth))
    # the volumes are cropped to the mask, which changes the padding of the dipole a little
    assert found["nrmse_para"] == pytest.approx(np.mean(errors), rel=0.02)
    run("evaluating", [*stack, "quick.json"], **settings)
    assert 0 < read_metrics(tmp_path)["nrmse"] < 200


@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")
@pytest.mark.parametrize("workflow_type", ["inference", "train"])
def test_bundle_loader(workflow_type: str, tmp_path: Path, bundle: Path, weights: Path) -> None:
    shutil.copytree(bundle / "configs", tmp_path / "copy/configs")
    (tmp_path / "copy/models").mkdir()
    shutil.copy(weights, tmp_path / "copy/models/model.pt")
    network = monai.bundle.load("copy", bundle_dir=tmp_path, workflow_type=workflow_type, device="cpu").eval()
    expected = load_weights(network_def(), weights).eval()
    image = torch.rand(1, 3, 16, 16, 16)
    torch.testing.assert_close(network(image), expected(image))


@pytest.mark.parametrize("name", variant_names())
def test_shipped_weights_fit(name: str) -> None:
    try:
        describe_weights(inference_config(name))
    except FileNotFoundError:
        pytest.skip("no weights are shipped")
    assert not load_variant(name).network.training
