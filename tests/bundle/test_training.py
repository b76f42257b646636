"""Training learns, survives being killed, starts from weights, takes the user's own data, and exports."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow

from custom_transforms.data import bids_data_list

Train = Callable[..., ConfigWorkflow]


def command(bundle: Path, *arguments: str, patches: tuple[str, ...] = ()) -> list[str]:
    files = [str(bundle / "configs/train.json"), *patches]
    start = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", repr(files)]
    return [*start, "--bundle_root", str(bundle), "--device", "cpu", "--amp", "False", *arguments]


def checkpoint(output: Path, name: str = "last.pt") -> dict:
    return torch.load(output / "checkpoints" / name, weights_only=True)


def test_quick_run_from_another_folder_lowers_the_error(bundle: Path, tmp_path: Path) -> None:
    quick = str(bundle / "configs/quick.json")
    run = subprocess.run(
        command(bundle, "--output_dir", "run", patches=(quick,)), cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    errors = [float(value) for value in re.findall(r"Metrics -- nrmse: ([\d.]+)", run.stdout)]
    assert len(errors) == 4
    assert errors[-1] < 0.97 * errors[0]
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["best.pt", "last.pt"]
    assert list((tmp_path / "run/tensorboard").glob("events*"))


def test_misspelt_option_writes_nothing(bundle: Path, tmp_path: Path) -> None:
    run = subprocess.run(
        command(bundle, "--output_dir", "run", "--max_epohcs", "1"), cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 2
    assert "--max_epohcs (did you mean --max_epochs?)" in run.stderr.strip().splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_killed_run_ends_like_one_that_was_not(bundle: Path, tmp_path: Path, train: Train) -> None:
    epochs = 60  # long enough to be killed in the middle, on any machine
    train(output_dir=str(tmp_path / "whole"), max_epochs=epochs)
    arguments = {"volume_shape": "[16,16,16]", "channels": "[4,4,8]", "iterations": "2", "max_epochs": str(epochs)}
    arguments |= {"epoch_length": "2", "val_interval": "1", "val_length": "1", "output_dir": str(tmp_path / "killed")}
    options = [part for name, value in arguments.items() for part in (f"--{name}", value)]
    process = subprocess.Popen(command(bundle, *options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    last = tmp_path / "killed/checkpoints/last.pt"
    while not last.exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 0 < checkpoint(tmp_path / "killed")["trainer"]["iteration"] < 2 * epochs
    train(output_dir=str(tmp_path / "killed"), max_epochs=epochs)
    for name in ("last.pt", "best.pt"):
        whole, killed = (checkpoint(tmp_path / run, name) for run in ("whole", "killed"))
        whole, killed = whole.get("model", whole), killed.get("model", killed)
        for key, value in whole.items():
            torch.testing.assert_close(killed[key], value, rtol=1e-4, atol=1e-6)
    assert checkpoint(tmp_path / "killed")["validation"] == pytest.approx(checkpoint(tmp_path / "whole")["validation"])


def test_another_seed_gives_other_weights(tmp_path: Path, train: Train) -> None:
    for seed in (0, 1):
        train(output_dir=str(tmp_path / str(seed)), max_epochs=1, seed=seed)
    first, second = (checkpoint(tmp_path / str(seed))["model"] for seed in (0, 1))
    assert not torch.allclose(first["prior_gain"], second["prior_gain"], rtol=1e-4)


def test_finished_run_is_refused_continued_or_begun_anew(tmp_path: Path, train: Train) -> None:
    train(output_dir=str(tmp_path), max_epochs=1)
    with pytest.raises(RuntimeError) as caught:
        train(output_dir=str(tmp_path), max_epochs=1)
    assert "is finished, it is at epoch 1 of 1; raise --max_epochs" in str(caught.value.__cause__)
    train(output_dir=str(tmp_path), max_epochs=2)
    assert checkpoint(tmp_path)["trainer"]["iteration"] == 4
    train(output_dir=str(tmp_path), max_epochs=1, restart_finished=True)
    assert checkpoint(tmp_path)["trainer"]["iteration"] == 2
    with pytest.raises(RuntimeError) as caught:
        train(output_dir=str(tmp_path), max_epochs=9, epoch_length=3)
    assert "has 2 iterations an epoch, this run 3" in str(caught.value.__cause__)


def test_export_and_fine_tuning(tmp_path: Path, train: Train) -> None:
    train(output_dir=str(tmp_path / "first"), max_epochs=2)
    weights = tmp_path / "models/model.pt"
    train("export", output_dir=str(tmp_path / "first"), export_path=str(weights))
    best = checkpoint(tmp_path / "first", "best.pt")
    assert all(value.dtype == torch.float16 for value in torch.load(weights, weights_only=True).values())
    tuned = train(output_dir=str(tmp_path / "tuned"), pretrained=str(weights), max_epochs=1, learning_rate=0.0)
    for name, value in tuned.parser.get_parsed_content("network_def").state_dict().items():
        torch.testing.assert_close(value, best[name], rtol=2e-3, atol=1e-6)  # half precision


def test_early_stop(tmp_path: Path, train: Train) -> None:
    train(output_dir=str(tmp_path), learning_rate=0.0, weight_decay=0.0, patience_epochs=2, max_epochs=9)
    assert checkpoint(tmp_path)["trainer"]["iteration"] == 4


@pytest.mark.parametrize("source", ["dataset_dir", "data_list"])
def test_own_data(source: str, tmp_path: Path, train: Train, dataset_dir: Path) -> None:
    if source == "data_list":
        cases = bids_data_list(dataset_dir, labelled=True)
        path = tmp_path / "cases.json"
        path.write_text(json.dumps({"training": cases[:2], "validation": cases[2:]}))
        given = {"data_list": str(path)}
    else:
        given = {"dataset_dir": str(dataset_dir)}
    workflow = train(output_dir=str(tmp_path / "run"), max_epochs=2, **given)
    assert checkpoint(tmp_path / "run")["trainer"]["iteration"] == 4  # two subjects, two epochs
    batch = next(iter(workflow.parser.get_parsed_content("train::dataloader")))
    simulated = next(iter(workflow.parser.get_parsed_content("train::simulated")))
    assert batch.keys() == simulated.keys()
    for key, value in batch.items():
        assert type(value) is torch.Tensor and value.dtype == simulated[key].dtype and value.ndim == simulated[key].ndim
    torch.testing.assert_close(batch["relaxivity_weights"], torch.ones(1, 2))
    torch.testing.assert_close(batch["voxel_size_mm"], torch.tensor([[0.9, 0.9, 1.2]]))
    assert bool((batch["label"].amax() > 0.05) & (batch["label"].amin() >= 0))
