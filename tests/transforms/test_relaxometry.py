"""R2' from R2* and R2, and its scale."""

import pytest
import torch
from monai.data import MetaTensor

from custom_transforms.transforms import R2Prime, R2Primed, ScaleR2Prime, ScaleR2Primed


def test_r2prime_is_the_clamped_difference() -> None:
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])).double()
    r2star = MetaTensor(torch.tensor([30.0, 10.0]).reshape(1, 2, 1, 1), affine=affine)
    r2 = torch.tensor([18.0, 12.0]).reshape(1, 2, 1, 1)
    r2prime = R2Primed()({"r2star": r2star, "r2": r2})["r2prime"]
    assert torch.equal(r2prime.as_tensor().flatten(), torch.tensor([12.0, 0.0]))
    assert torch.equal(r2prime.affine, affine)
    assert not torch.equal(torch.as_tensor(R2Prime()(r2, r2star)), r2prime.as_tensor())


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"R2\* has shape \(1, 2, 1, 1\) and R2 \(1, 1, 1, 1\)"):
        R2Prime()(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, 1))


def test_a_measured_r2prime_stays_where_r2_is_missing() -> None:
    data = {"r2prime": torch.ones(1, 1, 1, 1), "r2star": torch.ones(1, 1, 1, 1)}
    assert R2Primed(allow_missing_keys=True)(data) == data
    with pytest.raises(KeyError, match="r2"):
        R2Primed()(data)


@pytest.mark.parametrize(("unit", "value"), [("per_s", 13.7), ("per_ms", 0.0137)])
def test_scale(unit: str, value: float) -> None:
    transform = ScaleR2Primed(relaxivity_per_s_ppm=137.0, unit=unit)
    data = {"r2prime": torch.full((1, 2, 2, 2), value)}
    scaled = transform(data)
    assert torch.allclose(scaled["r2prime"], torch.tensor(0.1))
    assert torch.allclose(transform.inverse(scaled)["r2prime"], data["r2prime"])
    other = "per_ms" if unit == "per_s" else "per_s"
    assert not torch.allclose(ScaleR2Prime(relaxivity_per_s_ppm=137.0, unit=other)(data["r2prime"]), torch.tensor(0.1))


def test_errors() -> None:
    with pytest.raises(ValueError, match="per_s or per_ms, got '1/s'"):
        ScaleR2Prime(relaxivity_per_s_ppm=137.0, unit="1/s")
    with pytest.raises(ValueError, match="the relaxivity must be positive, got 0"):
        ScaleR2Prime(relaxivity_per_s_ppm=0)
