"""Steps that measure: the exact maps, and the noisy echoes that are fitted back."""

from __future__ import annotations

from custom_transforms.phantom.acquisition import Acquisition, GradientEchoProtocol
from custom_transforms.phantom.random_draws import Draws
from custom_transforms.phantom.steps.base import Maps, Step
from custom_transforms.phantom.steps.tissue import SplitRelaxivity


class ExactMaps(Step):
    """The field and the rates of the tissue without any error: :meth:`Acquisition.exact` at 3 T."""

    def __init__(self) -> None:
        self._acquisition = Acquisition()

    def __call__(self, maps: Maps, draws: Draws) -> Maps:
        """Add local_field (ppm), r2prime, r2 and r2star (1/s)."""
        return self._acquisition.exact(maps)


class Echoes(Step):
    """Measure the maps by noisy gradient and spin echoes, and fit them back.

    The bias of strong R2' whose signal is lost in noise, and all that the protocol decides, comes with it. A batch
    shares one protocol of gradient echoes.

    Args:
        snr: range of the signal-to-noise ratio, log-uniform, one for each volume; see :class:`Acquisition`.
        number: range of the number of gradient echoes.
        first_ms: range of the first echo time, ms.
        spacing_ms: range of the echo spacing, ms.
        reweightings: range of the number of times that the fit of R2* is reweighted; 0 keeps the bias of the noise.
    """

    def __init__(
        self,
        *,
        snr: tuple[float, float] = (50.0, 300.0),
        number: tuple[int, int] = (5, 5),
        first_ms: tuple[float, float] = (5.0, 5.0),
        spacing_ms: tuple[float, float] = (6.0, 6.0),
        reweightings: tuple[int, int] = (3, 3),
    ) -> None:
        self.snr = snr
        self.number = number
        self.first_ms = first_ms
        self.spacing_ms = spacing_ms
        self.reweightings = reweightings

    def __call__(self, maps: Maps, draws: Draws) -> Maps:
        """Replace local_field (ppm), r2star, r2 and r2prime (1/s) by what is fitted to the echoes."""
        one = Draws(1, draws.generator, draws.device)
        first, spacing = one.uniform(*self.first_ms).item(), one.uniform(*self.spacing_ms).item()
        number, reweightings = (
            int(one.uniform(low, high + 1).clamp(max=high).item()) for low, high in (self.number, self.reweightings)
        )
        times = tuple((first + spacing * echo) / 1000 for echo in range(number))
        acquisition = Acquisition(
            gradient_echo=GradientEchoProtocol(echo_times_s=times), r2star_reweightings=reweightings
        )
        return acquisition.measure(maps, snr=draws.log_uniform(*self.snr), generator=draws.generator)


def ideal_simulation(*, snr: tuple[float, float] = (50.0, 300.0), relaxivity_split: float = 0.2) -> list[Step]:
    """Give the steps of a measurement whose only imperfection is noise.

    Args:
        snr: range of the signal-to-noise ratio.
        relaxivity_split: largest relative deviation of the two relaxivities from their mean, known to the method.
    """
    return [SplitRelaxivity(largest=relaxivity_split), ExactMaps(), Echoes(snr=snr)]
