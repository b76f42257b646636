"""Processes that torchrun starts share training, evaluation and inference; what comes out is that of one process."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from torch.utils.data import IterableDataset

from custom_transforms import processes
from custom_transforms.data import share
from custom_transforms.phantom import RandomShapes, SimulatedBatches

Run = Callable[..., ConfigWorkflow]
LIMIT_S = 400  # a deadlock is an error, not a test that never ends
TINY = {"volume_shape": [16, 16, 16], "channels": [4, 4, 8], "iterations": 2, "phantom": "@shapes", "epoch_length": 2}
TINY |= {"val_interval": 1, "val_length": 3, "max_epochs": 2, "device": "cpu", "amp": False}
BATCH_NORM = {"network_def#backbone#norm_name": "batch"}
GRADIENT_STEP = {
    "_target_": "torch.optim.SGD",
    "params": "$@network.parameters()",
    "lr": 1.0,
}  # the change is the gradient


def torchrun(bundle: Path, configs: list[str], options: dict[str, Any], *, restarts: int = 0) -> list[str]:
    files = [str(bundle / "configs" / name) for name in configs]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    start += ["--max-restarts", str(restarts), "-m", "monai.bundle", "run", "--config_file", repr(files)]
    options = {"bundle_root": bundle, **options}
    return [*start, *(part for name, value in options.items() for part in (f"--{name}", str(value).replace(" ", "")))]


def launch(command: list[str]) -> str:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def checkpoint(output: Path) -> dict[str, Any]:
    return torch.load(output / "checkpoints/last.pt", weights_only=True)


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    def pretend(rank: int, ranks: int) -> None:
        monkeypatch.setattr("ignite.distributed.get_rank", lambda: rank)
        monkeypatch.setattr("ignite.distributed.get_world_size", lambda: ranks)

    return pretend


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_every_volume_is_scored_once(ranks: int, as_rank: Callable) -> None:
    parts = []
    for rank in range(ranks):
        as_rank(rank, ranks)
        sampler = share(range(5))  # type: ignore[arg-type]
        parts.append(list(sampler))
        assert len(sampler) == len(parts[-1])
    assert sorted(index for part in parts for index in part) == list(range(5))


def test_training_takes_as_many_steps_on_all_ranks(as_rank: Callable) -> None:
    orders = {}
    for epoch in (1, 2):
        for rank in range(2):
            as_rank(rank, 2)
            sampler = share(range(5), shuffle=True)  # type: ignore[arg-type]
            sampler.set_epoch(epoch)
            orders[epoch, rank] = list(sampler)
    assert all(len(order) == 3 for order in orders.values())
    assert {*orders[1, 0], *orders[1, 1]} == {*orders[2, 0], *orders[2, 1]} == set(range(5))
    assert orders[1, 0] != orders[2, 0]


def test_more_processes_than_volumes_are_refused(as_rank: Callable) -> None:
    as_rank(0, 4)
    with pytest.raises(ValueError, match="a volume for each of the 4 processes, got 3; start 3 or fewer"):
        share(range(3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="for each of the 4 processes, got 3"):
        simulated(3, shared=True)


def simulated(length: int, *, shared: bool) -> SimulatedBatches:
    return SimulatedBatches(phantom=RandomShapes(shape=(8, 8, 8)), batch_size=1, length=length, seed=0, shared=shared)


def test_simulated_validation_is_that_of_one_process(as_rank: Callable) -> None:
    whole = [batch["label"] for batch in simulated(3, shared=True)]
    parts = []
    for rank in range(2):
        as_rank(rank, 2)
        parts.append([batch["label"] for batch in simulated(3, shared=True)])
        assert len(parts[-1]) == len(simulated(3, shared=True)) == 2 - rank
    for index, label in enumerate(whole):
        assert torch.equal(parts[index % 2][index // 2], label)


def test_every_rank_trains_on_volumes_of_its_own(as_rank: Callable) -> None:
    labels = []
    for rank in range(2):
        as_rank(rank, 2)
        labels += [batch["label"] for batch in simulated(2, shared=False)]
    assert not any(torch.equal(a, b) for i, a in enumerate(labels) for b in labels[:i])


def test_configs_of_several_processes_need_torchrun(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        run("run", ["train.json", "multi_gpu_train.json"], output_dir=str(tmp_path), **TINY)
    assert "the multi_gpu configs need torchrun" in str(caught.value.__cause__)
    assert processes.local_device().type in ("cpu", "cuda")
    assert list(tmp_path.iterdir()) == []


def test_both_patches_meet_and_part_alike(bundle: Path) -> None:
    train, evaluate = (
        ConfigParser.load_config_file(bundle / f"configs/multi_gpu_{name}.json") for name in ("train", "evaluate")
    )
    assert {name: train[name] for name in evaluate if name != "_desc_"} == {
        name: value for name, value in evaluate.items() if name != "_desc_"
    }


class Given(IterableDataset):
    """One batch."""

    def __init__(self, batch: dict[str, torch.Tensor]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        yield self.batch


@pytest.mark.doors
@pytest.mark.processes
@pytest.mark.timeout(900)
def test_two_processes_have_the_gradient_of_one_with_both_volumes(
    bundle: Path, tmp_path: Path, run: Run, as_rank: Callable
) -> None:
    options = TINY | {"batch_size": 1, "epoch_length": 1, "max_epochs": 1, "val_length": 2}
    patch = tmp_path / "sgd.json"
    ConfigParser.export_config_file({"optimizer": GRADIENT_STEP}, str(patch))
    launch(
        torchrun(bundle, ["train.json", "multi_gpu_train.json", str(patch)], options | {"output_dir": tmp_path / "two"})
    )
    config = run("imports", ["train.json"], output_dir=str(tmp_path), **options).parser
    volumes = []
    for rank in range(2):
        as_rank(rank, 2)
        dataset = config.get_parsed_content("train::simulated")
        dataset.set_epoch(1)
        volumes.append(next(iter(dataset)))
    as_rank(0, 1)
    both = {key: torch.cat([volume[key] for volume in volumes]) for key in volumes[0]}
    for name, batch in {"one": both, "first": volumes[0]}.items():
        changes = {"optimizer": GRADIENT_STEP, "train#dataset": Given(batch), "output_dir": str(tmp_path / name)}
        run("run", ["train.json"], **options, **changes)
    two, one, first = (checkpoint(tmp_path / name)["model"] for name in ("two", "one", "first"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)
    assert any(not torch.allclose(two[name], value, rtol=1e-3, atol=1e-5) for name, value in first.items())


@pytest.mark.doors
@pytest.mark.processes
@pytest.mark.timeout(900)
def test_training_validates_once_and_resumes(bundle: Path, tmp_path: Path, run: Run) -> None:
    """With batch normalisation, whose statistics each process has of its own, and three volumes for two processes."""
    options = TINY | BATCH_NORM | {"output_dir": tmp_path}
    configs = ["train.json", "multi_gpu_train.json"]
    log = launch(torchrun(bundle, configs, options))
    assert len(re.findall(r"Epoch\[2\] Metrics -- nrmse: ([\d.]+)", log)) == 1  # rank 0 alone reports
    bests = re.findall(r"Got new best metric of nrmse: ([\d.]+)", log)
    assert all(bests.count(best) == 2 for best in bests)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best.pt", "last.pt"]
    alone = run("imports", ["train.json"], **options | {"output_dir": str(tmp_path / "alone")}).parser
    alone.get_parsed_content("network_def").load_state_dict(checkpoint(tmp_path)["model"])
    evaluator = alone.get_parsed_content("validate::evaluator")
    evaluator.run()
    shown = re.findall(r"Epoch\[2\] Metrics -- nrmse: ([\d.]+)", log)[0]
    assert evaluator.state.metrics["nrmse"] == pytest.approx(float(shown), abs=1e-3)
    log = launch(torchrun(bundle, configs, options | {"max_epochs": 3}))
    assert log.count("at epoch 2 of 3") == 2
    assert checkpoint(tmp_path)["trainer"]["iteration"] == 6


@pytest.mark.doors
@pytest.mark.processes
@pytest.mark.timeout(900)
def test_all_ranks_stop_early_together(bundle: Path, tmp_path: Path) -> None:
    options = TINY | {"learning_rate": 0.0, "weight_decay": 0.0, "patience_epochs": 2, "max_epochs": 9}
    log = launch(torchrun(bundle, ["train.json", "multi_gpu_train.json"], options | {"output_dir": tmp_path}))
    assert log.count("Early stop") == 2
    assert checkpoint(tmp_path)["trainer"]["iteration"] == 4


def workers(process: subprocess.Popen) -> dict[int, int]:
    """Process id of each rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {}
    for child in children:
        environment = dict(
            part.split("=", 1) for part in Path(f"/proc/{child}/environ").read_text().split("\0") if part
        )
        if "RANK" in environment:
            ranks[int(environment["RANK"])] = int(child)
    return ranks


@pytest.mark.doors
@pytest.mark.processes
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers in /proc")
def test_run_goes_on_when_a_worker_is_killed(bundle: Path, tmp_path: Path) -> None:
    configs, options = ["train.json", "multi_gpu_train.json"], TINY | {"max_epochs": 12}
    launch(torchrun(bundle, configs, options | {"output_dir": tmp_path / "whole"}))
    command = torchrun(bundle, configs, options | {"output_dir": tmp_path / "killed"}, restarts=3)
    with (tmp_path / "log").open("w") as log:
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
    last = tmp_path / "killed/checkpoints/last.pt"
    end = time.monotonic() + LIMIT_S
    while not last.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(workers(process)[0], signal.SIGKILL)  # rank 0, which writes
    assert process.wait(timeout=LIMIT_S) == 0, (tmp_path / "log").read_text()[-3000:]
    assert (tmp_path / "log").read_text().count("Resumed from") == 2
    whole, killed = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "killed")
    assert killed["trainer"]["iteration"] == whole["trainer"]["iteration"] == 24
    for name, value in whole["model"].items():
        torch.testing.assert_close(killed["model"][name], value, rtol=1e-4, atol=1e-6)
    assert killed["validation"] == pytest.approx(whole["validation"])


@pytest.fixture
def weights(tmp_path: Path, run: Run) -> str:
    config = run("imports", ["train.json"], output_dir=str(tmp_path / "none"), **TINY).parser
    torch.save(config.get_parsed_content("network_def").state_dict(), tmp_path / "weights.pt")
    return str(tmp_path / "weights.pt")


def table(folder: Path) -> dict[str, float]:
    with (folder / "metrics.csv").open() as file:
        return {row[0]: float(row[1]) for row in csv.reader(file)}


@pytest.mark.doors
@pytest.mark.processes
@pytest.mark.timeout(900)
def test_shared_evaluation_and_inference_give_what_one_process_gives(
    bundle: Path, tmp_path: Path, run: Run, dataset_dir: Path, weights: str
) -> None:
    common = {
        "channels": [4, 4, 8],
        "iterations": 2,
        "device": "cpu",
        "dataset_dir": str(dataset_dir),
        "weights": weights,
    }
    for configs in (["train.json", "evaluate.json"], ["inference.json"]):
        name = configs[-1].split(".")[0]
        one, two = tmp_path / "one" / name, tmp_path / "two" / name
        run("run", configs, output_dir=str(one), amp=False, **common)
        log = launch(
            torchrun(bundle, [*configs, "multi_gpu_evaluate.json"], common | {"output_dir": two, "amp": False})
        )
        assert log.count("Engine run finished") == 2
    assert table(tmp_path / "two/evaluate") == pytest.approx(table(tmp_path / "one/evaluate"), rel=1e-5)
    files = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one/inference").rglob("*.nii.gz")}
    assert files == {path.relative_to(tmp_path / "two") for path in (tmp_path / "two/inference").rglob("*.nii.gz")}
    assert len(files) == 9
    for file in files:
        values, expected = (nibabel.load(tmp_path / folder / file).get_fdata() for folder in ("two", "one"))
        np.testing.assert_allclose(values, expected, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.doors
@pytest.mark.processes
@pytest.mark.timeout(900)
def test_training_between_gpus(bundle: Path, tmp_path: Path) -> None:
    """With as many processes as there are GPUs; one also goes through NCCL."""
    options = {name: value for name, value in TINY.items() if name not in ("device", "amp")} | {"output_dir": tmp_path}
    command = torchrun(bundle, ["train.json", "multi_gpu_train.json"], options)
    command[command.index("--nproc-per-node") + 1] = str(min(2, torch.cuda.device_count()))
    launch(command)
    assert checkpoint(tmp_path)["trainer"]["iteration"] == 4
