"""QsmnetLoss and ChiSepLoss, term by term, against their equations on a noise-free measurement."""

import pytest
import torch
from torch import Tensor, nn

from custom_transforms.losses import ChiSepLoss, QsmnetLoss, gradient_loss
from custom_transforms.networks.z_score import ZScore
from custom_transforms.physics import SourceModel

SHAPE = (12, 10, 8)
Target = dict[str, Tensor]


class KnownTotal(nn.Module):
    """Stands for QSMnet: it gives a fixed map."""

    def __init__(self, chi_total: Tensor) -> None:
        super().__init__()
        self.chi_total = nn.Parameter(chi_total)

    def forward(self, image: Tensor, voxel_size_mm: Tensor, b0_direction: Tensor) -> Tensor:
        return 1 * self.chi_total


@pytest.fixture
def target() -> Target:
    label = 0.1 * torch.rand(2, 2, *SHAPE, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 1, *SHAPE)
    mask[:, :, :3] = 0
    label = label * mask
    geometry = {
        "voxel_size_mm": torch.tensor([[1.0, 1.0, 1.0], [0.8, 0.9, 1.5]]),
        "b0_direction": torch.tensor([[0.0, 0.0, 1.0], [0.6, 0.0, 0.8]]),
        "relaxivity_weights": torch.tensor([[1.0, 1.0], [1.2, 0.8]]),
    }
    measured = SourceModel(padding=0.5)(label, *geometry.values())
    return {"label": label, "image": torch.cat([measured * mask, mask], dim=1), **geometry}


def scale(*constants: tuple[float, float]) -> ZScore:
    names = [str(i) for i in range(len(constants))]
    z_score = ZScore(names)
    z_score.set_constants(dict(zip(names, constants, strict=True)))
    return z_score


ONE, TWO = scale((-0.001, 0.03)), scale((0.0259, 0.04), (0.0267, 0.05))


def total(label: Tensor) -> Tensor:
    return label[:, 0:1] - label[:, 1:2]


def test_zero_at_the_truth(target: Target) -> None:
    label = target["label"]
    loss = ChiSepLoss(scale=TWO, susceptibility=KnownTotal(total(label)))
    assert loss.terms(label, target).keys() == {"l1", "gradient", "field", "qsm", "r2prime"}
    assert float(loss(label, target)) < 1e-6
    assert float(QsmnetLoss(scale=ONE)(total(label), target)) < 1e-6
    assert float(QsmnetLoss(scale=ONE)(-total(label), target)) > 1


def test_terms_of_chi_sepnet(target: Target) -> None:
    label, mask = target["label"], target["image"][:, 2:3]
    chi_total = total(label) + 0.003
    pred = label + mask * torch.tensor([0.02, -0.01])[:, None, None, None]  # q is 0.03 too high
    terms = ChiSepLoss(scale=TWO, susceptibility=KnownTotal(chi_total)).terms(pred, target)
    share = float(mask.mean())
    assert float(terms["l1"]) == pytest.approx(share * (0.02 / 0.04 + 0.01 / 0.05) / 2, rel=1e-4)
    assert float(terms["qsm"]) == pytest.approx(share * (0.03 - 0.003), rel=1e-4)
    # 0.02 - 0.01 for the single relaxivity, 1.2 x 0.02 - 0.8 x 0.01 for the other
    assert float(terms["r2prime"]) == pytest.approx(share * (0.01 + 0.016) / 2, rel=1e-4)
    field_error = SourceModel(padding=0.5)(pred - label, target["voxel_size_mm"], target["b0_direction"])[:, 0:1]
    assert float(terms["field"]) == pytest.approx(float((mask * field_error).abs().mean()), rel=1e-4)
    scaled = [mask * (chi - torch.tensor([0.0259, 0.0267])[:, None, None, None]) for chi in (pred, label)]
    z = [chi / torch.tensor([0.04, 0.05])[:, None, None, None] for chi in scaled]
    assert float(terms["gradient"]) == pytest.approx(float(gradient_loss(*z, target["voxel_size_mm"])), rel=1e-5)


def test_published_weights(target: Target) -> None:
    pred = target["label"].flip(1)
    loss = ChiSepLoss(scale=TWO, susceptibility=KnownTotal(total(target["label"])))
    terms = loss.terms(pred, target)
    expected = terms["l1"] + 0.1 * terms["gradient"] + terms["field"] + terms["qsm"] + terms["r2prime"]
    assert float(loss(pred, target)) == pytest.approx(float(expected), rel=1e-6)
    loss = QsmnetLoss(scale=ONE)
    terms = loss.terms(pred[:, 0:1], target)
    expected = terms["l1"] + 0.1 * terms["gradient"] + terms["field"]
    assert float(loss(pred[:, 0:1], target)) == pytest.approx(float(expected), rel=1e-6)


def test_swapped_sources_hide_from_a_single_relaxivity(target: Target) -> None:
    one = {name: value[:1] for name, value in target.items()}
    loss = ChiSepLoss(scale=TWO, susceptibility=KnownTotal(total(one["label"])))
    terms = loss.terms(one["label"].flip(1), one)
    assert float(terms["r2prime"]) < 1e-7
    assert float(terms["qsm"]) > 0.02 and float(terms["field"]) > 0.005 and float(terms["l1"]) > 0.5


def test_qsmnet_takes_sources_or_their_total_as_label(target: Target) -> None:
    pred = 0.05 * torch.rand(2, 1, *SHAPE, generator=torch.Generator().manual_seed(1))
    cosmos = {**target, "label": total(target["label"])}
    assert torch.equal(QsmnetLoss(scale=ONE)(pred, target), QsmnetLoss(scale=ONE)(pred, cosmos))
    sources = torch.cat([pred + 0.02, torch.full_like(pred, 0.02)], dim=1)
    torch.testing.assert_close(QsmnetLoss(scale=ONE)(sources, target), QsmnetLoss(scale=ONE)(pred, target))


def test_no_gradient_flows_into_the_susceptibility_model(target: Target) -> None:
    model = KnownTotal(total(target["label"]))
    pred = (target["label"] + 0.01).requires_grad_()
    ChiSepLoss(scale=TWO, susceptibility=model)(pred, target).backward()
    assert pred.grad is not None and bool(pred.grad.isfinite().all())
    assert model.chi_total.grad is None
    assert "qsm" not in ChiSepLoss(scale=TWO).terms(pred, target)
