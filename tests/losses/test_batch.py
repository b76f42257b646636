"""A config of a few lines trains with the published losses through MONAI's SupervisedTrainer."""

from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from torch import Tensor, nn

from custom_transforms.networks.z_score import ZScore
from custom_transforms.phantom import RandomShapes, SimulatedBatches
from custom_transforms.phantom.steps import ideal_simulation

PREPARE = {"_target_": "custom_transforms.losses.PrepareMeasuredBatch"}
LOSSES: dict[str, dict[str, Any]] = {
    "qsmnet": {"_target_": "custom_transforms.losses.QsmnetLoss", "scale": "@scale"},
    "chi_sepnet": {
        "_target_": "custom_transforms.losses.ChiSepLoss",
        "scale": "@scale",
        "susceptibility": "$@network.susceptibility",
        "rim_voxels": 1,
    },
}

SCALES = {"qsmnet": ZScore(["chi_total"]), "chi_sepnet": ZScore(["chi_para", "chi_dia"])}
for _scale in SCALES.values():
    _scale.set_constants(dict.fromkeys(_scale.maps, (0.02, 0.03)))


class Total(nn.Module):
    """A direct network to chi_total, called as all methods are."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv3d(1, 1, 3, padding=1)

    def forward(self, image: Tensor, voxel_size_mm: Tensor, b0_direction: Tensor, weights: Any = None) -> Tensor:
        return image[:, 2:3] * self.layer(image[:, 0:1])


def config(name: str) -> dict[str, Any]:
    chi_sepnet = {
        "_target_": "custom_transforms.networks.ChiSepNet",
        "backbone": {"_target_": "torch.nn.Conv3d", "in_channels": 3, "out_channels": 2, "kernel_size": 1},
        "susceptibility": {"_target_": "custom_transforms.networks.Frozen", "network": "$@total()"},
    }
    return {
        "total": Total,
        "scale": SCALES[name],
        "network": "$@total()" if name == "qsmnet" else chi_sepnet,
        "loss": LOSSES[name],
        "prepare_batch": PREPARE,
        "trainer": {
            "_target_": "SupervisedTrainer",
            "device": "cpu",
            "max_epochs": 1,
            "train_data_loader": "@batches",
            "network": "@network",
            "optimizer": "$torch.optim.Adam([p for p in @network.parameters() if p.requires_grad], lr=0.03)",
            "loss_function": "@loss",
            "inferer": {"_target_": "custom_transforms.inferers.GeometryInferer"},
            "prepare_batch": "@prepare_batch",
            "decollate": False,
        },
    }


def batches() -> list[dict[str, Tensor]]:
    """Twelve times the same batch."""
    phantom = RandomShapes(shape=(16, 16, 16), voxel_size_mm=(1.0, 1.0), slice_ratio=1.0, tilt_deg=0.0)
    return 12 * list(
        SimulatedBatches(
            phantom=phantom, batch_size=2, length=1, seed=0, simulation=ideal_simulation(relaxivity_split=0.0)
        )
    )


def train(settings: dict[str, Any]) -> list[float]:
    torch.manual_seed(0)
    parser = ConfigParser({**settings, "imports": ["$import torch"]})
    parser["batches"] = batches()
    trainer = parser.get_parsed_content("trainer")
    losses: list[float] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.output["loss"].item())
    )
    trainer.run()
    return losses


@pytest.mark.parametrize("name", LOSSES)
def test_training_lowers_the_loss(name: str) -> None:
    losses = train(config(name))
    assert losses[-1] < 0.8 * losses[0]


def test_a_label_alone_does_not_do() -> None:
    settings = config("qsmnet")
    settings["prepare_batch"] = {
        "_target_": "monai.engines.PrepareBatchExtraInput",
        "extra_keys": {"voxel_size_mm": "voxel_size_mm", "b0_direction": "b0_direction"},
    }
    with pytest.raises(ValueError, match="PrepareMeasuredBatch"):
        train(settings)
