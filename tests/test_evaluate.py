"""All variants are scored on the same volumes; what is written agrees with the metrics; mistakes write nothing."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from custom_transforms import evaluate as module
from custom_transforms import provenance, variants
from custom_transforms.bundle_path import bundle_path
from custom_transforms.checks import InputError
from custom_transforms.classical import ClosedFormSeparation
from custom_transforms.data import BIDS_SUFFIXES, bids_path
from custom_transforms.evaluate import evaluate, evaluate_method
from custom_transforms.keys import CHI_DIA, CHI_PARA, LOCAL_FIELD, MASK, R2PRIME, split_image
from custom_transforms.metrics import nrmse_percent, xsim
from custom_transforms.output import save_map
from custom_transforms.phantom import PhantomMixture, RandomShapes, SimulatedBatches, WarpedAnatomy
from custom_transforms.phantom.steps import ideal_simulation
from custom_transforms.physics import RELAXIVITY_3T_PER_S_PPM
from custom_transforms.report.scores import COLUMNS

CONFIGS = bundle_path() / "configs"
CLOSED_FORM_DEF = {"_target_": "custom_transforms.classical.ClosedFormSeparation", "regularisation": 0.002}
PATCHES = {
    "same": {"network_def": CLOSED_FORM_DEF},
    "smooth": {"network_def": CLOSED_FORM_DEF | {"regularisation": 0.3}, "relaxivity_split": 0.4},
    "gre": {"network_def": CLOSED_FORM_DEF, "rate": "r2star"},
    "broken": {"network_def": {"_target_": "torch.nn.Identity"}},
}


def write_variant(bundle: Path, name: str, patch: dict, *, weights: bool = True) -> None:
    """Write a variant without parameters; its weights file holds none."""
    patch = {"variant": name, "model_file": f"{name}.pt", **patch}
    (bundle / f"configs/variants/{name}.json").write_text(json.dumps(patch))
    if weights:
        torch.save({}, bundle / f"models/{name}.pt")


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the bundle with other variants and smaller simulated volumes."""
    root = tmp_path / "bundle"
    shutil.copytree(CONFIGS, root / "configs", ignore=shutil.ignore_patterns("variants"))
    for folder in ("configs/variants", "models"):
        (root / folder).mkdir()
    quick = json.loads((root / "configs/quick.json").read_text()) | {"volume_shape": [16, 18, 16], "val_length": 2}
    (root / "configs/quick.json").write_text(json.dumps(quick))
    for name in ("same", "smooth", "gre"):
        write_variant(root, name, PATCHES[name])
    shutil.copy(CONFIGS / "variants/closed_form.json", root / "configs/variants")
    for place in (module, variants, provenance):
        monkeypatch.setattr(place, "bundle_path", lambda: root)
    return root


def read_scores(folder: Path) -> dict[str, dict[str, float]]:
    scores: dict[str, dict[str, float]] = {}
    with open(folder / "scores.csv") as file:
        for row in csv.DictReader(file):
            scores.setdefault(row["variant"], {})[row["metric"]] = float(row["value"])
    return scores


def test_scores_table_and_figure(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    evaluate(output=str(tmp_path / "out"), quick=True, device="cpu")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["scores.csv", "scores.png", "table.md"]
    scores = read_scores(tmp_path / "out")
    assert list(scores) == ["closed_form", "gre", "same", "smooth"]
    assert all(row.keys() == {"nrmse", *COLUMNS} for row in scores.values())
    assert scores["same"] == scores["closed_form"]
    assert scores["smooth"]["nrmse_para"] != scores["same"]["nrmse_para"]
    assert scores["gre"]["nrmse"] > scores["same"]["nrmse"]  # R2* holds R2 too
    table = (tmp_path / "out/table.md").read_text()
    assert capsys.readouterr().out.startswith(table)
    assert "2 volumes of the simulated validation set" in table and "\n| gre † |" in table and "Left out" not in table


def test_numbers_are_those_of_the_validation_set(bundle: Path) -> None:
    """By hand: the volumes of seed 10^6 with a single relaxivity, closed form, metrics."""
    phantoms = [RandomShapes(shape=(16, 18, 16)), WarpedAnatomy(shape=(16, 18, 16))]
    phantom = PhantomMixture(phantoms=phantoms, weights=(0.5, 0.5))
    volumes = list(
        SimulatedBatches(
            phantom=phantom, batch_size=1, length=2, seed=10**6, simulation=ideal_simulation(relaxivity_split=0.0)
        )
    )
    method = ClosedFormSeparation(regularisation=0.3)
    expected = torch.zeros(2, 2).double()
    for batch in volumes:
        chi = method(batch["image"], batch["voxel_size_mm"], batch["b0_direction"])
        errors = [score(chi, batch["label"], batch["mask"])[0] for score in (nrmse_percent, xsim)]
        expected += torch.stack(errors) / len(volumes)
    found, count = evaluate_method("smooth", quick=True, settings={"device": "cpu"})
    assert count == len(volumes)
    names = [["nrmse_para", "nrmse_dia"], ["xsim_para", "xsim_dia"]]
    torch.testing.assert_close(torch.tensor([[found[name] for name in row] for row in names]).double(), expected)


def simulated(*patches: str) -> SimulatedBatches:
    parser = ConfigParser()
    parser.read_config([CONFIGS / f"{name}.json" for name in ("train", *patches)])
    parser.update({"volume_shape": [16, 16, 16], "device": "cpu", "val_length": 1})
    return parser.get_parsed_content("validate::dataset")


@pytest.mark.parametrize("name", variants.variant_names())
def test_every_variant_sees_the_same_volumes(name: str) -> None:
    expected = next(iter(simulated("evaluate")))
    found = next(iter(simulated(f"variants/{name}", "evaluate")))
    for key in ("label", "mask", "voxel_size_mm", "b0_direction", "relaxivity_weights"):
        assert torch.equal(found[key], expected[key]), key
    image, other = found["image"], expected["image"]
    assert torch.equal(image[:, [0, 2]], other[:, [0, 2]])
    from_r2star = variants.inference_config(name).get_parsed_content("rate") == "r2star"
    assert torch.equal(image[:, 1], other[:, 1]) is not from_r2star
    assert torch.equal(found["relaxivity_weights"], torch.ones(1, 2))


def test_volumes_differ_without_evaluate() -> None:
    """So the test above can fail: a direct network trains on a geometry of its own."""
    labels = [next(iter(simulated(f"variants/{name}")))["voxel_size_mm"] for name in ("qsmnet", "unrolled")]
    assert not torch.equal(*labels)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two labelled subjects."""
    for number in (1, 2):
        simulated = SimulatedBatches(
            phantom=RandomShapes(shape=(16, 16, 18)),
            batch_size=1,
            length=1,
            seed=number,
            simulation=ideal_simulation(relaxivity_split=0.0),
        )
        batch = next(iter(simulated))
        field, r2prime, mask = split_image(batch["image"])
        maps = {LOCAL_FIELD: field, R2PRIME: r2prime * RELAXIVITY_3T_PER_S_PPM, MASK: mask}
        maps |= {CHI_PARA: batch["label"][:, :1], CHI_DIA: batch["label"][:, 1:]}
        for key, values in maps.items():
            path = bids_path(tmp_path / "data", f"sub-{number:02d}", BIDS_SUFFIXES[key])
            save_map(path, values[0], torch.diag(torch.tensor([0.9, 0.9, 1.2, 1.0])))
    return tmp_path / "data"


def test_own_data(bundle: Path, tmp_path: Path, dataset: Path) -> None:
    evaluate(output=str(tmp_path / "all"), variants="same", dataset_dir=str(dataset), device="cpu")
    table = (tmp_path / "all/table.md").read_text()
    assert f"2 volumes of {dataset}" in table
    evaluate(
        output=str(tmp_path / "one"), variants="same", dataset_dir=str(dataset), section="validation", device="cpu"
    )
    assert f"1 volume of {dataset}" in (tmp_path / "one/table.md").read_text()
    assert read_scores(tmp_path / "one") != read_scores(tmp_path / "all")


def test_variants_without_weights_are_left_out_and_named(bundle: Path, tmp_path: Path) -> None:
    write_variant(bundle, "untrained", PATCHES["same"], weights=False)
    write_variant(bundle, "orphan", PATCHES["same"] | {"inner_weights": "$@bundle_root + '/models/inner.pt'"})
    evaluate(output=str(tmp_path / "out"), quick=True, device="cpu")
    assert list(read_scores(tmp_path / "out")) == ["closed_form", "gre", "same", "smooth"]
    assert "Left out, as they have no weights: orphan, untrained." in (tmp_path / "out/table.md").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"variants": "same,nonsense"},
            "there is no variant 'nonsense'; valid: broken, closed_form, gre, same, smooth, untrained",
        ),
        ({"variants": "untrained"}, "variant untrained has no weights at .*untrained.pt; train them"),
        ({"section": "test"}, "--section is a part of"),
        ({"dataset_dir": "a", "data_list": "b"}, "give --dataset_dir or --data_list, not both"),
        ({"device": "abacus"}, "--device: there is no device 'abacus'"),
        ({"dataset_dir": "nowhere"}, "no dataset folder nowhere"),
        ({"variants": "same,broken"}, "broken cannot be scored"),
    ],
)
def test_mistakes_write_nothing(bundle: Path, tmp_path: Path, options: dict[str, str], words: str) -> None:
    write_variant(bundle, "untrained", PATCHES["same"], weights=False)
    write_variant(bundle, "broken", PATCHES["broken"])
    with pytest.raises((InputError, FileNotFoundError, RuntimeError), match=words):
        evaluate(**{"output": str(tmp_path / "out"), "quick": True, "device": "cpu", **options})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


@pytest.mark.parametrize(("error", "kind"), [(ValueError, InputError), (KeyError, RuntimeError)])
def test_only_the_users_mistakes_lose_their_traceback(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception], kind: type[Exception]
) -> None:
    def fail(*arguments: object) -> Callable:
        raise error("out of luck")

    monkeypatch.setattr("custom_transforms.weights.load_weights", fail)
    with pytest.raises(kind, match=r"same cannot be scored: .*out of luck") as caught:
        evaluate_method("same", quick=True, settings={"device": "cpu"})
    assert isinstance(caught.value, InputError) is (kind is InputError)
