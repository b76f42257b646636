"""What the bundle's tests share: its folder, a patch that makes any run tiny, a small labelled data set."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from custom_transforms import keys
from custom_transforms.data import BIDS_SUFFIXES
from custom_transforms.phantom import RandomShapes, SimulatedBatches
from custom_transforms.phantom.steps import ideal_simulation
from custom_transforms.physics import RELAXIVITY_3T_PER_S_PPM

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"
TINY = {
    "volume_shape": [16, 16, 16],
    "channels": [4, 4, 8],
    "iterations": 2,
    "max_epochs": 4,
    "epoch_length": 2,
    "val_interval": 1,
    "val_length": 1,
    "device": "cpu",
}
ANGLE_RAD = 0.3
TILTED = np.array(  # 0.9 x 0.9 x 1.2 mm, rotated about the first axis
    [
        [0.9, 0.0, 0.0, -8.0],
        [0.0, 0.9 * np.cos(ANGLE_RAD), -1.2 * np.sin(ANGLE_RAD), 5.0],
        [0.0, 0.9 * np.sin(ANGLE_RAD), 1.2 * np.cos(ANGLE_RAD), 3.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


@pytest.fixture(scope="session")
def bundle() -> Path:
    return BUNDLE


@pytest.fixture
def run() -> Callable[..., ConfigWorkflow]:
    """Run a workflow of stacked configs in this process, from any working directory."""

    def run_workflow(run_id: str, configs: Sequence[str], **overrides: Any) -> ConfigWorkflow:
        files = [str(BUNDLE / "configs" / name) for name in configs]
        overrides = {"bundle_root": str(BUNDLE), **overrides}
        workflow = ConfigWorkflow(config_file=files, run_id=run_id, logging_file=False, workflow_type=None, **overrides)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        return workflow

    return run_workflow


@pytest.fixture
def train(run: Callable[..., ConfigWorkflow]) -> Callable[..., ConfigWorkflow]:
    """Run train.json tinily."""

    def run_training(run_id: str = "training", **overrides: Any) -> ConfigWorkflow:
        return run(run_id, ["train.json"], **{**TINY, **overrides})

    return run_training


@pytest.fixture(scope="session")
def dataset_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three labelled subjects, each on another grid."""
    root = tmp_path_factory.mktemp("dataset")
    for number, shape in enumerate([(18, 16, 20), (16, 16, 16), (17, 20, 16)], start=1):
        phantom = RandomShapes(shape=shape, tilt_deg=0.0)
        batches = SimulatedBatches(
            phantom=phantom, batch_size=1, length=1, seed=number, simulation=ideal_simulation(relaxivity_split=0.0)
        )
        batch = next(iter(batches))
        maps = {
            keys.LOCAL_FIELD: batch[keys.IMAGE][0, 0],
            keys.R2PRIME: batch[keys.IMAGE][0, 1] * RELAXIVITY_3T_PER_S_PPM,
            keys.MASK: batch[keys.MASK][0, 0],
            keys.CHI_PARA: batch[keys.LABEL][0, 0],
            keys.CHI_DIA: batch[keys.LABEL][0, 1],
        }
        folder = root / f"sub-{number:02d}" / "anat"
        folder.mkdir(parents=True)
        for key, values in maps.items():
            image = nibabel.Nifti1Image(values.numpy().astype(np.float32), TILTED)
            nibabel.save(image, folder / f"sub-{number:02d}_{BIDS_SUFFIXES[key]}.nii.gz")
    return root
