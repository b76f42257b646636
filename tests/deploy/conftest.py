"""What the tests of packed bundles share: one pack, and a data set with one case for it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from custom_transforms import keys
from custom_transforms.data import BIDS_SUFFIXES, bids_path
from custom_transforms.deploy.pack import pack_bundle

PACKED = "chi_sepnet_r2prime"  # small, and with a frozen network inside
ADDRESS = "https://example.org/zoo/"


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack with everything that one can ask for; tests leave it as it is."""
    return pack_bundle(PACKED, tmp_path_factory.mktemp("packs"), archive=True, large_files=ADDRESS)


@pytest.fixture
def damaged(pack: Path, tmp_path: Path) -> Path:
    """A copy of the pack without its package, to be damaged."""
    return shutil.copytree(pack, tmp_path / pack.name, ignore=shutil.ignore_patterns("custom_transforms"))


@pytest.fixture(scope="session")
def dataset(
    head: dict[str, np.ndarray], store: Callable[..., dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A BIDS derivative with one case on an oblique, anisotropic grid, with R2' and with R2*."""
    root = tmp_path_factory.mktemp("dataset")
    for rate in (keys.R2PRIME, keys.R2STAR):
        for key, file in store(tmp_path_factory.mktemp("maps"), head, rate=rate).items():
            target = bids_path(root, "sub-01", BIDS_SUFFIXES[key])
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    return root
