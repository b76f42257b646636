"""GradientUnrolledChiSepNet: gradient steps of Phi, one prior, and checkpointing that changes nothing."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from custom_transforms.networks import Frozen, GradientUnrolledChiSepNet
from custom_transforms.physics import SourceModel
from custom_transforms.physics.dipole import DipoleConvolution

Make = Callable[..., GradientUnrolledChiSepNet]
Measure = Callable[..., Tensor]
GEOMETRY = (torch.tensor([[0.9, 1.2, 2.0]]), torch.tensor([[0.6, 0.0, 0.8]]), torch.tensor([[1.2, 0.8]]))


class KnownTotal(nn.Module):
    """Stands for a perfect QSMnet: the field of a known map is inverted exactly."""

    def __init__(self, chi_total: Tensor) -> None:
        super().__init__()
        self.register_buffer("chi_total", chi_total)

    def forward(
        self, image: Tensor, voxel_size_mm: Tensor, b0_direction: Tensor, relaxivity_weights: Tensor | None = None
    ) -> Tensor:
        return self.chi_total


def step_by_hand(chi: Tensor, image: Tensor, alpha: float) -> Tensor:
    """x + alpha Phi'(y - Phi x) without SourceModel: one row at a time, for a single Dr and no susceptibility row."""
    dipole = DipoleConvolution(padding=0.25)
    para, dia = chi.split(1, dim=1)
    field, r2prime, mask = image.split(1, dim=1)
    q_residual = dipole(mask * (field - dipole(para - dia)))
    s_residual = mask * (r2prime - para - dia)
    return chi + alpha * torch.cat([s_residual + q_residual, s_residual - q_residual], dim=1)


def test_each_step_is_a_gradient_step(gradient: Make, measure: Measure) -> None:
    image = measure(1, (8, 7, 6))
    network = gradient(susceptibility=None, backbone=nn.Identity(), initial_step=0.3, size_divisor=1).eval()
    chi = torch.zeros(1, 2, 8, 7, 6)
    for estimate in network.iterate(image):
        chi = image[:, 2:3] * step_by_hand(chi, image, 0.3)
        torch.testing.assert_close(estimate, chi, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(estimate, image[:, 2:3] * step_by_hand(chi, image, -0.3), atol=1e-4)


@pytest.mark.parametrize(("alpha", "converges"), [(0.4, True), (0.66, True), (0.75, False)])
def test_stability_of_the_plain_step(alpha: float, converges: bool) -> None:
    """Without a prior the steps lead to the truth for alpha < 2 / L = 0.692, and away from it beyond."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(1, 2, 8, 8, 8, generator=generator) / 10
    measured = SourceModel(padding=0)(truth, *GEOMETRY[:2])
    image = torch.cat([measured, torch.ones(1, 1, 8, 8, 8)], dim=1)
    network = GradientUnrolledChiSepNet(
        backbone=nn.Identity(),
        susceptibility=KnownTotal(truth[:, 0:1] - truth[:, 1:2]),
        iterations=60,
        initial_step=alpha,
        size_divisor=1,
        padding=0,
    ).eval()
    with torch.no_grad():
        error = [float((chi - truth).norm() / truth.norm()) for chi in network.iterate(image, *GEOMETRY[:2])]
    assert (error[-1] < 1e-3) if converges else (error[-1] > 10)


def test_one_prior_with_running_statistics_of_its_own_in_every_step(gradient: Make, measure: Measure) -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.Conv3d(4, 2, 1))
    network = gradient(backbone=backbone, iterations=3).train()
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in backbone.parameters()) + 2
    network(measure(2, (8, 8, 8))).sum().backward()
    norms = [prior.backbone.network[1] for prior in network.priors]
    assert norms[0].weight is norms[2].weight
    assert not torch.allclose(norms[0].running_var, norms[2].running_var)
    other = gradient(backbone=backbone, iterations=3)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other.priors[2].backbone.network[1].running_var, norms[2].running_var)


def test_every_geometry(gradient: Make, measure: Measure, geometry: object) -> None:
    image = measure(geometry.batch, geometry.shape)
    chi = gradient().eval()(image, geometry.voxel_size_mm, geometry.b0_direction)
    assert chi.shape == (geometry.batch, 2, *geometry.shape)
    assert bool((chi >= 0).all() and chi.isfinite().all())
    assert not chi[(image[:, 2:3] == 0).expand_as(chi)].any()


def test_checkpointing_changes_no_gradient(gradient: Make, measure: Measure) -> None:
    image = measure(1, (6, 6, 6))
    results = []
    for checkpointing in (True, False):
        network = gradient(checkpointing=checkpointing).train()
        network(image, *GEOMETRY).square().sum().backward()
        results.append([network.step.grad, *(p.grad for p in network.priors.parameters())])
    torch.testing.assert_close(*results)
    assert results[0][0].abs() > 0


def test_the_susceptibility_is_used_and_stays_frozen(gradient: Make, measure: Measure) -> None:
    image = measure(1, (6, 6, 6))
    network = gradient().train()
    network(image).sum().backward()
    assert isinstance(network.susceptibility, Frozen) and network.susceptibility.network.gain.grad is None
    with torch.no_grad():
        assert not torch.allclose(network.eval()(image), gradient(susceptibility=None).eval()(image), atol=1e-4)


def test_no_iterations() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        GradientUnrolledChiSepNet(backbone=nn.Identity(), susceptibility=None, iterations=0)
