"""The zero reference moves q by one value, keeps the sum and the signs, and finds the fluid."""

import pytest
import torch

from custom_transforms.transforms import ReferenceSources, ReferenceSourcesd
from custom_transforms.transforms.reference import csf_mask


@pytest.fixture
def head() -> dict[str, torch.Tensor]:
    """A ball of tissue with a ventricle in which both sources are small, noise on top."""
    noise = torch.Generator().manual_seed(3)
    axis = torch.arange(40) - 19.5
    radius = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)[None]
    mask, ventricle = (radius < 18).float(), radius < 6
    para = torch.where(ventricle, 0.02, 0.06) + 0.004 * torch.randn(mask.shape, generator=noise)
    dia = torch.where(ventricle, 0.01, 0.05) + 0.004 * torch.randn(mask.shape, generator=noise)
    return {"chi": torch.cat([para, dia]).clamp(min=0) * mask, "mask": mask, "ventricle": ventricle}


def test_csf_is_where_the_sum_is_low(head: dict[str, torch.Tensor]) -> None:
    found = csf_mask(head["chi"].sum(0, keepdim=True), head["mask"])
    assert found.sum() > 150  # 2 % of a ball of radius 15
    assert not (found & ~head["ventricle"]).any()
    high = csf_mask(-head["chi"].sum(0, keepdim=True), head["mask"])
    assert not (high & head["ventricle"]).any()


@pytest.mark.parametrize(("reference", "region"), [("brain", "mask"), ("csf", "ventricle")])
def test_the_region_becomes_zero_and_the_sum_stays(head: dict[str, torch.Tensor], reference: str, region: str) -> None:
    chi = ReferenceSources(reference=reference)(head["chi"], head["mask"])
    inside = head[region] > 0
    before = (head["chi"][0:1] - head["chi"][1:2])[inside].mean()
    after = (chi[0:1] - chi[1:2])[inside].mean()
    assert before.abs() > 0.008
    assert after.abs() < 0.001
    assert torch.allclose(chi.sum(0), head["chi"].sum(0), atol=1e-6)


def test_other_reference_other_zero(head: dict[str, torch.Tensor]) -> None:
    head["chi"][0:1] += 0.05 * (head["mask"] * ~head["ventricle"])
    csf, brain = (ReferenceSources(reference=r)(head["chi"], head["mask"]) for r in ("csf", "brain"))
    assert (csf[0] - brain[0]).abs().max() > 0.01


def test_sources_stay_magnitudes_inside_the_mask() -> None:
    mask = torch.zeros(1, 4, 4, 4)
    mask[:, 1:] = 1
    chi = torch.cat([torch.full((1, 4, 4, 4), 0.1), torch.zeros(1, 4, 4, 4)])
    chi[:, 3] = chi[:, 3].flip(0) / 100
    shifted = ReferenceSourcesd(reference="brain")({"pred": chi, "mask": mask})["pred"]
    assert shifted.min() == 0
    assert shifted[:, 0].abs().max() == 0
    assert shifted[0, 3].max() == 0  # diamagnetic there: the shift would have made chi_para negative


def test_none_and_errors() -> None:
    chi = torch.rand(2, 2, 2, 2)
    assert torch.equal(torch.as_tensor(ReferenceSources()(chi, torch.zeros(1, 2, 2, 2))), chi)
    with pytest.raises(ValueError, match="none, csf or brain, got 'gm'"):
        ReferenceSources(reference="gm")
    with pytest.raises(ValueError, match="the mask of the zero reference is empty"):
        ReferenceSources(reference="brain")(chi, torch.zeros(1, 2, 2, 2))
