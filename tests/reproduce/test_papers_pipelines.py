"""Pipelines get what was measured, in the geometry it was measured in, and give maps of every orientation."""

import pytest
import torch

from custom_transforms import keys
from custom_transforms.inferers import GeometryInferer
from custom_transforms.metrics import nrmse_percent
from custom_transforms.networks import Frozen
from custom_transforms.physics import DipoleConvolution
from custom_transforms.reproduce.papers_pipelines import (
    MeasuredHead,
    closed_form_pipeline,
    cosmos_pipeline,
    susceptibility_pipeline,
    tikhonov_pipeline,
    total,
    truth_pipeline,
    variant_pipeline,
)
from custom_transforms.variants import LoadedVariant

RELAXIVITY = 137.0


def test_images_are_the_physics_of_the_truth(head: MeasuredHead) -> None:
    dipole = DipoleConvolution(padding=1.0)
    for i in range(4):
        field, r2prime, mask = keys.split_image(head.image(i, keys.R2PRIME).as_tensor())
        assert torch.equal(mask, head.mask)
        expected = head.mask * dipole(total(head.truth), *head.geometry(i))
        torch.testing.assert_close(field, expected, rtol=0, atol=1e-4)
        quiet = head.truth[:, :1] < 0.2  # the signal of haemorrhages is lost
        torch.testing.assert_close(r2prime[quiet], head.truth.sum(1, keepdim=True)[quiet], rtol=0, atol=1e-3)
        r2star = head.image(i, keys.R2STAR)[:, 1:2].as_tensor()
        torch.testing.assert_close((r2star - r2prime)[quiet], (14 / RELAXIVITY * mask)[quiet], rtol=0, atol=2e-3)


def test_orientations_differ_and_the_affine_says_how(head: MeasuredHead) -> None:
    directions = torch.cat([head.geometry(i)[1] for i in range(4)])
    assert torch.equal(directions[0], torch.tensor([0.0, 0.0, 1.0]))
    assert ((directions[1:, 2] < 0.99) & (directions[1:, 2] > 0.7)).all()
    for i in range(4):
        torch.testing.assert_close(head.image(i, keys.R2PRIME).affine[2, :3].float(), directions[i])
    assert not torch.allclose(head.image(0, keys.R2PRIME)[:, 0], head.image(1, keys.R2PRIME)[:, 0], atol=1e-3)


@pytest.mark.parametrize("rate", [keys.R2PRIME, keys.R2STAR])
def test_variant_gets_its_rate_and_gives_every_orientation(head: MeasuredHead, scaled, rate: str) -> None:
    variant = LoadedVariant(scaled(2.0), GeometryInferer(), rate)
    maps = variant_pipeline("scaled", variant).reconstruct(head)
    assert maps.shape == (4, 2, *head.mask.shape[2:])
    assert torch.equal(maps[3, 0], 2 * head.image(3, rate).as_tensor()[0, 1])
    totals = susceptibility_pipeline("scaled", variant).reconstruct(head)
    assert torch.equal(totals[:, 0], torch.cat([head.image(i, rate).as_tensor()[:, 0] for i in range(4)]))


def test_other_frozen_weights_are_another_version(scaled) -> None:
    versions = {
        variant_pipeline("frozen", LoadedVariant(Frozen(scaled(factor)), GeometryInferer(), keys.R2PRIME)).version
        for factor in (1.0, 1.0, 1.5)
    }
    assert len(versions) == 2


def test_other_weights_are_another_version(scaled) -> None:
    one, same, other = (
        variant_pipeline("scaled", LoadedVariant(scaled(factor), GeometryInferer(), keys.R2PRIME)).version
        for factor in (1.0, 1.0, 1.5)
    )
    assert one == same != other


def test_conventional_methods_in_their_order(head: MeasuredHead) -> None:
    truth = total(head.truth)
    tikhonov, cosmos = (pipeline().reconstruct(head) for pipeline in (tikhonov_pipeline, cosmos_pipeline))
    assert tikhonov.shape == (4, *truth.shape[1:])
    assert cosmos.shape == truth.shape
    errors = [float(nrmse_percent(maps[:1], truth, head.mask, demean=True)) for maps in (cosmos, tikhonov)]
    assert errors[0] < errors[1] < 80


def test_closed_form_and_truth(head: MeasuredHead) -> None:
    assert torch.equal(truth_pipeline().reconstruct(head), head.truth)
    maps = closed_form_pipeline().reconstruct(head)
    assert maps.shape == (4, 2, *head.mask.shape[2:])
    assert (nrmse_percent(maps[:1], head.truth, head.mask) < 100).all()
