"""The measured maps: noise of the SNR asked for, protocols drawn from their ranges."""

import pytest
import torch

from custom_transforms import keys
from custom_transforms.phantom import acquisition
from custom_transforms.phantom.random_draws import Draws
from custom_transforms.phantom.steps import Echoes, Maps, ideal_simulation


def test_noise_falls_with_the_snr(exact: Maps) -> None:
    def error(snr: float) -> float:
        draws = Draws(2, torch.Generator().manual_seed(1), torch.device("cpu"))
        maps = Echoes(snr=(snr, snr))(exact, draws)
        weak = (exact[keys.R2PRIME] < 40) & (exact[keys.MASK] > 0)
        return float((maps[keys.LOCAL_FIELD] - exact[keys.LOCAL_FIELD])[weak].std())

    assert error(50.0) / error(200.0) == pytest.approx(4, rel=0.15)


def test_protocols_are_drawn_within_their_ranges(exact: Maps, draws: Draws, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[acquisition.Acquisition] = []
    measure = acquisition.Acquisition.measure

    def spy(self: acquisition.Acquisition, *args: object, **options: object) -> Maps:
        seen.append(self)
        return measure(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(acquisition.Acquisition, "measure", spy)
    step = Echoes(number=(3, 5), first_ms=(3.0, 6.0), spacing_ms=(4.0, 7.0), reweightings=(0, 3))
    for _ in range(24):
        step(exact, draws)
    times = [a.gradient_echo.echo_times_s for a in seen]
    assert {len(t) for t in times} == {3, 4, 5}
    assert {a.r2star_reweightings for a in seen} == {0, 1, 2, 3}
    assert all(0.003 <= t[0] <= 0.006 and 0.004 <= t[1] - t[0] <= 0.007 for t in times)
    assert max(t[0] for t in times) - min(t[0] for t in times) > 0.0015


def test_the_ideal_measurement_has_noise_alone() -> None:
    names = [type(step).__name__ for step in ideal_simulation()]
    assert names == ["SplitRelaxivity", "ExactMaps", "Echoes"]
