"""The acquisition against the model's equations, a sphere's analytic field and the Cramer-Rao bound."""

import pytest
import torch

from custom_transforms import keys
from custom_transforms.phantom.acquisition import Acquisition, GradientEchoProtocol, SpinEchoProtocol
from custom_transforms.physics import hz_per_ppm, sphere_field
from custom_transforms.relaxometry import field_sd, fit_field, fit_r2star, r2star_sd

MEASURED = (keys.LOCAL_FIELD, keys.R2PRIME, keys.R2STAR, keys.R2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def tissue() -> dict[str, torch.Tensor]:
    """A batch of two small random phantoms in a box of air."""
    shape, generator = (2, 1, 14, 12, 10), seeded()
    mask = torch.zeros(shape)
    mask[..., 2:-2, 2:-2, 2:-2] = 1

    def uniform(low: float, high: float) -> torch.Tensor:
        return mask * (low + (high - low) * torch.rand(shape, generator=generator))

    return {
        keys.CHI_PARA: uniform(0, 0.1),
        keys.CHI_DIA: uniform(0, 0.1),
        keys.R2: uniform(8, 20),
        keys.PROTON_DENSITY: uniform(0.8, 1.2),
        keys.MASK: mask,
        keys.VOXEL_SIZE_MM: torch.tensor([[1.0, 1.0, 1.0], [0.8, 1.2, 2.0]]),
        keys.B0_DIRECTION: torch.tensor([[0.0, 0.0, 1.0], [0.6, 0.0, 0.8]]),
    }


def one_of(tissue: dict[str, torch.Tensor], item: int) -> dict[str, torch.Tensor]:
    return {name: value[item] for name, value in tissue.items()}


def uniform_tissue(r2prime_per_s: float, shape: tuple[int, int, int] = (40, 40, 20)) -> dict[str, torch.Tensor]:
    """Equal sources of both signs, so that there is R2' and no field."""
    ones = torch.ones(1, 1, *shape)
    chi = r2prime_per_s / 137 / 2 * ones
    geometry = {keys.VOXEL_SIZE_MM: torch.ones(1, 3), keys.B0_DIRECTION: torch.tensor([[0.0, 0.0, 1.0]])}
    maps = {keys.CHI_PARA: chi, keys.CHI_DIA: chi, keys.R2: 8 * ones, keys.PROTON_DENSITY: ones, keys.MASK: ones}
    return maps | geometry


def test_exact_maps_follow_the_model(tissue: dict[str, torch.Tensor]) -> None:
    acquire = Acquisition(relaxivity_para_per_s_ppm=140.0, relaxivity_dia_per_s_ppm=100.0)
    maps = acquire(tissue, snr=None)
    r2prime = 140 * tissue[keys.CHI_PARA] + 100 * tissue[keys.CHI_DIA]
    torch.testing.assert_close(maps[keys.R2PRIME], r2prime)
    torch.testing.assert_close(maps[keys.R2STAR], r2prime + tissue[keys.R2])
    assert all(not maps[name][tissue[keys.MASK] == 0].any() for name in MEASURED)
    infinite = acquire(tissue, snr=float("inf"))
    assert all(torch.equal(maps[name], infinite[name]) for name in MEASURED)


def test_relaxivity_scales_with_the_main_field(tissue: dict[str, torch.Tensor]) -> None:
    at_3t, at_7t = (Acquisition(gradient_echo=GradientEchoProtocol(b0_tesla=b0)).exact(tissue) for b0 in (3.0, 7.0))
    torch.testing.assert_close(at_7t[keys.R2PRIME], at_3t[keys.R2PRIME] * 7 / 3)
    torch.testing.assert_close(at_7t[keys.LOCAL_FIELD], at_3t[keys.LOCAL_FIELD])


def test_relaxivity_weights_of_each_item_scale_its_r2prime(tissue: dict[str, torch.Tensor]) -> None:
    tissue[keys.RELAXIVITY_WEIGHTS] = torch.tensor([[1.0, 1.0], [1.2, 0.8]])
    r2prime = Acquisition().exact(tissue)[keys.R2PRIME]
    para, dia = tissue[keys.CHI_PARA], tissue[keys.CHI_DIA]
    torch.testing.assert_close(r2prime[0], 137 * (para + dia)[0])
    torch.testing.assert_close(r2prime[1], 137 * (1.2 * para + 0.8 * dia)[1])


def test_one_subject_is_one_row_of_the_batch(tissue: dict[str, torch.Tensor]) -> None:
    batch = Acquisition()(tissue, snr=None, echoes=True)
    for item in range(2):
        single = Acquisition()(one_of(tissue, item), snr=None, echoes=True)
        for name in (*MEASURED, keys.MAGNITUDE, keys.PHASE):
            torch.testing.assert_close(single[name], batch[name][item], rtol=1e-5, atol=1e-6)
    noisy = Acquisition()(one_of(tissue, 0), snr=100, generator=seeded())
    assert noisy[keys.LOCAL_FIELD].shape == tissue[keys.MASK].shape[1:]


def test_echoes_hold_the_exact_maps_and_the_sign_matters(tissue: dict[str, torch.Tensor]) -> None:
    acquire = Acquisition()
    maps = acquire(tissue, snr=None, echoes=True)
    signal, times = torch.polar(maps[keys.MAGNITUDE], maps[keys.PHASE]), acquire.gradient_echo.echo_times_s
    torch.testing.assert_close(fit_r2star(signal.abs(), times)[0], maps[keys.R2STAR], rtol=1e-4, atol=1e-3)
    field = maps[keys.LOCAL_FIELD]
    torch.testing.assert_close(fit_field(signal, times, b0_tesla=3.0), field, rtol=1e-4, atol=1e-6)
    wrong = fit_field(signal, times, b0_tesla=3.0, sign=-1)
    assert (wrong - field).norm() > 1.9 * field.norm()


def test_phase_around_a_sphere_is_the_analytic_one() -> None:
    """Through the echoes of a sphere of 0.5 ppm, oblique B0; the staircase of its surface is left out."""
    shape, centre, radius_mm = (40, 40, 40), torch.full((3,), 19.5), 7.0
    b0 = torch.tensor([0.6, 0.0, 0.8])
    geometry = {"centre_voxel": centre, "radius_mm": radius_mm, "chi_ppm": 0.5}
    expected, inside = sphere_field(shape, torch.ones(3), b0, **geometry)
    ones = torch.ones(1, *shape)
    maps = {keys.CHI_PARA: 0.5 * inside[None].float(), keys.CHI_DIA: 0 * ones, keys.R2: 10 * ones, keys.MASK: ones}
    maps |= {keys.PROTON_DENSITY: ones, keys.VOXEL_SIZE_MM: torch.ones(3), keys.B0_DIRECTION: b0}
    acquire = Acquisition(gradient_echo=GradientEchoProtocol(echo_times_s=(0.002, 0.004, 0.006)))
    echoes = acquire(maps, snr=None, echoes=True)
    signal = torch.polar(echoes[keys.MAGNITUDE], echoes[keys.PHASE])
    field = fit_field(signal, (0.002, 0.004, 0.006), b0_tesla=3.0)[0]
    axes = torch.meshgrid(*[torch.arange(40.0) - 19.5] * 3, indexing="ij")
    outside = torch.stack(axes).norm(dim=0) > radius_mm + 2.5
    assert (field - expected)[outside].norm() < 0.08 * expected[outside].norm()  # a ball of voxels is no sphere
    assert (field + expected)[outside].norm() > 1.9 * expected[outside].norm()


def test_a_field_beyond_the_unwrapping_limit_survives(tissue: dict[str, torch.Tensor]) -> None:
    tissue[keys.CHI_PARA][:, :, 7, 6, 5] = 4.0
    protocol = GradientEchoProtocol(echo_times_s=(0.005, 0.017, 0.029))
    acquire = Acquisition(gradient_echo=protocol, relaxivity_para_per_s_ppm=1.0)
    exact, noisy = acquire.exact(tissue), acquire(tissue, snr=100, generator=seeded())
    assert exact[keys.LOCAL_FIELD].abs().max() > 1.5 / (2 * 0.012 * hz_per_ppm(3.0))
    assert (noisy[keys.LOCAL_FIELD] - exact[keys.LOCAL_FIELD]).abs().max() < 0.01


@pytest.mark.parametrize("r2star", [10.0, 25.0, 50.0, 100.0])
def test_noise_of_the_fits_is_the_cramer_rao_bound(r2star: float) -> None:
    acquire, tissue = Acquisition(), uniform_tissue(r2star - 8)
    exact, found = acquire.exact(tissue), acquire(tissue, snr=100, generator=seeded(1))
    ones, noise_sd = torch.ones(1, 1, 1, 1), torch.tensor(0.01)
    times = acquire.gradient_echo.echo_times_s
    expected = {
        keys.LOCAL_FIELD: field_sd(r2star * ones, ones, times, noise_sd, b0_tesla=3.0),
        keys.R2STAR: r2star_sd(r2star * ones, ones, times, noise_sd),
        keys.R2: r2star_sd(8 * ones, ones, acquire.spin_echo.echo_times_s, noise_sd),
    }
    for name, sd in expected.items():
        assert (found[name] - exact[name]).std().item() == pytest.approx(sd.item(), rel=0.1), name
    assert found[keys.R2STAR].mean().item() == pytest.approx(r2star, rel=0.03)


def test_every_item_can_have_its_snr(tissue: dict[str, torch.Tensor]) -> None:
    acquire = Acquisition()
    exact = acquire.exact(tissue)
    noisy = acquire.measure(exact, snr=torch.tensor([float("inf"), 20.0]), generator=seeded())
    for name in MEASURED:
        error = noisy[name] - exact[name]
        torch.testing.assert_close(error[0], torch.zeros_like(error[0]), rtol=0, atol=2e-3)
        assert error[1].std() > 1e-4
        assert not noisy[name][tissue[keys.MASK] == 0].any()
    assert (noisy[keys.R2PRIME] >= 0).all()


def test_fibres_change_the_relaxivity_of_the_diamagnetic_source(tissue: dict[str, torch.Tensor]) -> None:
    tissue[keys.RELAXIVITY_DIA_FACTOR] = 0.5 * torch.ones_like(tissue[keys.MASK])
    r2prime = Acquisition().exact(tissue)[keys.R2PRIME]
    torch.testing.assert_close(r2prime, 137 * (tissue[keys.CHI_PARA] + 0.5 * tissue[keys.CHI_DIA]))


def test_a_strong_rate_is_read_too_low_where_the_signal_is_lost() -> None:
    """That is the noise floor: less where the fit is reweighted."""
    tissue = uniform_tissue(500.0)
    found = [
        Acquisition(r2star_reweightings=n)(tissue, snr=100, generator=seeded())[keys.R2STAR].mean().item()
        for n in (0, 3)
    ]
    assert found[0] < found[1] < 0.9 * 508


def test_the_same_seed_gives_the_same_measurement(tissue: dict[str, torch.Tensor]) -> None:
    first, again, other = (Acquisition()(tissue, snr=50, generator=seeded(seed)) for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in MEASURED)
    assert not any(torch.equal(first[name], other[name]) for name in MEASURED)


def test_errors_say_what_was_expected(tissue: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="snr must be positive"):
        Acquisition()(tissue, snr=0.0, generator=seeded())
    with pytest.raises(ValueError, match="Generator"):
        Acquisition()(tissue, snr=100)
    with pytest.raises(ValueError, match="m0 missing"):
        Acquisition().exact({name: tissue[name] for name in tissue if name != keys.PROTON_DENSITY})
    with pytest.raises(ValueError, match="increasing"):
        SpinEchoProtocol(echo_times_s=(0.03, 0.015))
    with pytest.raises(ValueError, match="b0_tesla"):
        GradientEchoProtocol(b0_tesla=0.0)


@pytest.mark.gpu
def test_a_gpu_gives_the_exact_maps_of_the_cpu(tissue: dict[str, torch.Tensor]) -> None:
    on_gpu = {name: value.cuda() for name, value in tissue.items()}
    expected, maps = Acquisition().exact(tissue), Acquisition().exact(on_gpu)
    for name in MEASURED:
        torch.testing.assert_close(maps[name].cpu(), expected[name], rtol=1e-4, atol=1e-5)
    noisy = Acquisition()(on_gpu, snr=100, generator=torch.Generator("cuda").manual_seed(0))
    assert noisy[keys.R2PRIME].is_cuda and noisy[keys.R2PRIME].isfinite().all()
