"""Total, sign convention and parts of the pair of source maps."""

import pytest
import torch
from monai.data import MetaTensor

from custom_transforms.transforms import SignedDiamagneticd, SplitSourcesd, TotalSusceptibilityd


def test_total_is_the_difference() -> None:
    para, dia = torch.rand(1, 2, 3, 4), torch.rand(1, 2, 3, 4)
    total = TotalSusceptibilityd()({"chi_para": para, "chi_dia": dia})["chi_total"]
    assert torch.equal(torch.as_tensor(total), para - dia)


def test_split_keeps_order_and_affine() -> None:
    affine = torch.diag(torch.tensor([2.0, 1.0, 1.0, 1.0])).double()
    pred = MetaTensor(torch.rand(2, 3, 4, 5), affine=affine)
    maps = SplitSourcesd("pred")({"pred": pred})
    assert torch.equal(maps["chi_para"], pred[0:1])
    assert torch.equal(maps["chi_dia"], pred[1:2])
    assert torch.allclose(maps["chi_total"], pred[0:1] - pred[1:2])
    assert all(torch.equal(maps[key].affine, affine) for key in ("chi_para", "chi_dia", "chi_total"))
    with pytest.raises(ValueError, match=r"must have shape \(2, X, Y, Z\), .* got \(1, 2, 3, 4, 5\)"):
        SplitSourcesd("pred")({"pred": pred[None]})


def test_split_of_standard_deviations() -> None:
    affine = torch.diag(torch.tensor([2.0, 1.0, 1.0, 1.0])).double()
    pred = MetaTensor(torch.rand(4, 3, 4, 5), affine=affine)
    maps = SplitSourcesd("pred")({"pred": pred})
    for i, key in enumerate(("chi_para", "chi_dia", "chi_para_sd", "chi_dia_sd")):
        assert torch.equal(maps[key], pred[i : i + 1]) and torch.equal(maps[key].affine, affine)
    assert torch.allclose(maps["chi_total"], pred[0:1] - pred[1:2])
    assert not {"chi_para_sd", "chi_dia_sd"} & SplitSourcesd("pred")({"pred": pred[:2]}).keys()
    with pytest.raises(ValueError, match=r"must have shape \(2, X, Y, Z\), or 4 channels .*, got \(3, 3, 4, 5\)"):
        SplitSourcesd("pred")({"pred": pred[:3]})


def test_signed_diamagnetic_and_back() -> None:
    signed = -torch.rand(1, 2, 3, 4)
    transform = SignedDiamagneticd()
    magnitude = transform({"chi_dia": signed})
    assert torch.equal(torch.as_tensor(magnitude["chi_dia"]), signed.abs())
    assert torch.equal(torch.as_tensor(transform.inverse(magnitude)["chi_dia"]), signed)
    with pytest.raises(ValueError, match="chi_dia must be <= 0, but its mean is positive"):
        transform(magnitude)
