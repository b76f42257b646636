"""Variants are found by name, and load with their own weights, their inferer and the map that they read."""

import shutil
from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor

from custom_transforms import variants
from custom_transforms.bundle_path import bundle_path
from custom_transforms.inferers import AxialInferer, GeometryInferer
from custom_transforms.variants import (
    DEFAULT,
    inference_config,
    inverts_dipole,
    is_learned,
    load_variant,
    takes_magnitude,
    variant_names,
    variant_path,
)

INVERSIONS = {"tikhonov", "tkd", "tv", "medi"}
CONVENTIONAL = {*INVERSIONS, "closed_form", "chi_separation", "chi_separation_r2star"}
R2STAR = {"chi_sepnet_r2star", "chi_sepnet_r2star_end_to_end", "unrolled_r2star", "chi_separation_r2star"}
ANY_GEOMETRY = {"unrolled", "unrolled_r2star", *CONVENTIONAL}


def test_names() -> None:
    published = {"qsmnet", "qsmnet_plus", "chi_sepnet_r2prime", "unrolled_thesis"}
    assert set(variant_names()) == published | R2STAR | ANY_GEOMETRY
    assert {name for name in variant_names() if not is_learned(name)} == CONVENTIONAL
    assert {name for name in variant_names() if inverts_dipole(name)} == INVERSIONS | {"qsmnet", "qsmnet_plus"}
    assert {name for name in CONVENTIONAL if takes_magnitude(name)} == {
        "tv",
        "medi",
        "chi_separation",
        "chi_separation_r2star",
    }
    assert DEFAULT in variant_names()
    assert all(variant_path(name).is_file() for name in variant_names())


@pytest.mark.parametrize("name", ["qsmnett", "", "../train", "qsmnet.json"])
def test_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"there is no variant .*; valid: .*qsmnet, qsmnet_plus, .*unrolled"):
        variant_path(name)
    with pytest.raises(ValueError, match="there is no variant"):
        inference_config(name)


@pytest.mark.parametrize("name", variant_names())
def test_config(name: str) -> None:
    config = inference_config(name)
    assert config["variant"] == name
    assert config["rate"] == ("r2star" if name in R2STAR else "r2prime")
    inferer = config.get_parsed_content("inferer")
    assert type(inferer) is (GeometryInferer if name in ANY_GEOMETRY else AxialInferer)
    weights = config.get_parsed_content("weights")
    assert weights is False if name in CONVENTIONAL else Path(weights).parent == bundle_path() / "models"


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle with the configs of this one, and no weights."""
    shutil.copytree(bundle_path() / "configs", tmp_path / "configs")
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(variants, "bundle_path", lambda: tmp_path)
    return tmp_path


def test_load(copy: Path) -> None:
    torch.manual_seed(0)
    network = inference_config("qsmnet").get_parsed_content("network_def")
    torch.save(network.state_dict(), copy / "models/qsmnet.pt")
    loaded = load_variant("qsmnet")
    assert not loaded.network.training and loaded.rate == "r2prime"
    image = MetaTensor(torch.rand(1, 3, 16, 18, 20), affine=torch.diag(torch.tensor([-0.9, 1.0, 1.1, 1.0])))
    image[:, 2] = 1.0
    chi = loaded.inferer(image, loaded.network)
    assert chi.shape == (1, 2, 16, 18, 20) and bool((chi >= 0).all())
    torch.testing.assert_close(chi, loaded.inferer(image, network.eval()))
    other = inference_config("qsmnet").get_parsed_content("network_def").eval()
    assert not torch.equal(chi, loaded.inferer(image, other))


@pytest.mark.parametrize("name", ["unrolled", "chi_sepnet_r2prime"])
def test_missing_weights_are_an_error(name: str, copy: Path) -> None:
    """Its own, and those of a network inside it."""
    with pytest.raises(FileNotFoundError, match=f"variant {name} has no weights at"):
        load_variant(name)
