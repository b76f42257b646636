"""Every run says what it was made from: in run.json, in TensorBoard and, where it tracks, in MLflow."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from monai.bundle import ConfigWorkflow
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from custom_transforms.data import bids_data_list
from custom_transforms.provenance import file_sha256
from custom_transforms.run_record import config_in_use, describe_data, source_commit

Train = Callable[..., ConfigWorkflow]
SHAPES = {"phantom": "@shapes", "max_epochs": 1}


def git(folder: Path, *arguments: str) -> str:
    identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | identity).stdout.strip()


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_commit_of_the_sources_is_dirty_when_a_file_changed(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert source_commit(tmp_path) == commit
    (tmp_path / "file").write_text("2")
    assert source_commit(tmp_path) == f"{commit}-dirty"


def test_installed_package_has_no_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "site-packages").mkdir()
    assert source_commit(tmp_path / "site-packages") is None  # the repository around it is another project
    assert source_commit(tmp_path) is None  # no commit yet


def test_data_statement_follows_the_files(dataset_dir: Path, tmp_path: Path) -> None:
    cases = bids_data_list(dataset_dir, labelled=True)
    data_list = tmp_path / "cases.json"
    data_list.write_text(json.dumps({"training": cases[:2], "validation": cases[2:]}))
    sections = {"training": cases[:2], "validation": cases[2:]}
    data = describe_data(sections, seed=0, data_list=str(data_list), pretrained=str(data_list))
    assert data["statement"] == "the user's own cases"
    assert (data["training"]["cases"], data["validation"]["cases"]) == (2, 1)
    assert data["data_list_sha256"] == data["pretrained"]["sha256"] == file_sha256(data_list)
    other = describe_data({"training": cases[1:], "validation": cases[:1]}, seed=0)
    assert other["training"]["sha256"] != data["training"]["sha256"]
    assert describe_data({"training": []}, seed=3) == {"statement": "simulated on the fly, no measured data", "seed": 3}


def test_config_needs_an_expression() -> None:
    with pytest.raises(ValueError, match="called by an expression of a config"):
        config_in_use()


def test_training_is_recorded_and_so_is_its_continuation(tmp_path: Path, train: Train) -> None:
    train(output_dir=str(tmp_path), **SHAPES)
    first = record(tmp_path)
    assert first["config"]["max_epochs"] == 1 and first["config"]["network_def"]["_target_"].startswith("custom_tran")
    assert first["data"] == {"statement": "simulated on the fly, no measured data", "seed": 0}
    start = first["starts"][0]
    assert start["commit"] == source_commit() and start["versions"]["torch"] and start["processes"] == 1
    with pytest.raises(RuntimeError):
        train(output_dir=str(tmp_path), **SHAPES)
    assert record(tmp_path) == first  # a run that was refused leaves no record
    train(output_dir=str(tmp_path), **SHAPES | {"max_epochs": 2})
    starts = record(tmp_path)["starts"]
    assert starts[0] == start and [s["epoch"] for s in starts] == [0, 1]
    assert starts[1]["config_sha256"] != start["config_sha256"]


def test_tensorboard_has_scalars_and_the_record(tmp_path: Path, train: Train) -> None:
    train(output_dir=str(tmp_path), **SHAPES)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    values: dict[str, list] = {}
    for file in sorted((tmp_path / "tensorboard").iterdir()):
        events = EventAccumulator(str(file)).Reload()
        for tag in events.Tags()["scalars"]:
            values.setdefault(tag, []).extend(events.Scalars(tag))
        for tag in events.Tags()["tensors"]:
            values[tag] = [t.tensor_proto.string_val[0].decode() for t in events.Tensors(tag)]
    assert len(values["train_loss"]) == 2 and all(event.value > 0 for event in values["train_loss"])
    assert len(values["nrmse"]) == 2
    assert json.loads("".join(values["run/text_summary"])) == record(tmp_path)


def test_evaluation_is_recorded_with_its_weights(tmp_path: Path, train: Train, run: Train, dataset_dir: Path) -> None:
    train(output_dir=str(tmp_path / "train"), **SHAPES)
    weights = str(tmp_path / "train/checkpoints/best.pt")
    options = {"dataset_dir": str(dataset_dir), "weights": weights, "channels": [4, 4, 8], "iterations": 2}
    out = str(tmp_path / "scores")
    run("evaluating", ["train.json", "evaluate.json"], output_dir=out, device="cpu", **options)
    assert record(tmp_path / "scores")["data"]["validation"]["cases"] == 3
    assert record(tmp_path / "scores")["data"]["pretrained"]["sha256"] == file_sha256(weights)


@pytest.mark.doors
@pytest.mark.tracking
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of SQLAlchemy, by MLflow's store
def test_mlflow_tracks_options_metrics_commit_and_data(bundle: Path, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs pip install mlflow-skinny alembic")
    uri = f"sqlite:///{tmp_path}/mlruns.db"
    options = {"volume_shape": "[16,16,16]", "channels": "[4,4,8]", "iterations": "2", "epoch_length": "2"}
    options |= {"val_interval": "1", "val_length": "1", "device": "cpu", "amp": "False", "phantom": "@shapes"}
    options |= {"max_epochs": "2", "output_dir": str(tmp_path / "run"), "bundle_root": str(bundle)}
    options |= {"tracking": "mlflow", "tracking_uri": uri, "experiment_name": "chisep", "run_name": "tiny"}
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file"]
    command += [str(bundle / "configs/train.json"), *(part for n, v in options.items() for part in (f"--{n}", v))]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    client = mlflow.MlflowClient(uri)
    (tracked,) = client.search_runs([client.get_experiment_by_name("chisep").experiment_id])
    assert (tracked.info.run_name, tracked.info.status) == ("tiny", "FINISHED")
    assert {"train_loss", "nrmse", "nrmse_para", "nrmse_dia"} <= tracked.data.metrics.keys()
    assert len(client.get_metric_history(tracked.info.run_id, "train_loss")) == 4
    start = record(tmp_path / "run")["starts"][0]
    assert tracked.data.params["chisep.learning_rate"] == "0.001"
    assert tracked.data.params["chisep.max_epochs"] == "2"
    assert tracked.data.tags["chisep.data.statement"] == "simulated on the fly, no measured data"
    assert tracked.data.tags["chisep.config_sha256"] == start["config_sha256"]
    assert tracked.data.tags.get("mlflow.source.git.commit") == start["commit"]
    assert "run.json" in [file.path for file in client.list_artifacts(tracked.info.run_id)]
