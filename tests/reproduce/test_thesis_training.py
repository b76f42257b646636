"""The trainings differ in what they should, and their log survives being resumed."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from custom_transforms.networks import ChiSepNet, GradientUnrolledChiSepNet
from custom_transforms.reproduce.thesis_runs import (
    BASELINE,
    FAST_ALPHA,
    QSMNET,
    UNROLLED,
    WITHOUT_QSM,
    Run,
    Settings,
    planned_runs,
    weights_path,
)
from custom_transforms.reproduce.thesis_training import (
    EpochLog,
    alpha_learning_rate,
    read_epochs,
    train,
    training_config,
)

SETTINGS = Settings(3.0, epochs=2, width=2, patch_size=None, amp=False, checkpointing=False, device="cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A reproduction whose QSMnet is trained."""
    network = training_config(Run(QSMNET, "qsmnet"), SETTINGS, tmp_path).get_parsed_content("network_def")
    path = weights_path(tmp_path, Run(QSMNET, "qsmnet"))
    path.parent.mkdir()
    torch.save(network.state_dict(), path)
    return tmp_path


def runs(**options: bool) -> dict[str, Run]:
    return {run.model: run for run in planned_runs(seeds=1, ablations=True, alpha_learning_rate=0.25)}


def test_order_and_names() -> None:
    planned = planned_runs(seeds=2, ablations=False, alpha_learning_rate=0.25)
    assert [(r.model, r.seed) for r in planned] == [
        (QSMNET, 0), (BASELINE, 0), (UNROLLED, 0), (BASELINE, 1), (UNROLLED, 1)
    ]  # fmt: skip
    names = [run.name for run in planned_runs(seeds=2, ablations=True, alpha_learning_rate=0.25)]
    assert len(set(names)) == len(names)
    assert all(" " not in name for name in names)


def test_networks_of_the_runs(folder: Path) -> None:
    networks = {
        model: training_config(runs()[model], SETTINGS, folder).get_parsed_content("network_def")
        for model in (BASELINE, UNROLLED, WITHOUT_QSM, "2 iterations")
    }
    assert isinstance(networks[BASELINE], ChiSepNet)
    iterations = {model: len(n.priors) for model, n in networks.items() if isinstance(n, GradientUnrolledChiSepNet)}
    assert iterations == {UNROLLED: 10, WITHOUT_QSM: 10, "2 iterations": 2}
    assert networks[WITHOUT_QSM].susceptibility is None
    assert networks[UNROLLED].susceptibility is not None
    assert networks[UNROLLED].susceptibility.network.trained_voxel_size_mm == 3.0


def test_only_alpha_gets_a_learning_rate_of_its_own(folder: Path) -> None:
    assert alpha_learning_rate(runs()[UNROLLED], SETTINGS, folder) == pytest.approx(3e-4)
    parser = training_config(runs()[FAST_ALPHA], SETTINGS, folder)
    groups = parser.get_parsed_content("optimizer").param_groups
    network = parser.get_parsed_content("network_def")
    assert [group["lr"] for group in groups] == [3e-4, 0.25]
    assert groups[1]["params"] == [network.step]
    trainable = {id(p) for p in network.parameters() if p.requires_grad}
    assert {id(p) for group in groups for p in group["params"]} == trainable


def test_log_of_a_resumed_run_has_every_epoch_once(tmp_path: Path) -> None:
    network = nn.Module()
    network.step = nn.Parameter(torch.tensor(4.0))
    evaluator = SimpleNamespace(state=SimpleNamespace(metrics={"nrmse": 50.0}))
    log = EpochLog(tmp_path / "run/epochs.csv", network, evaluator)
    for epoch, alpha in ((0, 4.0), (1, 3.0), (2, 2.0), (1, 3.5), (2, 2.5)):  # killed in the third epoch, resumed from 1
        network.step.data.fill_(alpha)
        log(SimpleNamespace(state=SimpleNamespace(epoch=epoch)))
    rows = read_epochs(tmp_path / "run/epochs.csv")
    assert [(row["epoch"], row["alpha"]) for row in rows] == [("0", "4.0"), ("1", "3.5"), ("2", "2.5")]
    direct = EpochLog(tmp_path / "direct.csv", nn.Module(), evaluator)
    direct(SimpleNamespace(state=SimpleNamespace(epoch=0)))
    assert read_epochs(tmp_path / "direct.csv")[0]["alpha"] == ""


def test_a_finished_training_is_only_exported(tmp_path: Path) -> None:
    run = Run(BASELINE, "chi_sepnet_r2prime")
    checkpoints = tmp_path / "runs" / run.name / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save({"trainer": {"iteration": 48, "epoch_length": 24}}, checkpoints / "last.pt")
    torch.save({"w": torch.ones(2)}, checkpoints / "best.pt")
    train(run, SETTINGS, tmp_path)
    assert torch.load(weights_path(tmp_path, run), weights_only=True)["w"].dtype == torch.float16
    (tmp_path / "cohort").mkdir()
    (tmp_path / "cohort/cosmos.json").write_text(json.dumps({"training": []}))
    longer = Settings(3.0, epochs=3, width=2, patch_size=None, amp=False, checkpointing=False, device="cpu")
    with pytest.raises((FileNotFoundError, RuntimeError)):  # goes on training, for which QSMnet is missing here
        train(run, longer, tmp_path)
