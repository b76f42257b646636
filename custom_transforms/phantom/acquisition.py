r"""From tissue to measured maps: the multi-echo signal, its noise, and the maps that are fitted back from it.

    field = D (chi_para - chi_dia),    R2' = Dr_para chi_para + Dr_dia chi_dia,    R2* = R2 + R2'
    gradient echo: m0 exp(-TE R2*) exp(i 2 pi gamma_bar B0 field TE) + n,    spin echo: |m0 exp(-TE R2) + n|

n is complex Gaussian noise. **SNR** is the signal of m0 = 1 (white matter) at echo time 0 over the SD of one channel of
n, the same for both sequences.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import keys
from ..physics import DipoleConvolution, field_ppm_to_phase_rad, hz_per_ppm, relaxivity_at
from ..relaxometry import check_echo_times, fit_field, fit_r2, fit_r2star, r2prime_from_r2star

_TISSUE = (keys.CHI_PARA, keys.CHI_DIA, keys.R2, keys.PROTON_DENSITY, keys.MASK, keys.VOXEL_SIZE_MM, keys.B0_DIRECTION)


@dataclass(frozen=True)
class GradientEchoProtocol:
    """Echo times in s and main field in T of the gradient echoes, which give the field and R2*."""

    echo_times_s: tuple[float, ...] = (0.005, 0.011, 0.017, 0.023, 0.029)
    b0_tesla: float = 3.0

    def __post_init__(self) -> None:
        check_echo_times(self.echo_times_s)
        hz_per_ppm(self.b0_tesla)  # refuses a field strength that is not positive


@dataclass(frozen=True)
class SpinEchoProtocol:
    """Echo times in s of the spin echoes, which give R2."""

    echo_times_s: tuple[float, ...] = (0.015, 0.030, 0.045, 0.060, 0.075, 0.090)

    def __post_init__(self) -> None:
        check_echo_times(self.echo_times_s)


def _noise_sd(snr: float | Tensor | None, like: Tensor) -> Tensor | float:
    """Give the SD of the noise in one channel; that of a batch can be multiplied with its maps."""
    if snr is None:
        return 0.0
    if not bool((torch.as_tensor(snr) > 0).all()):
        raise ValueError(f"snr must be positive, got {snr}; 50 to 300 is usual")
    return 1 / snr if isinstance(snr, int | float) else (1 / snr.to(like)).reshape(-1, *[1] * (like.ndim - 1))


def _decay(m0: Tensor, rate_per_s: Tensor, echo_times_s: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Give the magnitude of every echo, (..., E, X, Y, Z), and the echo times, (E, 1, 1, 1)."""
    t = torch.tensor(echo_times_s, dtype=m0.dtype, device=m0.device).reshape(-1, 1, 1, 1)
    return m0 * (-t * rate_per_s).exp(), t


def _add_noise(echoes: Tensor, noise_sd: Tensor | float, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        raise ValueError("expected a torch.Generator for the noise, got None; pass generator= or snr=None")
    noise = torch.randn(echoes.shape, dtype=echoes.dtype, device=echoes.device, generator=generator)
    return echoes + noise * (math.sqrt(2) * noise_sd)  # a complex normal of torch has SD 1 over both channels


def _weights(relaxivity_weights: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
    weights = torch.ones(1, 2) if relaxivity_weights is None else relaxivity_weights
    shaped = weights.to(like).reshape(-1, 2, *[1] * (like.ndim - 1))
    return shaped[:, 0], shaped[:, 1]


class Acquisition:
    """Measure a phantom with a gradient-echo and a spin-echo sequence.

    Args:
        gradient_echo: echo times and field strength; the literature's 5 echoes at 3 T if None.
        spin_echo: echo times; 15 to 90 ms if None.
        relaxivity_para_per_s_ppm: Dr of paramagnetic sources in 1/s/ppm; 137 at 3 T, scaled with B0, if None.
        relaxivity_dia_per_s_ppm: Dr of diamagnetic sources, likewise.
        r2star_reweightings: see :func:`custom_transforms.relaxometry.fit_r2star`.
    """

    def __init__(
        self,
        *,
        gradient_echo: GradientEchoProtocol | None = None,
        spin_echo: SpinEchoProtocol | None = None,
        relaxivity_para_per_s_ppm: float | None = None,
        relaxivity_dia_per_s_ppm: float | None = None,
        r2star_reweightings: int = 3,
    ) -> None:
        self.gradient_echo = gradient_echo or GradientEchoProtocol()
        self.spin_echo = spin_echo or SpinEchoProtocol()
        default = relaxivity_at(self.gradient_echo.b0_tesla)
        self.relaxivity_para_per_s_ppm = default if relaxivity_para_per_s_ppm is None else relaxivity_para_per_s_ppm
        self.relaxivity_dia_per_s_ppm = default if relaxivity_dia_per_s_ppm is None else relaxivity_dia_per_s_ppm
        self.r2star_reweightings = r2star_reweightings
        self._dipole = DipoleConvolution(padding=1.0)

    def exact(self, tissue: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the maps that a noise-free measurement would give.

        The field comes from the sources of the whole volume; only then is it masked.

        Args:
            tissue: chi_para, chi_dia (ppm), r2 (1/s), m0 and mask, each (1, X, Y, Z) or (B, 1, X, Y, Z), with
                voxel_size_mm and b0_direction, (3,) or (B, 3); optionally relaxivity_weights (2,) or (B, 2), which
                multiply the two relaxivities, and relaxivity_dia_factor, a map that multiplies that of chi_dia.

        Returns:
            The tissue's entries and local_field (ppm), r2prime, r2star and r2 (1/s), zero outside the mask.

        Raises:
            ValueError: an entry is missing.
        """
        missing = [name for name in _TISSUE if name not in tissue]
        if missing:
            raise ValueError(f"expected a tissue with {', '.join(_TISSUE)}; {', '.join(missing)} missing")
        para, dia, mask = tissue[keys.CHI_PARA], tissue[keys.CHI_DIA], tissue[keys.MASK]
        q = para - dia
        geometry = (tissue[name].reshape(-1, 3) for name in (keys.VOXEL_SIZE_MM, keys.B0_DIRECTION))
        field = self._dipole(q.reshape(-1, 1, *q.shape[-3:]), *geometry).reshape(q.shape)
        w_para, w_dia = _weights(tissue.get(keys.RELAXIVITY_WEIGHTS), q)
        w_dia = w_dia * tissue.get(keys.RELAXIVITY_DIA_FACTOR, 1.0)
        r2prime = mask * (w_para * self.relaxivity_para_per_s_ppm * para + w_dia * self.relaxivity_dia_per_s_ppm * dia)
        r2 = mask * tissue[keys.R2]
        maps = {keys.LOCAL_FIELD: mask * field, keys.R2PRIME: r2prime, keys.R2: r2, keys.R2STAR: r2 + r2prime}
        return {**tissue, **maps}

    def __call__(
        self,
        tissue: Mapping[str, Tensor],
        *,
        snr: float | None,
        generator: torch.Generator | None = None,
        echoes: bool = False,
    ) -> dict[str, Tensor]:
        """Simulate noisy echoes and fit the maps back.

        The phase is unwrapped about the true field: spatial unwrapping, which other software does, is taken as solved.

        Args:
            tissue: see :meth:`exact`.
            snr: see the head of the module; None or infinity gives the exact maps.
            generator: source of the noise, on the tissue's device; needed unless the maps are exact.
            echoes: add the gradient echoes' magnitude and phase (rad), (E, X, Y, Z) or (B, E, X, Y, Z).

        Returns:
            As :meth:`exact`, with what is fitted to the echoes in place of the exact maps.

        Raises:
            ValueError: an SNR that is not positive, or one without a generator.
        """
        return self.measure(self.exact(tissue), snr=snr, generator=generator, echoes=echoes)

    def measure(
        self,
        exact: Mapping[str, Tensor],
        *,
        snr: float | Tensor | None,
        generator: torch.Generator | None = None,
        echoes: bool = False,
    ) -> dict[str, Tensor]:
        """Simulate noisy echoes of exact maps and fit them back.

        Args:
            exact: what :meth:`exact` gives, or what remains of it after other errors.
            snr: see the head of the module; (B,) for one of each volume; None or infinity gives the exact maps.
            generator: see :meth:`__call__`.
            echoes: see :meth:`__call__`.

        Returns:
            See :meth:`__call__`.

        Raises:
            ValueError: an SNR that is not positive, or one without a generator.
        """
        noise_sd = _noise_sd(snr, exact[keys.MASK])
        noisy = bool(torch.as_tensor(noise_sd > 0).any())
        maps = dict(exact)
        if not noisy and not echoes:
            return maps
        signal = self._gradient_echoes(maps)
        if noisy:
            signal = _add_noise(signal, noise_sd, generator)
            maps |= self._fit(maps, signal, _add_noise(self._spin_echoes(maps), noise_sd, generator).abs())
        if echoes:
            maps |= {keys.MAGNITUDE: signal.abs(), keys.PHASE: signal.angle()}
        return maps

    def _gradient_echoes(self, maps: Mapping[str, Tensor]) -> Tensor:
        magnitude, t = _decay(maps[keys.PROTON_DENSITY], maps[keys.R2STAR], self.gradient_echo.echo_times_s)
        rad_per_s = field_ppm_to_phase_rad(maps[keys.LOCAL_FIELD], 1.0, self.gradient_echo.b0_tesla)
        return torch.polar(magnitude, t * rad_per_s)

    def _spin_echoes(self, maps: Mapping[str, Tensor]) -> Tensor:
        magnitude, _ = _decay(maps[keys.PROTON_DENSITY], maps[keys.R2], self.spin_echo.echo_times_s)
        return torch.complex(magnitude, torch.zeros_like(magnitude))

    def _fit(self, exact: Mapping[str, Tensor], signal: Tensor, spin_echoes: Tensor) -> dict[str, Tensor]:
        mask, times = exact[keys.MASK], self.gradient_echo.echo_times_s
        reference = exact[keys.LOCAL_FIELD]
        field = fit_field(signal, times, b0_tesla=self.gradient_echo.b0_tesla, reference_ppm=reference)
        r2star = mask * fit_r2star(signal.abs(), times, reweightings=self.r2star_reweightings)[0]
        r2 = mask * fit_r2(spin_echoes, self.spin_echo.echo_times_s)[0]
        r2prime = r2prime_from_r2star(r2star, r2)
        return {keys.LOCAL_FIELD: mask * field, keys.R2STAR: r2star, keys.R2: r2, keys.R2PRIME: r2prime}
