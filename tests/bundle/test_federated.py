"""Two sites train in rounds with MONAI's client; data stay where they are, weights are averaged."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, ModelType
from monai.fl.utils.exchange_object import ExchangeObject

from custom_transforms.data import bids_data_list

pytestmark = pytest.mark.filterwarnings("ignore:executing the bundle config:UserWarning")  # MONAI's, to the sites
TINY = {"channels": [4, 4, 8], "iterations": 2, "device": "cpu", "amp": False, "val_interval": 100}
JOB = Path(__file__).resolve().parents[2] / "integrations/federated/job"
Weights = Mapping[str, torch.Tensor]


@pytest.fixture
def data_lists(dataset_dir: Path, tmp_path: Path) -> list[Path]:
    """One subject a site; the third is held out."""
    held_out, *cases = bids_data_list(dataset_dir, labelled=True)
    paths = []
    for number, case in enumerate(cases, start=1):
        paths.append(tmp_path / f"site-{number}.json")
        paths[-1].write_text(json.dumps({"training": [case], "validation": [held_out]}))
    return paths


def join_site(bundle: Path, data_list: Path, **options: Any) -> MonaiAlgo:
    """A site, with the arguments of the job's client."""
    client = json.loads((JOB / "app/config/config_fed_client.json").read_text())["components"][0]["args"]
    output = data_list.with_suffix("")
    changes = TINY | {"dataset_dir": None, "data_list": str(data_list), "output_dir": str(output)} | options
    site = MonaiAlgo(
        bundle_root=str(bundle),
        local_epochs=options.get("max_epochs", 16) // 2,
        send_weight_diff=client["send_weight_diff"],
        train_kwargs={**client["train_kwargs"], **changes},
        eval_kwargs={**client["eval_kwargs"], **changes, "output_dir": str(output / "scores")},
        best_model_filepath=str(output / "checkpoints/best.pt"),
    )
    site.initialize(extra={ExtraItems.CLIENT_NAME: output.name})
    return site


def mean(parts: list[Weights]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([part[name] for part in parts]).mean(dim=0) for name in parts[0]}


def give(weights: Weights) -> ExchangeObject:
    return ExchangeObject(weights={name: value.clone() for name, value in weights.items()})


def test_a_round_starts_from_the_weights_of_the_server(bundle: Path, data_lists: list[Path]) -> None:
    """Not from the site's own checkpoint, be it a later round or the first one after a restart."""
    still = {"learning_rate": 0.0, "weight_decay": 0.0, "max_epochs": 2}
    site = join_site(bundle, data_lists[0], **still)
    first = {name: value.clone() for name, value in site.get_weights().weights.items()}
    for factor in (1.0, 0.5):
        site.train(give({name: factor * value for name, value in first.items()}))
        for name, value in site.get_weights().weights.items():
            torch.testing.assert_close(value, factor * first[name])
    assert (data_lists[0].with_suffix("") / "checkpoints/last.pt").is_file()
    again = join_site(bundle, data_lists[0], **still)
    again.train(give({name: 0.25 * value for name, value in first.items()}))
    for name, value in again.get_weights().weights.items():
        torch.testing.assert_close(value, 0.25 * first[name])
    best = again.get_weights(extra={ExtraItems.MODEL_TYPE: ModelType.BEST_MODEL}).weights
    torch.testing.assert_close(best["prior_gain"], 0.25 * first["prior_gain"])


def test_weights_of_another_network_are_refused(bundle: Path, data_lists: list[Path]) -> None:
    site = join_site(bundle, data_lists[0])
    with pytest.raises(RuntimeError, match="No global weights converted"):
        site.train(ExchangeObject(weights={"nothing": torch.zeros(1)}))


def test_job_names_components_of_the_bundle(bundle: Path) -> None:
    client, server = (
        json.loads((JOB / f"app/config/config_fed_{name}.json").read_text()) for name in ("client", "server")
    )
    arguments = client["components"][0]["args"]
    options = ConfigParser.load_config_files([str(bundle / f"configs/{name}.json") for name in ("train", "evaluate")])
    assert arguments["train_kwargs"].keys() | arguments["eval_kwargs"].keys() <= options.keys()
    rounds = server["workflows"][0]["args"]["num_rounds"]
    assert arguments["train_kwargs"]["max_epochs"] == rounds * arguments["local_epochs"]
    persistor = next(part for part in server["components"] if part["id"] == "persistor")
    assert persistor["args"]["bundle_root"] == arguments["bundle_root"]
    assert persistor["args"]["network_def_key"] in options


@pytest.mark.doors
@pytest.mark.fl
def test_two_sites_together_lower_the_error_on_a_third(bundle: Path, data_lists: list[Path]) -> None:
    sites = [join_site(bundle, data_list, learning_rate=0.001, max_epochs=16) for data_list in data_lists]
    weights = {name: value.clone() for name, value in sites[0].get_weights().weights.items()}
    errors = [sites[0].evaluate(give(weights)).metrics["nrmse"]]
    for _ in range(2):
        parts = []
        for site in sites:
            site.train(give(weights))
            exchange = site.get_weights()
            assert exchange.statistics["num_executed_iterations"] == 8
            parts.append({name: value.clone() for name, value in exchange.weights.items()})
        assert any(not torch.equal(parts[0][name], parts[1][name]) for name in weights)  # the sites have other data
        weights = mean(parts)
        scores = [site.evaluate(give(weights)).metrics["nrmse"] for site in sites]
        assert scores[0] == pytest.approx(scores[1])  # on the same held-out subject
        errors.append(scores[0])
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.97 * errors[0]
    network = sites[0].train_workflow
    assert isinstance(network, ConfigWorkflow) and network.check_properties() == []
