"""Units of the local field and scaling by constants: against numbers by hand, and against their inverses."""

import math

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd

from custom_transforms.transforms import LocalFieldToPpm, LocalFieldToPpmd, Normalise, Normalised

UNITS = [
    ({"unit": "ppm"}, 1.0),
    ({"unit": "hz", "b0_tesla": 3.0}, 127.731),
    ({"unit": "rad", "b0_tesla": 3.0, "echo_time_s": 0.02}, 2 * math.pi * 0.02 * 127.731),
]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("options", "unit_per_ppm"), UNITS)
def test_one_ppm(options: dict, unit_per_ppm: float, sign: int) -> None:
    transform = LocalFieldToPpm(**options, sign=sign)
    measured = torch.full((1, 2, 2, 2), unit_per_ppm, dtype=torch.float64)
    assert torch.allclose(transform(measured), torch.tensor(float(sign)).double(), rtol=1e-12)
    assert torch.allclose(transform.inverse(transform(measured)), measured, rtol=1e-12)
    wrong = LocalFieldToPpm(**options, sign=-sign)
    assert not torch.allclose(wrong(measured), torch.tensor(float(sign)).double(), atol=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": "t"}, "must be ppm, hz or rad, got 't'"),
        ({"unit": "hz"}, "needs b0_tesla"),
        ({"unit": "rad", "b0_tesla": 3.0}, "needs echo_time_s"),
        ({"unit": "hz", "b0_tesla": 0.0}, "b0_tesla must be positive"),
        ({"sign": 0}, r"sign must be \+1 or -1"),
    ],
)
def test_what_a_unit_needs(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LocalFieldToPpm(**options)


def test_normalise_by_channel() -> None:
    transform = Normalise(mean=[0.1, -1.0], std=[2.0, 0.5])
    image = torch.stack([torch.full((2, 2, 2), 2.1), torch.full((2, 2, 2), -0.5)])
    assert torch.allclose(transform(image), torch.ones(2, 2, 2, 2))
    assert torch.allclose(transform.inverse(transform(image)), image)
    with pytest.raises(ValueError, match="std must be positive"):
        Normalise(mean=0.0, std=0.0)


def test_monai_inverts_a_chain_and_keeps_the_affine() -> None:
    field_hz = MetaTensor(torch.randn(1, 3, 4, 5), affine=torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0])).double())
    chain = Compose([LocalFieldToPpmd(unit="hz", b0_tesla=7.0), Normalised("local_field", mean=0.01, std=0.02)])
    data = chain({"local_field": field_hz})
    assert torch.equal(data["local_field"].affine, field_hz.affine)
    assert torch.allclose(chain.inverse(data)["local_field"], field_hz, atol=1e-4)
    data["pred"] = data["local_field"]
    back = Invertd("pred", transform=chain, orig_keys="local_field")(data)
    assert torch.allclose(back["pred"], field_hz, atol=1e-4)


def test_a_config_can_name_it() -> None:
    parser = ConfigParser(
        {"t": {"_target_": "custom_transforms.transforms.LocalFieldToPpmd", "keys": "f", "unit": "hz", "b0_tesla": 3}}
    )
    assert isinstance(parser.get_parsed_content("t"), LocalFieldToPpmd)
