"""The head of uncertainty: trained on a frozen method, calibrated when it is exported, used by inference."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from torch import nn

from custom_transforms import keys
from custom_transforms.classical import ClosedFormSeparation
from custom_transforms.data import bids_data_list
from custom_transforms.inferers import GeometryInferer
from custom_transforms.metrics import coverage_percent
from custom_transforms.phantom import AnatomicalBrain, RandomShapes, SimulatedBatches, SimulatedSubjects
from custom_transforms.variants import LoadedVariant, inference_config

Run = Callable[..., ConfigWorkflow]
TRAINING = ["train.json", "train_uncertainty.json"]
INFERENCE = ["inference.json", "uncertainty.json"]
METHOD = {"_target_": "custom_transforms.classical.ClosedFormSeparation"}  # nothing of it can be trained or stored
TINY = {
    "volume_shape": [16, 16, 16],
    "head_channels": [4, 4, 8],
    "max_epochs": 30,
    "epoch_length": 4,
    "val_interval": 10,
    "val_length": 2,
    "device": "cpu",
    "method": METHOD,
}
CALIBRATION = {
    "_target_": "custom_transforms.phantom.SimulatedBatches",
    "phantom": {"_target_": "custom_transforms.phantom.RandomShapes", "shape": [20, 20, 20]},
    "batch_size": 2,
    "length": 3,
    "seed": 5,
}
MAPS = ("chi_para", "chi_dia", "chi_total", "chi_para_sd", "chi_dia_sd")


def read(bundle: Path, name: str) -> dict[str, Any]:
    return json.loads((bundle / "configs" / name).read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("head")


@pytest.fixture
def head(trained: Path, run: Run) -> Path:
    """A head of the closed form: its weights file."""
    weights = trained / "models" / "uncertainty.pt"
    if not weights.exists():
        settings = {**TINY, "output_dir": str(trained / "run"), "export_path": str(weights)}
        run("training", TRAINING, **settings)
        run("export", TRAINING, **settings, calibration=CALIBRATION)
    return weights


def test_head_is_what_is_stored(head: Path) -> None:
    state = torch.load(head, weights_only=True)
    assert {name.split(".")[0] for name in state} == {"backbone", "factors"}
    assert all(value.dtype == torch.float16 for value in state.values())
    best = torch.load(head.parents[1] / "run/checkpoints/best.pt", weights_only=True)
    assert best["factors"].tolist() == [1, 1] and 1 not in state["factors"].tolist()


def network(bundle: Path, head: Path) -> nn.Module:
    parser = ConfigParser()
    parser.read_config([bundle / "configs" / name for name in INFERENCE])
    parser.update(
        {"network_def": METHOD, "weights": False, "uncertainty_weights": str(head), "head_channels": [4, 4, 8]}
    )
    return parser.get_parsed_content("network").eval()


def test_exported_head_is_calibrated(bundle: Path, head: Path) -> None:
    """On subjects that it never saw; few and small ones, so that the margin is wide."""
    separate, covered = network(bundle, head), []
    phantom = RandomShapes(shape=(20, 20, 20))
    for batch in SimulatedBatches(phantom=phantom, batch_size=2, length=4, seed=77):
        with torch.no_grad():
            pred = separate(batch[keys.IMAGE], *(batch[name] for name in keys.GEOMETRY))
        for factor in (1.0, 1.96):
            covered.append(coverage_percent(*pred.split(2, 1), batch[keys.LABEL], batch[keys.MASK], factor=factor))
    found = torch.stack(covered).unflatten(0, (4, 2)).mean(dim=(0, 2))
    assert bool((found[0] - 68.27).abs().max() < 8), found
    assert bool((found[1] - 95.0).abs().max() < 7), found


def test_training_lowers_the_loss(head: Path, bundle: Path) -> None:
    """The first validation is that of the untrained head."""
    last = torch.load(head.parents[1] / "run/checkpoints/last.pt", weights_only=True)
    assert last["validation"]["best_metric_epoch"] > 0
    assert {name.split(".")[0] for name in last["model"]} == {"backbone", "factors"}


def load(path: Path) -> np.ndarray:
    return nibabel.load(path).get_fdata(dtype=np.float32)


@pytest.mark.parametrize("reference", ["none", "brain"])
def test_inference_saves_standard_deviations(
    tmp_path: Path, run: Run, dataset_dir: Path, head: Path, reference: str
) -> None:
    """The maps are those of the method; their zero is shifted, which leaves the standard deviations alone."""
    case = bids_data_list(dataset_dir)[0]
    settings = {"datalist": [case], "network_def": METHOD, "weights": False, "device": "cpu"}
    run("run", ["inference.json"], **settings, reference=reference, output_dir=str(tmp_path / "plain"))
    settings |= {"uncertainty_weights": str(head), "head_channels": [4, 4, 8]}
    run("run", INFERENCE, **settings, reference=reference, output_dir=str(tmp_path / "sd"))
    run("run", INFERENCE, **settings, output_dir=str(tmp_path / "unshifted"))
    assert {path.name for path in (tmp_path / "sd").iterdir()} == {f"{name}.nii.gz" for name in MAPS}
    inside = load(Path(case["mask"])) > 0
    for name in MAPS[:3]:
        np.testing.assert_array_equal(load(tmp_path / f"sd/{name}.nii.gz"), load(tmp_path / f"plain/{name}.nii.gz"))
    for name in MAPS[3:]:
        image = nibabel.load(tmp_path / f"sd/{name}.nii.gz")
        np.testing.assert_allclose(image.affine, nibabel.load(case["mask"]).affine, atol=1e-6)
        sd = image.get_fdata(dtype=np.float32)
        assert np.array_equal(sd > 0, inside)
        np.testing.assert_array_equal(sd, load(tmp_path / f"unshifted/{name}.nii.gz"))


def test_both_configs_have_the_same_head(bundle: Path) -> None:
    training, inference = read(bundle, "train_uncertainty.json"), read(bundle, "uncertainty.json")
    heads = [
        {name: value for name, value in config.items() if name != "method"}
        for config in (training["network_def"], inference["uncertainty_def"])
    ]
    heads[1]["backbone"].pop("_desc_")
    assert heads[0] == heads[1]
    assert training["head_channels"] == inference["head_channels"]


@pytest.mark.parametrize(("variant", "file"), [("unrolled", "uncertainty.pt"), ("tv", "uncertainty_tv.pt")])
def test_both_configs_name_the_same_file(bundle: Path, variant: str, file: str) -> None:
    for stack, name in ((TRAINING, "export_path"), (INFERENCE, "uncertainty_weights")):
        parser = ConfigParser()
        parser.read_config([bundle / "configs" / config for config in stack])
        parser.update({"variant": variant, "bundle_root": "here"})
        assert parser.get_parsed_content(name) == f"here/models/{file}"


@pytest.mark.parametrize("stack", [TRAINING, INFERENCE, [TRAINING[0], "variants/unrolled_r2star.json", TRAINING[1]]])
def test_every_reference_resolves(bundle: Path, stack: list[str]) -> None:
    parser = ConfigParser()
    parser.read_config([bundle / "configs" / name for name in stack])
    parser.parse()
    for name, item in parser.ref_resolver.items.items():
        for wanted in parser.ref_resolver.find_refs_in_config(item.get_config(), id=name):
            assert wanted in parser.ref_resolver.items, (name, wanted)


def test_defaults_of_the_training(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The method is the variant as it is shipped, and three heads calibrate."""
    asked: list[tuple[str, object]] = []

    def load(name: str, *, device: torch.device) -> LoadedVariant:
        asked.append((name, device))
        return LoadedVariant(ClosedFormSeparation(), GeometryInferer(), "r2prime")

    monkeypatch.setattr("custom_transforms.variants.load_variant", load)
    parser = ConfigParser()
    parser.read_config([bundle / "configs" / name for name in TRAINING])
    parser.update({"device": "$torch.device('cpu')"})
    head = parser.get_parsed_content("network_def")
    assert asked == [("unrolled", torch.device("cpu"))]
    assert isinstance(head.method.network, ClosedFormSeparation)
    calibration = parser.get_parsed_content("calibration")
    assert [part.snr for part in calibration.datasets] == [40, 100, 300]
    assert len({part.seed for part in calibration.datasets}) == len(calibration) == 3


def test_shipped_head_gives_the_size_of_the_errors(bundle: Path) -> None:
    """On a head that it never saw, of large voxels to be quick; the model card says how well it is calibrated."""
    if not (bundle / "models/uncertainty.pt").exists():
        pytest.skip("there is no models/uncertainty.pt yet")
    separate = inference_config("unrolled", uncertainty=True).get_parsed_content("network").eval()
    brain = AnatomicalBrain(voxel_size_mm=(2.0, 2.0, 2.0))
    case = {name: value[None] for name, value in SimulatedSubjects(brain=brain, length=1, seed=7100)[0].items()}
    with torch.inference_mode():
        chi, sd = separate(case[keys.IMAGE], *(case[name] for name in keys.GEOMETRY)).split(2, dim=1)
    held = [coverage_percent(chi, sd, case[keys.LABEL], case[keys.MASK], factor=z)[0] for z in (1.0, 1.96)]
    assert bool((held[0] - 68.27).abs().max() < 16), held
    assert bool((held[1] - 95.0).abs().max() < 9), held
