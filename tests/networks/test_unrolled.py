"""UnrolledChiSepNet: any shape and geometry, its physics, its gradients, its other forms."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from custom_transforms.losses import SourceLoss
from custom_transforms.networks import UnrolledChiSepNet
from custom_transforms.networks.unrolled import voted_offset
from custom_transforms.physics import SourceModel, combine_sources

Make = Callable[..., UnrolledChiSepNet]
Measure = Callable[..., Tensor]
OBLIQUE = torch.nn.functional.normalize(torch.tensor([[0.2, -0.4, 0.9], [0.6, 0.3, 0.5]]), dim=1)
VOXEL_SIZES_MM = torch.tensor([[0.9, 1.2, 2.0], [2.0, 0.7, 1.0]])


class Nothing(nn.Module):
    """A prior that changes nothing, which leaves the physics."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.zeros_like(features[:, :2])


def test_every_geometry(unrolled: Make, measure: Measure, geometry: object) -> None:
    image = measure(geometry.batch, geometry.shape)
    network = unrolled().eval()
    chi = network(image, geometry.voxel_size_mm, geometry.b0_direction)
    assert chi.shape == (geometry.batch, 2, *geometry.shape)
    assert chi.dtype == torch.float32
    assert bool((chi >= 0).all() and chi.isfinite().all())
    assert not chi[(image[:, 2:3] == 0).expand_as(chi)].any()


def test_batch_of_two_geometries_equals_singles(unrolled: Make, measure: Measure, tolerance: Mapping) -> None:
    image, weights = measure(2, (8, 9, 7)), torch.tensor([[1.2, 0.8], [1.0, 1.0]])
    network = unrolled().eval()
    both = network(image, VOXEL_SIZES_MM, OBLIQUE, weights)
    for i in range(2):
        one = slice(i, i + 1)
        single = network(image[one], VOXEL_SIZES_MM[one], OBLIQUE[one], weights[one])
        torch.testing.assert_close(both[one], single, rtol=0, atol=10 * tolerance["float32"])
        other = network(image[one], VOXEL_SIZES_MM[1 - i : 2 - i], OBLIQUE[1 - i : 2 - i], weights[one])
        assert (both[one] - other).abs().max() > 1e-3


def test_physics_alone_fits_the_measurements() -> None:
    """With a prior that does nothing, the steps lead to sources whose field and R2' are the measured ones."""
    truth = torch.rand(1, 2, 12, 12, 12, generator=torch.Generator().manual_seed(0)) / 10
    weights = torch.tensor([[1.1, 0.9]])
    geometry = (VOXEL_SIZES_MM[:1], OBLIQUE[:1], weights)
    model = SourceModel(padding=0)
    image = torch.cat([model(truth, *geometry), torch.ones(1, 1, 12, 12, 12)], dim=1)
    network = UnrolledChiSepNet(backbone=Nothing(), iterations=8, padding=0, initial_regularisation=1e-3)

    def residuals(estimates: list[Tensor]) -> Tensor:
        return torch.stack([(model(chi, *geometry) - image[:, :2]).norm() / image[:, :2].norm() for chi in estimates])

    with torch.no_grad():
        right = residuals(network.iterate(image, *geometry))
        wrong = residuals(network.iterate(image, geometry[0], OBLIQUE[1:], weights))
    assert bool((right.diff() <= 1e-5).all())
    assert right[-1] < 0.01 and wrong[-1] > 0.1


def test_scale_is_kept(unrolled: Make, measure: Measure) -> None:
    """A normalisation layer would give a ratio of 1 for a threefold input; with zero biases the ratio is about 3."""
    network = unrolled().eval()
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    image = measure(1, (8, 8, 8))
    image[:, 2] = 1
    threefold = image * torch.tensor([3.0, 3.0, 1.0])[:, None, None, None]
    with torch.no_grad():
        once, thrice = (torch.stack(combine_sources(network(x))) for x in (image, threefold))
    assert float(thrice.norm() / once.norm()) == pytest.approx(3, rel=0.2)


def test_dynunet_keeps_the_scale(dynunet: UnrolledChiSepNet, measure: Measure) -> None:
    image = measure(1, (16, 16, 16))
    backbone = dynunet.priors[0]
    features = torch.cat([image, image[:, :2]], dim=1)
    with torch.no_grad():
        weak, strong = backbone(features), backbone(1000 * features)
    assert float(strong.norm() / weak.norm()) > 100
    assert not [m for m in dynunet.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]


def test_forms_of_the_result(unrolled: Make, measure: Measure) -> None:
    image = measure(2, (6, 7, 8))
    supervised = unrolled(deep_supervision=True, iterations=3)
    estimates = supervised.train()(image)
    assert estimates.shape == (2, 3, 2, 6, 7, 8)
    torch.testing.assert_close(torch.stack(supervised.iterate(image), 1), estimates)
    torch.testing.assert_close(supervised.eval()(image), estimates[:, -1].clamp(min=0))
    assert bool((estimates[:, -1] < 0).any())  # else the clamp is not tested
    assert unrolled().train()(image).shape == (2, 2, 6, 7, 8)


def test_gradient_reaches_every_parameter(dynunet: UnrolledChiSepNet, measure: Measure) -> None:
    image = measure(2, (12, 9, 10))
    SourceLoss()(dynunet.train()(image, VOXEL_SIZES_MM, OBLIQUE), torch.zeros(2, 2, 12, 9, 10)).backward()
    silent = [name for name, p in dynunet.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    # the priors start small but not silent; prior_gain, lambda and mu learn for every step
    assert silent == []


def test_shared_weights(unrolled: Make) -> None:
    count = {shared: sum(p.numel() for p in unrolled(shared=shared).parameters()) for shared in (True, False)}
    steps = 3 * 2  # lambda, mu and gain of each of two iterations
    assert count[False] - steps == 2 * (count[True] - steps)
    network = unrolled(shared=True)
    assert network.priors[0] is network.priors[1]
    separate = unrolled()
    assert separate.priors[0].network.skip.weight is not separate.priors[1].network.skip.weight


def test_scripting(dynunet: UnrolledChiSepNet, measure: Measure) -> None:
    network = dynunet.eval()
    scripted = torch.jit.script(network)
    for shape in ((12, 12, 12), (9, 11, 14)):
        image = measure(2, shape)
        torch.testing.assert_close(scripted(image), network(image))
        weights = torch.tensor([[1.2, 0.8], [1.0, 1.0]])
        expected = network(image, VOXEL_SIZES_MM, OBLIQUE, weights)
        torch.testing.assert_close(scripted(image, VOXEL_SIZES_MM, OBLIQUE, weights), expected)
    assert not torch.allclose(expected, network(image))


def test_mixed_precision_is_for_the_backbone_alone(unrolled: Make, measure: Measure) -> None:
    image = measure(1, (8, 8, 8))
    full, mixed = unrolled().eval(), unrolled(mixed_precision=True).eval()
    with torch.no_grad():
        precise, rough = full(image), mixed(image)
    assert rough.dtype == torch.float32
    assert 0 < float((rough - precise).norm() / precise.norm()) < 0.01  # bfloat16 in a small correction
    physics = UnrolledChiSepNet(backbone=Nothing(), mixed_precision=True).eval()
    expected = UnrolledChiSepNet(backbone=Nothing()).eval()(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(physics(image), expected)


def test_checkpointing_changes_no_gradient(unrolled: Make, measure: Measure) -> None:
    image = measure(1, (6, 6, 6))
    gradients = []
    for checkpointing in (True, False):
        network = unrolled(checkpointing=checkpointing).train()
        network(image).square().sum().backward()
        gradients.append(network.priors[0].network.skip.weight.grad)
    torch.testing.assert_close(*gradients)


def test_no_iterations() -> None:
    for options in ({"iterations": 0}, {"physics_steps": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            UnrolledChiSepNet(backbone=Nothing(), **options)


def test_more_physics_steps_fit_the_masked_field_better(measure: Measure) -> None:
    """The prior does nothing here; without a mask the second step would be another solution, not a closer one."""
    image = measure(1, (12, 10, 14))
    image[:, 1:2] = 10.0  # so large that chi >= 0 asks for no offset
    image[:, 1:2] *= image[:, 2:3]
    model = SourceModel(padding=0)

    def residual(steps: int) -> float:
        network = UnrolledChiSepNet(
            backbone=Nothing(), iterations=1, physics_steps=steps, padding=0, initial_regularisation=0.05
        )
        with torch.no_grad():
            field = model(network.iterate(image)[0])[:, :1]
        return float((image[:, 2:3] * (field - image[:, :1])).norm() / image[:, :1].norm())

    found = [residual(steps) for steps in (1, 2, 4)]
    assert found[0] > found[1] > found[2]


class Voter(nn.Module):
    """A prior that guesses an offset of chi_total in one voxel, and zero with little weight in the others."""

    def forward(self, features: Tensor) -> Tensor:
        guess, log_weight = torch.zeros_like(features[:, :1]), torch.full_like(features[:, :1], -8.0)
        guess[..., 3, 3, 3], log_weight[..., 3, 3, 3] = 2.0, 8.0
        return torch.cat([torch.zeros_like(features[:, :2]), guess, log_weight], dim=1)


@pytest.mark.parametrize("weights", [None, torch.tensor([[1.2, 0.8]])])
def test_a_guess_moves_chi_total_of_the_whole_mask(measure: Measure, weights: Tensor | None) -> None:
    image = measure(1, (8, 7, 6))
    image[..., 3, 3, 3] = 1.0
    mask = image[:, 2:3]
    voting, silent = (UnrolledChiSepNet(backbone=prior, iterations=1) for prior in (Voter(), Nothing()))
    with torch.no_grad():
        moved, still = (
            combine_sources(net.iterate(image, None, None, weights)[0], weights) for net in (voting, silent)
        )
    offset = moved[0] - still[0]
    expected = 0.1 * 0.05 * 2.0  # gain, scale in ppm and the guess
    torch.testing.assert_close(offset, expected * mask, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(moved[1], still[1], rtol=1e-4, atol=1e-6)


def test_without_confidence_all_guesses_count() -> None:
    guess = torch.arange(8.0).reshape(1, 1, 2, 2, 2)
    mask = torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0]).reshape(1, 1, 2, 2, 2)
    assert voted_offset(guess, torch.zeros_like(guess), mask).item() == pytest.approx(1.5)
    assert voted_offset(guess, torch.zeros_like(guess), 0 * mask).item() == 0.0


@pytest.mark.gpu
def test_cpu_and_gpu_agree(dynunet: UnrolledChiSepNet, measure: Measure) -> None:
    image = measure(2, (12, 9, 10))
    expected = dynunet.eval()(image, VOXEL_SIZES_MM, OBLIQUE)
    with torch.backends.cudnn.flags(allow_tf32=False):
        found = dynunet.cuda()(image.cuda(), VOXEL_SIZES_MM, OBLIQUE)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-5)
