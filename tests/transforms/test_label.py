"""One 4-D file with the settings of a request gives what the maps of inference.json give."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from custom_transforms.physics import hz_per_ppm, relaxivity_at
from custom_transforms.transforms import RequestedSourced, RequestedUnitsd, SplitMapsd

CONFIGS = Path(__file__).resolve().parents[2] / "bundle" / "configs"
COS, SIN = np.cos(0.3), np.sin(0.3)
AFFINE = np.array([[0.8, 0, 0, -5], [0, 0.9 * COS, -1.5 * SIN, 2], [0, 0.9 * SIN, 1.5 * COS, 7], [0, 0, 0, 1]])


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    field, rate = torch.rand((2, 1, 8, 7, 6), generator=generator)
    mask = torch.zeros(1, 8, 7, 6)
    mask[:, 1:-1, 1:-1, 1:-1] = 1
    return {"local_field": field - 0.5, "r2prime": 20 * rate, "mask": mask}


def label_config(*variants, **settings):
    files = [str(CONFIGS / name) for name in ("inference.json", *variants, "label.json")]
    config = ConfigParser(ConfigParser.load_config_files(files))
    config.update({"bundle_root": "", "datalist": [], "weights": False, **settings})
    return config


def save(path, array):
    nib.save(nib.Nifti1Image(array.astype(np.float32), AFFINE), path)
    return str(path)


@pytest.mark.parametrize(
    ("request_settings", "config_settings"),
    [
        ({}, {}),
        ({"field_unit": "hz", "b0_tesla": "7"}, {"field_unit": "hz", "b0_tesla": 7.0}),
        ({"field_unit": ["rad", "ppm"], "echo_time_s": 0.02}, {"field_unit": "rad", "echo_time_s": 0.02}),
        ({"field_sign": "-1", "rate_unit": "per_ms"}, {"field_sign": -1, "rate_unit": "per_ms"}),
        (
            {"relaxivity_per_s_ppm": 100, "echo_time_s": ""},
            {"relaxivity_para_per_s_ppm": 100.0, "relaxivity_dia_per_s_ppm": 100.0},
        ),
    ],
)
def test_one_file_is_prepared_as_three(tmp_path, maps, request_settings, config_settings):
    files = {name: save(tmp_path / f"{name}.nii.gz", image[0].numpy()) for name, image in maps.items()}
    case = save(tmp_path / "case.nii.gz", torch.cat(list(maps.values())).permute(1, 2, 3, 0).numpy())
    reference = ConfigParser(ConfigParser.load_config_files(str(CONFIGS / "inference.json")))
    reference.update({"bundle_root": "", "datalist": [], **config_settings})
    expected = reference.get_parsed_content("preprocessing")(files)["image"]
    image = label_config().get_parsed_content("preprocessing")({"image": case, **request_settings})["image"]
    torch.testing.assert_close(image.as_tensor(), expected.as_tensor(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(image.affine, expected.affine)
    default = label_config().get_parsed_content("preprocessing")({"image": case})["image"]
    assert torch.equal(image, default) is not bool(request_settings)


def test_variants_name_their_own_maps(tmp_path, maps):
    case = save(tmp_path / "case.nii.gz", torch.cat(list(maps.values())).permute(1, 2, 3, 0).numpy())
    data = label_config("variants/unrolled_r2star.json").get_parsed_content("preprocessing")({"image": case})
    inside = maps["mask"] > 0
    assert "r2prime" not in data
    assert torch.allclose(data["image"][1:2].as_tensor()[inside], maps["r2prime"][inside] / relaxivity_at(3.0))


def test_settings_of_the_config_are_the_defaults(maps):
    image = RequestedUnitsd(b0_tesla=7.0, relaxivity_per_s_ppm=300.0)(maps)
    assert torch.allclose(image["r2prime"], maps["r2prime"] / 300)
    image = RequestedUnitsd(b0_tesla=7.0, relaxivity_per_s_ppm=300.0)({**maps, "b0_tesla": 3.5})
    assert torch.allclose(image["r2prime"], maps["r2prime"] / 150)
    image = RequestedUnitsd()({**maps, "b0_tesla": 7, "field_unit": "hz"})
    assert torch.allclose(image["r2prime"], maps["r2prime"] / relaxivity_at(7.0))
    assert torch.allclose(image["local_field"], maps["local_field"] / hz_per_ppm(7.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"field_unit": "$1"}, "must be ppm, hz or rad"),
        ({"field_unit": "rad"}, "needs echo_time_s"),
        ({"rate_unit": "hz"}, "per_s or per_ms"),
        ({"b0_tesla": "$3"}, "b0_tesla must be a number"),
        ({"b0_tesla": -3}, "field strength|positive"),
        ({"field_sign": 2}, r"\+1 or -1"),
        ({"relaxivity_per_s_ppm": {}}, "must be a number"),
        ({"relaxivity_per_s_ppm": "nan"}, "positive"),
    ],
)
def test_wrong_settings_are_refused(maps, settings, message):
    with pytest.raises(ValueError, match=message):
        RequestedUnitsd()({**maps, **settings})


def test_dipole_inversion_needs_no_rate(maps):
    del maps["r2prime"]
    assert RequestedUnitsd(rate=None)({**maps, "field_sign": -1})["local_field"].equal(-maps["local_field"])


def test_split_gives_every_map_its_name(maps):
    volume = MetaTensor(torch.cat(list(maps.values())), affine=torch.from_numpy(AFFINE))
    parts = SplitMapsd()({"image": volume})
    for name, image in maps.items():
        assert parts[name].shape == (1, 8, 7, 6)
        assert torch.equal(parts[name].as_tensor(), image)
        assert torch.equal(parts[name].affine, volume.affine)


def test_wrong_order_or_number_of_maps_is_refused(maps):
    field, rate, mask = maps.values()
    with pytest.raises(ValueError, match="values than 0 and 1; store local_field, r2prime, mask, in this order"):
        SplitMapsd()({"image": torch.cat([field, mask, rate])})
    for volume in (torch.cat([field, rate]), torch.cat([field, rate, mask, mask]), field[0]):
        with pytest.raises(ValueError, match="one 4-D volume of 3 maps"):
            SplitMapsd()({"image": volume})


def test_source_of_the_request_comes_back(maps):
    pred = torch.cat([maps["r2prime"], 2 * maps["mask"]])
    data = {"pred": pred, "mask": maps["mask"]}
    para = RequestedSourced()(data)["pred"]
    dia = RequestedSourced()({**data, "source": "chi_dia"})["pred"]
    assert torch.equal(para, pred[:1])
    assert torch.equal(dia, pred[1:])
    assert torch.equal(RequestedSourced()({**data, "source": ["chi_total"]})["pred"], para - dia)
    centred = RequestedSourced()({**data, "source": "chi_total", "reference": "brain"})["pred"]
    assert centred.abs().mean() < (para - dia).abs().mean()
    for wrong in ({"source": "$pred"}, {"reference": "skull"}):
        with pytest.raises(ValueError, match="must be"):
            RequestedSourced()({**data, **wrong})


def test_text_of_a_request_is_not_evaluated(tmp_path):
    """MONAI Label writes a request's values to displayable_configs before it builds the transforms."""
    trap = tmp_path / "evaluated"
    text = f"$__import__('pathlib').Path({str(trap)!r}).touch()"
    config = label_config()
    names = json.loads((CONFIGS / "label.json").read_text())["displayable_configs"]
    config["displayable_configs"].update(dict.fromkeys(names, text))
    config.parse()
    for name in ("preprocessing", "inferer", "postprocessing"):
        config.get_parsed_content(name)
    assert not trap.exists()
    config.get_parsed_content("displayable_configs")  # the trap does snap where something refers to it
    assert trap.exists()
