"""benchmarks/ablation.py: a knob changes what it says and nothing else, errors are those of the network's maps."""

import importlib.util
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser
from torch import Tensor

from custom_transforms import keys
from custom_transforms.overrides import unknown_overrides
from custom_transforms.phantom.steps import Echoes
from custom_transforms.phantom.steps.base import Imperfection
from custom_transforms.physics import DipoleConvolution, combine_sources
from custom_transforms.variants import inference_config

ROOT = Path(__file__).resolve().parents[2]
SIZE, VOLUMES = 24, 3
FIELD, RATE = keys.LOCAL_FIELD, keys.RATE
CHANGED = {
    "voxel_size": {FIELD, RATE, keys.LABEL, keys.MASK, keys.VOXEL_SIZE_MM},
    "tilt": {FIELD, RATE, keys.B0_DIRECTION},
    "snr_20": {FIELD, RATE},
    "snr_300": {FIELD, RATE},
    "echoes": {FIELD, RATE},
    "split_relaxivity": {FIELD, RATE, keys.RELAXIVITY_WEIGHTS},
    "anisotropic_white_matter": {FIELD, RATE, keys.LABEL},
    "relaxivity_mismatch": {FIELD, RATE, keys.LABEL},
    "residual_background": {FIELD, RATE},
    "mask_errors": {FIELD, RATE, keys.LABEL, keys.MASK},
    "motion_blur": {FIELD, RATE},
    "r2_error": {RATE},
    "lesions": {FIELD, RATE, keys.LABEL},
    "vessels": {FIELD, RATE, keys.LABEL},
}
Volume = dict[str, Tensor]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ablation", ROOT / "benchmarks" / "ablation.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def ablation() -> ModuleType:
    return load()


@pytest.fixture(scope="module")
def volumes() -> Callable[[str], list[Volume]]:
    """The volumes of a row, with the field and the rate apart, made once."""
    module, made = load(), {}

    def make(knob: str) -> list[Volume]:
        if knob not in made:
            simulated = module.simulate(module.training_config(knob, SIZE), VOLUMES)
            made[knob] = [v | {FIELD: v[keys.IMAGE][:, :1], RATE: v[keys.IMAGE][:, 1:2]} for v in simulated]
        return made[knob]

    return make


def training_json() -> ConfigParser:
    config = ConfigParser()
    config.read_config(ROOT / "bundle" / "configs" / "train.json")
    config.update({"device": "$torch.device('cpu')", "volume_shape": [SIZE] * 3})
    return config


def test_no_imperfection_is_forgotten(ablation: ModuleType) -> None:
    steps = training_json().get_parsed_content("simulation")
    assert {name for name, step in steps.items() if isinstance(step, Imperfection)} == set(ablation.IMPERFECTIONS)
    assert set(ablation.KNOBS) == set(CHANGED) | {ablation.NONE}


def test_without_a_knob_only_noise_is_left(ablation: ModuleType, volumes: Callable[[str], list[Volume]]) -> None:
    echoes = ablation.training_config("none", SIZE).get_parsed_content("simulation")["echoes"]
    usual = vars(Echoes(snr=(100.0, 100.0)))
    assert {name: tuple(value) for name, value in vars(echoes).items()} == usual
    for volume in volumes("none"):
        assert volume[keys.VOXEL_SIZE_MM].tolist() == [[1, 1, 1]] and volume[keys.B0_DIRECTION].tolist() == [[0, 0, 1]]
        assert volume[keys.RELAXIVITY_WEIGHTS].tolist() == [[1, 1]]
        q, r2prime = combine_sources(volume[keys.LABEL])
        inside = volume[keys.MASK] > 0
        wrong = (volume[FIELD] - DipoleConvolution(padding=1.0)(q))[inside]
        # m0 of 1, SNR 100, five echoes to 29 ms at 3 T: below 0.001 ppm, also where a quarter of the signal is left
        assert float(wrong.std()) < 1e-3 and abs(float(wrong.median())) < 1e-4
        assert abs(float((volume[RATE] - r2prime)[inside].median())) < 5e-4
        assert float(volume[keys.LABEL].max()) < 1.0  # neither lesion nor vessel


@pytest.mark.parametrize("knob", CHANGED)
def test_a_knob_changes_what_it_says_in_the_same_volumes(knob: str, volumes: Callable[[str], list[Volume]]) -> None:
    pairs = list(zip(volumes("none"), volumes(knob), strict=True))
    changed = {
        name
        for name in (FIELD, RATE, keys.LABEL, keys.MASK, *keys.GEOMETRY)
        if any(not torch.equal(ideal[name], other[name]) for ideal, other in pairs)
    }
    assert changed == CHANGED[knob]


@pytest.mark.parametrize("knob", ["lesions", "vessels"])
def test_tissue_around_what_is_added_stays(knob: str, volumes: Callable[[str], list[Volume]]) -> None:
    for ideal, other in zip(volumes("none"), volumes(knob), strict=True):
        change = (other[keys.LABEL] - ideal[keys.LABEL]).abs().amax(dim=1)[ideal[keys.MASK][:, 0] > 0]
        assert float((change < 1e-4).float().mean()) > 0.5 and float(change.max()) > 0.05


def test_noise_is_the_same_and_falls_with_the_snr(volumes: Callable[[str], list[Volume]]) -> None:
    for low, usual, high in zip(*map(volumes, ("snr_20", "none", "snr_300")), strict=True):
        inside = usual[keys.MASK] > 0
        more, less = (low[FIELD] - usual[FIELD])[inside], (usual[FIELD] - high[FIELD])[inside]
        # linear in the noise: (1/20 - 1/100) / (1/100 - 1/300)
        assert float((more @ less) / (less @ less)) == pytest.approx(6, rel=0.05)


def test_ranges_are_those_of_training(ablation: ModuleType) -> None:
    stored = json.loads((ROOT / "bundle" / "configs" / "train.json").read_text())
    config = ablation.training_config("voxel_size", SIZE)
    phantom = config.get_parsed_content("anatomy")
    assert [phantom.voxel_size_mm, phantom.slice_ratio, phantom.tilt_deg] == [
        stored["anatomy"]["voxel_size_mm"],
        stored["anatomy"]["slice_ratio"],
        0.0,
    ]
    name = ablation.describe("voxel_size", config)
    assert name == f"voxel_size: voxel_size_mm {phantom.voxel_size_mm}, slice_ratio {phantom.slice_ratio}"
    assert ablation.describe("motion_blur", config) == "motion_blur"
    blur = ablation.training_config("motion_blur", SIZE).get_parsed_content("simulation")["motion_blur"]
    assert blur.probability == 1.0 and blur.shift_voxels == stored["simulation"]["motion_blur"]["shift_voxels"]


@pytest.mark.parametrize("knob", CHANGED)
def test_command_trains_without_the_knob(ablation: ModuleType, knob: str) -> None:
    training, export = (shlex.split(line) for line in ablation.training_commands(knob))
    for words, workflow in ((training, "training"), (export, "export")):
        assert words[:7] == ["python", "-m", "monai.bundle", "run", workflow, "--config_file", "configs/train.json"]
        file = str(ROOT / "bundle" / "configs" / "train.json")
        assert unknown_overrides(["--config_file", file, *words[7:]]) == {}
    config = training_json()
    options = dict(zip(training[7::2], map(DefaultParseValue, training[8::2]), strict=True))
    config.update({name.removeprefix("--"): value for name, value in options.items()})
    phantoms = [config.get_parsed_content(name) for name in ("shapes", "anatomy")]
    steps = config.get_parsed_content("simulation")
    match knob:
        case "voxel_size":
            assert [(p.voxel_size_mm, p.slice_ratio) for p in phantoms] == 2 * [([1.0, 1.0], 1.0)]
        case "tilt":
            assert [p.tilt_deg for p in phantoms] == [0.0, 0.0]
        case "snr_20" | "snr_300":
            assert steps["echoes"].snr == [100.0, 100.0]
        case "echoes":
            assert (steps["echoes"].number, steps["echoes"].spacing_ms) == ([5, 5], [6.0, 6.0])
        case "split_relaxivity":
            assert steps["split_relaxivity"].largest == 0.0
        case "lesions":
            assert [p.lesions.probability for p in phantoms] == [0.0, 0.0]
        case "vessels":
            assert [p.vessels.number for p in phantoms] == [0, 0]
            assert all(p(2, torch.Generator().manual_seed(0))[keys.CHI_PARA].isfinite().all() for p in phantoms)
        case step:
            assert steps[step].probability == 0.0
    assert export[7:] == training[-4:]


def test_weights_of_version_0_3(ablation: ModuleType, tmp_path: Path) -> None:
    config = inference_config("unrolled")
    config.update({"weights": False, "physics_steps": 1, "network_def::backbone::out_channels": 2})
    network = config.get_parsed_content("network").eval()
    state = network.state_dict()
    torch.save(state | {"log_regularisation": state["log_regularisation"][:, 0]}, tmp_path / "old.pt")
    image = torch.rand(1, 3, 12, 9, 10, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        read = ablation.read_network(str(tmp_path / "old.pt"), torch.device("cpu"))(image)
        assert torch.equal(read, network(image)) and bool(read.any())


def test_cells(ablation: ModuleType) -> None:
    errors, ideal = torch.tensor([[10.0, 20.0], [14.0, 24.0]]), torch.tensor([[9.0, 20.0], [9.0, 30.0]])
    # changes of 1 and 5, and of 0 and -6: SD over the root of 2 is half their distance
    assert ablation.cells(errors, ideal) == ["12.0 / 22.0", "+3.0 ± 2.0 / -3.0 ± 3.0"]


def test_table(ablation: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Maps that are zero are wrong by 100 %."""
    networks = {"zero.pt": lambda image, *_: torch.zeros_like(image[:, :2])}
    monkeypatch.setattr(ablation, "read_network", lambda file, _: networks[file])
    monkeypatch.setattr(ablation, "KNOBS", {name: ablation.KNOBS[name] for name in ("none", "tilt")})
    options = ["--weights", "zero.pt", "other=zero.pt", "--volumes", "2", "--volume", "16", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["ablation.py", *options])
    ablation.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert rows[0] == "| knob | zero | change | other | change |"
    cells = 2 * " | 100.0 / 100.0 | +0.0 ± 0.0 / +0.0 ± 0.0"
    tilt_deg = training_json()["anatomy::tilt_deg"]
    assert rows[2:] == [f"| none{cells} |", f"| tilt: tilt_deg {tilt_deg}{cells} |"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--volumes", "1"], "expected 2 or more"),
        (["--weights", "absent.pt"], "no weights file absent.pt"),
        (["--weights", "{0}/qsmnet.pt"], "does not hold the weights of the default network"),
        (["--weights", "a={0}/model.pt", "a={0}/model.pt"], "two files have the same name"),
        (["--train-without", "none"], "invalid choice"),
    ],
)
def test_mistakes_are_one_line(
    ablation: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    options: list[str],
    message: str,
) -> None:
    models = ROOT / "bundle" / "models"
    monkeypatch.setattr(sys, "argv", ["ablation.py", *(option.format(models) for option in options)])
    with pytest.raises(SystemExit) as stop:
        ablation.main()
    assert stop.value.code == 2 and message in capsys.readouterr().err
