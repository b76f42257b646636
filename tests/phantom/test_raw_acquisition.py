"""The raw data of a head against analytic fields, the signal equations written out again, and the brain alone."""

import math

import numpy as np
import pytest
import torch

from custom_transforms import keys
from custom_transforms.phantom import head as head_module
from custom_transforms.phantom.acquisition import Acquisition, GradientEchoProtocol, SpinEchoProtocol
from custom_transforms.phantom.brain import AFFINE
from custom_transforms.phantom.filters import gaussian_smooth
from custom_transforms.phantom.head import CHI_BACKGROUND, HEAD_MASK, surround_with_head
from custom_transforms.phantom.raw_acquisition import RawAcquisition, dephasing, draw_coil, fit_shim
from custom_transforms.physics import sphere_field

ECHO_TIMES_S = (0.004, 0.009, 0.012)  # unequal
SPIN_ECHO_TIMES_S = (0.02, 0.05)
RAD_PER_S_PPM = 2 * math.pi * 42.577 * 3.0
OBLIQUE = torch.nn.functional.normalize(torch.tensor([0.3, -0.2, 0.9]), dim=0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def radius_mm(shape: tuple[int, ...], voxel_size_mm: tuple[float, ...]) -> torch.Tensor:
    axes = [(torch.arange(n) - (n - 1) / 2) * v for n, v in zip(shape, voxel_size_mm, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).norm(dim=0)


def ball_brain(voxel_size_mm: tuple[float, ...] = (3.0, 3.0, 3.0), radius: float = 30.0) -> dict[str, torch.Tensor]:
    """A ball of tissue with random sources, in its own box."""
    shape = tuple(2 * math.ceil(radius / v) + 5 for v in voxel_size_mm)
    mask = (radius_mm(shape, voxel_size_mm) <= radius)[None].float()
    para, dia = (0.05 * mask * torch.rand(1, *shape, generator=seeded(i)) for i in (1, 2))
    affine = torch.diag(torch.tensor([*voxel_size_mm, 1.0], dtype=torch.float64))
    return {
        **{keys.CHI_PARA: para, keys.CHI_DIA: dia, keys.R2: 14 * mask, keys.PROTON_DENSITY: mask, keys.MASK: mask},
        **{keys.REGIONS: mask.byte(), keys.VOXEL_SIZE_MM: torch.tensor(voxel_size_mm), AFFINE: affine},
        keys.B0_DIRECTION: OBLIQUE,
    }


def scanner(**options: bool | int) -> RawAcquisition:
    protocols = GradientEchoProtocol(ECHO_TIMES_S), SpinEchoProtocol(SPIN_ECHO_TIMES_S)
    return RawAcquisition(Acquisition(gradient_echo=protocols[0], spin_echo=protocols[1]), **options)


@pytest.fixture(scope="module")
def head() -> dict[str, torch.Tensor]:
    return surround_with_head(ball_brain(), seed=0)


@pytest.fixture(scope="module")
def exact(head: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return scanner()(head, snr=None, generator=seeded())


@pytest.mark.parametrize("voxel_size_mm", [(2.0, 2.0, 2.0), (1.5, 1.5, 2.5)])
def test_field_around_a_ball_of_water_in_air_is_the_analytic_one(voxel_size_mm: tuple[float, ...]) -> None:
    shape, ball_mm = (48, 47, 40), 20.0
    r = radius_mm(shape, voxel_size_mm)
    zeros = torch.zeros(1, *shape)
    air = gaussian_smooth(9.4 * (r > ball_mm)[None].float(), sigma_voxels=head_module.EDGE_VOXELS)
    inner = (r < ball_mm - 3 * head_module.EDGE_VOXELS * max(voxel_size_mm))[None].float()
    water = {keys.CHI_PARA: zeros, keys.CHI_DIA: zeros, CHI_BACKGROUND: air, keys.MASK: inner}
    water |= {keys.VOXEL_SIZE_MM: torch.tensor(voxel_size_mm), keys.B0_DIRECTION: OBLIQUE}
    field = scanner(shim=False).total_field(water)[0]
    expected, _ = sphere_field(
        shape,
        torch.tensor(voxel_size_mm),
        OBLIQUE,
        centre_voxel=(torch.tensor(shape) - 1) / 2,
        radius_mm=ball_mm,
        chi_ppm=-9.4,
    )
    outside = (r > ball_mm + 5) & (r < ball_mm + 15)
    assert (field - expected)[outside].norm() < 0.05 * expected[outside].norm()
    assert (field + expected)[outside].norm() > 1.9 * expected[outside].norm()  # the sign matters
    assert field[inner[0] > 0].abs().max() < 0.02 * expected.abs().max()


def test_the_background_is_harmonic_in_the_brain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Laplacian vanishes there, which takes the soft edges of the sources: sharp ones ring."""
    brain = ball_brain((2.0, 2.0, 2.0))
    curvatures = []
    for edge_voxels in (head_module.EDGE_VOXELS, 0.1):
        monkeypatch.setattr(head_module, "EDGE_VOXELS", edge_voxels)
        head = surround_with_head(brain, seed=0)
        maps = {**head, keys.CHI_PARA: 0 * head[keys.CHI_PARA], keys.CHI_DIA: 0 * head[keys.CHI_DIA]}
        background = scanner().total_field(maps)[0]
        curvature = sum(background.roll(s, a) - background for a in range(3) for s in (1, -1)) / 6
        inner = radius_mm(brain[keys.MASK].shape[1:], (2.0, 2.0, 2.0)) < 24
        curvatures.append(float(curvature[head[keys.MASK][0] > 0][inner[brain[keys.MASK][0] > 0]].norm()))
    assert curvatures[0] < 0.2 * curvatures[1]


def test_total_field_is_that_of_brain_and_background(
    head: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]
) -> None:
    without = {**head, keys.CHI_PARA: 0 * head[keys.CHI_PARA], keys.CHI_DIA: 0 * head[keys.CHI_DIA]}
    mask = head[keys.MASK] > 0
    difference = (scanner(shim=False).total_field(head) - scanner(shim=False).total_field(without))[mask]
    local = exact[keys.LOCAL_FIELD][mask]
    # The local field comes from a box of its own, in which the copies of the periodic convolution are elsewhere
    assert (difference - (local - local.mean())).norm() < 0.02 * local.norm()
    assert (difference + (local - local.mean())).norm() > 1.9 * local.norm()


def test_the_shim_takes_out_what_least_squares_fits(head: dict[str, torch.Tensor]) -> None:
    mask = head[keys.MASK][0] > 0
    plain = scanner(shim=False).total_field(head)[0]
    assert plain[mask].mean().abs() < 1e-5
    x, y, z = (mask.nonzero().double().numpy() * 3.0 - 100).T / 30
    terms = np.stack([np.ones_like(x), x, y, z, x * x - y * y, y * y - z * z, x * y, y * z, z * x], axis=1)
    values = plain[mask].double().numpy()
    expected = values - terms @ np.linalg.lstsq(terms, values, rcond=None)[0]
    shimmed = scanner().total_field(head)[0][mask].double().numpy()
    np.testing.assert_allclose(shimmed, expected, atol=1e-5)
    assert shimmed.std() < 0.7 * values.std()


def test_harmonics_are_their_own_shim_and_others_are_not() -> None:
    size = torch.tensor([1.0, 1.5, 2.0])
    x, y, z = torch.meshgrid(
        *[v * torch.arange(n).double() for n, v in zip((9, 7, 8), size, strict=True)], indexing="ij"
    )
    mask = (torch.rand(1, 9, 7, 8, generator=seeded()) > 0.4).double()
    harmonic = (3 + x - 0.5 * y * z + 0.2 * (2 * z * z - x * x - y * y))[None]
    torch.testing.assert_close(fit_shim(harmonic, mask, size, order=2), harmonic)
    assert (fit_shim(harmonic, mask, size, order=1) - harmonic).abs().max() > 0.1
    radius = (x * x + y * y + z * z)[None]  # no field of anything outside
    assert (fit_shim(radius, mask, size, order=2) - radius).abs().max() > 1


@pytest.mark.parametrize("sign", [1, -1])
def test_echoes_obey_the_signal_equation(head: dict[str, torch.Tensor], sign: int) -> None:
    maps = scanner(sign=sign)(head, snr=None, generator=seeded())
    echoes = torch.polar(maps[keys.MAGNITUDE], maps[keys.PHASE])
    signal = head[keys.PROTON_DENSITY][0] > 0
    r2star = (head[keys.R2] + 137 * (head[keys.CHI_PARA] + head[keys.CHI_DIA]))[0]
    for first, second in ((0, 1), (1, 2)):
        step = ECHO_TIMES_S[second] - ECHO_TIMES_S[first]
        angle = sign * RAD_PER_S_PPM * step * maps[keys.TOTAL_FIELD][0]
        expected = torch.polar((-step * r2star).exp(), angle)
        ratio = echoes[second] / echoes[first]
        torch.testing.assert_close(ratio[signal], expected[signal], rtol=1e-3, atol=1e-3)
        assert (ratio - expected.conj())[signal].abs().mean() > 0.1  # the sign matters
    spin = maps[keys.SPIN_ECHO][1] / maps[keys.SPIN_ECHO][0]
    torch.testing.assert_close(spin[signal], (-0.03 * head[keys.R2][0]).exp()[signal], rtol=1e-4, atol=1e-4)
    assert maps[keys.PHASE].abs().max() <= math.pi


def test_the_first_echo_has_the_coil_in_it(head: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> None:
    sensitivity, offset_rad = draw_coil(head[keys.MASK], head[HEAD_MASK], generator=seeded())
    inside = head[keys.PROTON_DENSITY][0] > 0
    rate = exact[keys.R2STAR] + head[keys.R2] * (head[keys.MASK] == 0)
    magnitude = sensitivity * head[keys.PROTON_DENSITY] * (-ECHO_TIMES_S[0] * rate).exp()
    torch.testing.assert_close(exact[keys.MAGNITUDE][0][inside], magnitude[0][inside], rtol=1e-4, atol=1e-5)
    angle = offset_rad + RAD_PER_S_PPM * ECHO_TIMES_S[0] * exact[keys.TOTAL_FIELD]
    turns = (exact[keys.PHASE][0] - angle[0])[inside] / (2 * math.pi)
    assert (turns - turns.round()).abs().max() < 1e-4
    assert turns.round().unique().numel() > 1  # it is wrapped


def test_coil_is_smooth_and_as_strong_as_it_says(head: dict[str, torch.Tensor]) -> None:
    inside = head[HEAD_MASK] > 0
    for seed in range(3):
        sensitivity, offset_rad = draw_coil(head[keys.MASK], head[HEAD_MASK], generator=seeded(seed))
        assert float(sensitivity[inside].max() / sensitivity[inside].min()) == pytest.approx(2.0, rel=1e-4)
        assert float(sensitivity[head[keys.MASK] > 0].mean()) == pytest.approx(1.0, rel=1e-4)
        assert float(offset_rad[inside].max()) == pytest.approx(2.0, abs=1e-4)
        assert float(offset_rad[inside].min()) == pytest.approx(-2.0, abs=1e-4)
        for axis in (1, 2, 3):
            step = offset_rad.diff(dim=axis)[inside.narrow(axis, 1, inside.shape[axis] - 1)]
            assert step.abs().max() < 0.6  # rad in 3 mm


def test_truth_is_that_of_the_brain_alone(head: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> None:
    brain = ball_brain()
    expected = Acquisition().exact(brain)
    for key in (keys.LOCAL_FIELD, keys.R2PRIME, keys.R2STAR):
        found, wanted = (m[key][m[keys.MASK] > 0] for m in (exact, expected))
        assert (found - wanted).norm() < 0.02 * wanted.norm(), key
        assert not exact[key][head[keys.MASK] == 0].any()


def test_noise_is_that_of_the_snr(head: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> None:
    noisy = scanner()(head, snr=50, generator=seeded())
    air, brain = head[HEAD_MASK][0] == 0, head[keys.MASK][0] > 0
    for key in (keys.MAGNITUDE, keys.SPIN_ECHO):
        assert float(noisy[key][:, air].mean()) == pytest.approx(math.sqrt(math.pi / 2) / 50, rel=0.02)  # Rayleigh
        assert float((noisy[key] - exact[key])[:, brain].std()) == pytest.approx(1 / 50, rel=0.05)
    again = scanner()(head, snr=50, generator=seeded())
    assert torch.equal(noisy[keys.PHASE], again[keys.PHASE])
    assert not torch.equal(noisy[keys.PHASE], scanner()(head, snr=50, generator=seeded(1))[keys.PHASE])


def test_dephasing_is_the_mean_over_the_voxel() -> None:
    """Against the sum over many points of a voxel in a field with a constant slope."""
    slope_ppm = torch.tensor([0.05, -0.12, 0.3])
    x, y, z = torch.meshgrid(*[torch.arange(6.0)] * 3, indexing="ij")
    field = (slope_ppm[0] * x + slope_ppm[1] * y + slope_ppm[2] * z)[None]
    within = (torch.arange(200) + 0.5) / 200 - 0.5
    for t in (0.005, 0.020):
        means = [torch.polar(torch.ones(200), RAD_PER_S_PPM * t * s * within).mean().abs() for s in slope_ppm]
        expected = means[0] * means[1] * means[2]
        torch.testing.assert_close(
            dephasing(field, t, 3.0), torch.full_like(field, float(expected)), rtol=1e-3, atol=1e-4
        )
        assert not torch.allclose(dephasing(field, t, 1.5), torch.full_like(field, float(expected)), atol=1e-3)


def test_dephasing_weakens_magnitudes_only(head: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> None:
    weaker = scanner(dephasing=True)(head, snr=None, generator=seeded())
    inside = (head[keys.PROTON_DENSITY] > 0).expand_as(weaker[keys.MAGNITUDE])
    share = weaker[keys.MAGNITUDE][inside] / exact[keys.MAGNITUDE][inside]
    assert share.max() < 1.0001 and share.min() < 0.9
    torch.testing.assert_close(weaker[keys.SPIN_ECHO], exact[keys.SPIN_ECHO])


def test_errors_say_what_was_expected(head: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="sign must be"):
        RawAcquisition(sign=0)
    with pytest.raises(ValueError, match="snr must be positive"):
        scanner()(head, snr=-5.0, generator=seeded())
