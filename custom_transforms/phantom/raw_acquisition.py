r"""What a scanner gives of a whole head: magnitude and wrapped phase of gradient echoes, and spin echoes.

    field = D (chi_para - chi_dia + chi_background) - its mean in the brain - the shim
    gradient echo: c m0 exp(-TE R2*) exp(i (sign 2 pi gamma_bar B0 field TE + phi0)) + n
    spin echo: |c m0 exp(-TE R2) + n|

c is the receive sensitivity of the coil and phi0 its phase, both smooth. n is complex Gaussian noise. **SNR** is that
of acquisition.py: the signal of m0 = 1 (white matter) at echo time 0, with c = 1, its mean in the brain, over the SD of
one channel of n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import keys
from ..physics import DipoleConvolution, field_ppm_to_phase_rad, hz_per_ppm
from .acquisition import Acquisition
from .head import CHI_AIR_PPM, CHI_BACKGROUND, HEAD_MASK

SHIM_ORDER = 2
FADE_VOXELS = 8  # at the edge of the grid
COIL_ORDER = 2
SENSITIVITY_RATIO = 2.0  # largest over smallest in the head
COIL_PHASE_RAD = 2.0  # reached at both ends, in the head
_BOX_MARGIN = 8  # voxels around the brain in which the field of its sources is computed
_TRUTH = (keys.LOCAL_FIELD, keys.R2PRIME, keys.R2STAR)


class RawAcquisition:
    """Measure a whole head and leave the data as a scanner does.

    Args:
        acquisition: Protocols and relaxivities; those of :class:`Acquisition` if None.
        sign: +1 where phase grows with the field, -1 where it falls.
        shim: Take the harmonics up to second order that fit the field in the brain out of the field.
        dephasing: Let the field's slope within a voxel weaken the signal: a sinc along each axis of the voxel.

    Raises:
        ValueError: The sign is neither +1 nor -1.
    """

    def __init__(
        self, acquisition: Acquisition | None = None, *, sign: int = 1, shim: bool = True, dephasing: bool = False
    ) -> None:
        if sign not in (1, -1):
            raise ValueError(f"sign must be +1 or -1, got {sign}; it says whether phase grows or falls with the field")
        self.acquisition = acquisition or Acquisition()
        self.sign = sign
        self.shim = shim
        self.dephasing = dephasing

    def __call__(
        self, head: Mapping[str, Tensor], *, snr: float | None, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Measure a head.

        Args:
            head: What :func:`surround_with_head` gives.
            snr: See the head of the module; None leaves the noise out.
            generator: Source of the coil's maps and of the noise, on the CPU.

        Returns:
            `magnitude` and `phase` (rad, -pi to pi), (E, X, Y, Z), one channel an echo; `spin_echo`, (E2, X, Y, Z); and
            the truth, (1, X, Y, Z): `local_field`, of the brain's sources alone, and `r2prime` and `r2star` (1/s), zero
            outside the mask, as :meth:`Acquisition.exact` gives them; `total_field`, ppm of B0, everywhere; and all
            entries of the head, among them `r2` of the whole head.

        Raises:
            ValueError: An SNR that is not positive.
        """
        if snr is not None and not snr > 0:
            raise ValueError(f"snr must be positive, got {snr}; 50 to 300 is usual")
        truth = self._truth(head)
        total_field = self.total_field(head)
        sensitivity, offset_rad = draw_coil(head[keys.MASK], head[HEAD_MASK], generator=generator)
        m0 = torch.polar(sensitivity * head[keys.PROTON_DENSITY], offset_rad)
        noise_sd = 0.0 if snr is None else 1 / snr
        magnitude, phase = self._gradient_echoes(
            m0, head[keys.R2] + truth[keys.R2PRIME], total_field, noise_sd, generator
        )
        return {
            **head,
            **truth,
            keys.TOTAL_FIELD: total_field,
            keys.MAGNITUDE: magnitude,
            keys.PHASE: phase,
            keys.SPIN_ECHO: self._spin_echoes(m0, head[keys.R2], noise_sd, generator),
        }

    def total_field(self, head: Mapping[str, Tensor]) -> Tensor:
        """Give the field of brain and head after centring and shimming, ppm of B0, (1, X, Y, Z).

        Args:
            head: What :func:`surround_with_head` gives.

        Returns:
            The field; everything beyond the grid is air, into which the neck fades.
        """
        field = _convolve(head[keys.CHI_PARA] - head[keys.CHI_DIA], head, padding=0.5)
        field = field + _background_field(_fade(head[CHI_BACKGROUND] - CHI_AIR_PPM), head)
        order = SHIM_ORDER if self.shim else 0
        return field - fit_shim(field, head[keys.MASK], head[keys.VOXEL_SIZE_MM], order=order)

    def _truth(self, head: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The maps of :meth:`Acquisition.exact`, from a box around the brain: the whole head needs too much memory."""
        mask = head[keys.MASK]
        occupied = mask[0].nonzero()
        low = (occupied.amin(0) - _BOX_MARGIN).clamp(min=0).tolist()
        high = (occupied.amax(0) + _BOX_MARGIN + 1).tolist()
        box = (slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))
        exact = self.acquisition.exact({k: v[box] if v.ndim == 4 else v for k, v in head.items()})
        truth = {key: torch.zeros_like(mask) for key in _TRUTH}
        for key in _TRUTH:
            truth[key][box] = exact[key]
        return truth

    def _gradient_echoes(
        self, m0: Tensor, r2star: Tensor, field: Tensor, noise_sd: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        protocol = self.acquisition.gradient_echo
        magnitude = torch.empty(len(protocol.echo_times_s), *field.shape[1:])
        phase = torch.empty_like(magnitude)
        for i, t in enumerate(protocol.echo_times_s):  # one at a time, which bounds the memory
            weight = (-t * r2star).exp()
            if self.dephasing:
                weight *= dephasing(field, t, protocol.b0_tesla)
            angle = field_ppm_to_phase_rad(field, t, protocol.b0_tesla, sign=self.sign)
            echo = _with_noise(m0 * torch.polar(weight, angle), noise_sd, generator)[0]
            magnitude[i], phase[i] = echo.abs(), echo.angle()
        return magnitude, phase

    def _spin_echoes(self, m0: Tensor, r2: Tensor, noise_sd: float, generator: torch.Generator) -> Tensor:
        times = self.acquisition.spin_echo.echo_times_s
        magnitude = torch.empty(len(times), *r2.shape[1:])
        for i, t in enumerate(times):
            magnitude[i] = _with_noise(m0 * (-t * r2).exp(), noise_sd, generator)[0].abs()
        return magnitude


def dephasing(field_ppm: Tensor, echo_time_s: float, b0_tesla: float) -> Tensor:
    r"""Give the share of signal left by the field's slope within a voxel.

        prod_i sinc(gamma_bar B0 TE df_i),    sinc(x) = |sin(pi x) / (pi x)|,    df_i the change over voxel axis i

    Args:
        field_ppm: (1, X, Y, Z), ppm of B0.
        echo_time_s: TE in s.
        b0_tesla: Main field in T.

    Returns:
        Share of the signal, (1, X, Y, Z), 0 to 1.

    References:
        Fernandez-Seara and Wehrli 2000, doi:10.1002/1522-2594(200009)44:3<358::AID-MRM3>3.0.CO;2-I
    """
    turns_per_ppm = echo_time_s * hz_per_ppm(b0_tesla)
    share = torch.ones_like(field_ppm)
    for axis in (1, 2, 3):
        share *= torch.sinc(turns_per_ppm * torch.gradient(field_ppm, dim=axis)[0]).abs()
    return share


def draw_coil(mask: Tensor, head_mask: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw the receive coil's sensitivity and phase: polynomials of second order.

    Args:
        mask: The brain, (1, X, Y, Z).
        head_mask: The head, (1, X, Y, Z).
        generator: Source of the randomness, on the CPU.

    Returns:
        Sensitivity, whose mean in the brain is 1 and whose extremes in the head differ by `SENSITIVITY_RATIO`, and
        phase, rad, from -`COIL_PHASE_RAD` to `COIL_PHASE_RAD` in the head; (1, X, Y, Z) each.
    """
    maps, inside = [], head_mask > 0
    for _ in range(2):
        coefficients = torch.randn(len(_exponents(COIL_ORDER)), generator=generator, dtype=torch.float64)
        shape = _polynomial(coefficients, COIL_ORDER, mask.shape[1:]).float()
        low, high = shape[inside].min(), shape[inside].max()
        maps.append((2 * shape - low - high) / (high - low))  # -1 to 1
    sensitivity = (0.5 * math.log(SENSITIVITY_RATIO) * maps[0]).exp()
    return sensitivity / sensitivity[mask > 0].mean(), COIL_PHASE_RAD * maps[1]


def fit_shim(field: Tensor, mask: Tensor, voxel_size_mm: Tensor, *, order: int) -> Tensor:
    """Give the field of shim coils that fits a field in a mask best: solid harmonics, as no coil makes any other.

        1;  x, y, z;  xy, yz, zx, x^2 - y^2, 2 z^2 - x^2 - y^2

    Args:
        field: (1, X, Y, Z), any unit.
        mask: Where it is fitted, (1, X, Y, Z), 0 or 1.
        voxel_size_mm: (3,).
        order: 0 (the mean), 1 or 2.

    Returns:
        The harmonics on the whole grid, (1, X, Y, Z), same unit.
    """
    sizes = [(n - 1) * float(v) for n, v in zip(mask.shape[1:], voxel_size_mm, strict=True)]
    ranges = [
        torch.linspace(-1, 1, n, dtype=torch.float64) * size for n, size in zip(mask.shape[1:], sizes, strict=True)
    ]
    x, y, z = torch.meshgrid(*[r / max(sizes) for r in ranges], indexing="ij")
    terms = [torch.ones_like(x), x, y, z, x * y, y * z, z * x, x * x - y * y, 2 * z * z - x * x - y * y]
    terms = terms[: (order + 1) ** 2]
    inside = mask[0] > 0
    columns = torch.stack([term[inside] for term in terms])
    coefficients = torch.linalg.solve(columns @ columns.T, columns @ field[0][inside].double())
    return sum(c * term for c, term in zip(coefficients, terms, strict=True))[None].to(field)


def _exponents(order: int) -> list[tuple[int, ...]]:
    return [powers for powers in product(range(order + 1), repeat=3) if sum(powers) <= order]


def _polynomial(coefficients: Tensor, order: int, shape: Sequence[int]) -> Tensor:
    """Give the polynomial in coordinates from -1 to 1 along each axis, (1, *shape)."""
    dense = torch.zeros(3 * [order + 1], dtype=torch.float64)
    dense[tuple(torch.tensor(_exponents(order)).T)] = coefficients
    powers = [torch.linspace(-1, 1, n, dtype=torch.float64) ** torch.arange(order + 1)[:, None] for n in shape]
    return torch.einsum("abc,ax,by,cz->xyz", dense, *powers)[None]


def _background_field(chi: Tensor, head: Mapping[str, Tensor]) -> Tensor:
    """Give the field (1, X, Y, Z) of air and bone, the mean over each voxel.

    Thick slices would ring: along an axis with longer voxels it is computed on a grid that is as fine as the others.
    """
    size = head[keys.VOXEL_SIZE_MM]
    factors = [max(1, round(float(v / size.min()))) for v in size]
    shape = [n * factor for n, factor in zip(chi.shape[1:], factors, strict=True)]
    fine = F.interpolate(chi[None], size=shape, mode="trilinear", align_corners=False)
    geometry = size / torch.tensor(factors), head[keys.B0_DIRECTION]
    field = DipoleConvolution(padding=0.5)(fine, *(part.reshape(1, 3) for part in geometry))
    return F.avg_pool3d(field[0], factors)


def _fade(chi: Tensor) -> Tensor:
    """Let a volume (1, X, Y, Z) end smoothly: a neck that is cut rings in a sampled field, from slice to slice."""
    for axis in (1, 2, 3):
        n = chi.shape[axis]
        length = min(FADE_VOXELS, n // 4)
        rise = (torch.arange(1, length + 1) / (length + 1) * math.pi / 2).sin().square()
        weight = torch.cat([rise, torch.ones(n - 2 * len(rise)), rise.flip(0)])
        chi = chi * weight.reshape([-1 if i == axis else 1 for i in range(4)])
    return chi


def _convolve(chi: Tensor, head: Mapping[str, Tensor], *, padding: float) -> Tensor:
    geometry = (head[name].reshape(1, 3) for name in (keys.VOXEL_SIZE_MM, keys.B0_DIRECTION))
    return DipoleConvolution(padding=padding)(chi[None], *geometry)[0]


def _with_noise(echo: Tensor, noise_sd: float, generator: torch.Generator) -> Tensor:
    """Add noise to complex echoes, in place."""
    if not noise_sd:
        return echo
    noise = torch.randn(echo.shape, dtype=echo.dtype, generator=generator)
    return echo.add_(noise, alpha=math.sqrt(2) * noise_sd)  # a complex normal of torch has SD 1 over both channels
