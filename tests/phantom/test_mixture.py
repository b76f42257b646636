"""A mixture draws its phantoms by their weights, and equal generators draw the same."""

import pytest
import torch
from monai.bundle import ConfigParser
from torch import Tensor

from custom_transforms import keys
from custom_transforms.phantom import PhantomMixture


class Constant:
    """A phantom of one value."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {keys.CHI_PARA: torch.full((batch, 1, 2, 2, 2), self.value)}


def draw(weights: list[float], number: int, seed: int = 0) -> list[float]:
    mixture = PhantomMixture(phantoms=[Constant(float(i)) for i in range(len(weights))], weights=weights)
    generator = torch.Generator().manual_seed(seed)
    return [float(mixture(2, generator)[keys.CHI_PARA].mean()) for _ in range(number)]


def test_phantoms_are_drawn_by_their_weights() -> None:
    drawn = draw([1, 3, 0], 2000)
    assert drawn.count(1.0) / 2000 == pytest.approx(0.75, abs=0.04)
    assert drawn.count(0.0) / 2000 == pytest.approx(0.25, abs=0.04)
    assert drawn == draw([1, 3, 0], 2000)
    assert drawn != draw([1, 3, 0], 2000, seed=1)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0, 1.0], [1.0, -0.5], [0.0, 0.0]])
def test_wrong_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights must"):
        PhantomMixture(phantoms=[Constant(0.0), Constant(1.0)], weights=weights)


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="weights must"):
        PhantomMixture(phantoms=[], weights=[])


def test_json_declares_a_mixture() -> None:
    shape = {"shape": [12, 10, 9]}
    phantoms = [
        {"_target_": f"custom_transforms.phantom.{name}", **shape} for name in ("RandomShapes", "WarpedAnatomy")
    ]
    mixture = {"_target_": "custom_transforms.phantom.PhantomMixture", "phantoms": phantoms, "weights": [1.0, 1.0]}
    made = ConfigParser({"phantom": mixture}).get_parsed_content("phantom")
    heads = [made(1, torch.Generator().manual_seed(seed)) for seed in range(6)]
    assert {head[keys.MASK].shape for head in heads} == {(1, 1, 12, 10, 9)}
    assert [type(phantom).__name__ for phantom in made.phantoms] == ["RandomShapes", "WarpedAnatomy"]
