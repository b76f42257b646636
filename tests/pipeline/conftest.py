from pathlib import Path

import pytest

from custom_transforms.simulate_raw import simulate_raw


@pytest.fixture(scope="session")
def raw_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulate a raw BIDS dataset of a head with coarse voxels, oblique, with spin echoes."""
    folder = tmp_path_factory.mktemp("raw") / "dataset"
    simulate_raw(output=str(folder), seed=3, voxel_size=(3.0, 3.0, 3.0), tilt_deg=15.0, snr=100.0)
    return folder
