"""Unwrapping: whole turns and nothing else; the true ones in fields with several wraps, noise, holes and gaps."""

import math

import pytest
import torch
from monai.data import MetaTensor

from custom_transforms.preprocessing.unwrapping import UnwrapPhased, mask_box, unwrap_echoes, unwrap_volume, wrap

TIMES_S = (0.005, 0.011, 0.017, 0.023, 0.029)
TURN = 2 * math.pi
RAD_PER_S_PPM = TURN * 42.577 * 3.0


def coordinates(shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    axes = [torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    return x, y, z


def echoes(
    shape: tuple[int, int, int] = (48, 47, 45),
    *,
    times: tuple[float, ...] = TIMES_S,
    amplitude_ppm: float = 2.7,
    offset_rad: float = 0.0,
    snr: float = 40.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy magnitude and wrapped phase, the true phase (E, X, Y, Z) and a ball with a hole as mask.

    The field is quadratic, from -2.7 to 2.7 ppm, centred on the mask's median; veins decay with 100 1/s.
    """
    generator = torch.Generator().manual_seed(0)
    x, y, z = coordinates(shape)
    mask = ((x**2 + y**2 + z**2) < 0.9)[None]
    mask[:, 10:14, 10:14, 10:14] = False
    field = (amplitude_ppm * (2 * z**2 - 1) + 0.1 * amplitude_ppm * x * y)[None]
    rate = 15 + 25 * torch.rand((1, *shape), generator=generator, dtype=torch.float64)
    rate[:, ::7, ::5, ::6] = 100
    t = torch.tensor(times, dtype=torch.float64).reshape(-1, 1, 1, 1)
    truth = (field - field[mask].median()) * RAD_PER_S_PPM * t + offset_rad * (x + 0.7 * y**2 + z * y)
    noise = torch.randn(truth.shape, generator=generator, dtype=torch.complex128) * (math.sqrt(2) / snr)
    signal = torch.polar((1 + 0.3 * x - 0.2 * y) * (-t * rate).exp(), truth) + noise
    return signal.abs().float(), signal.angle().float(), truth, mask.float()


def wrong_turns(unwrapped: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> float:
    """Share of voxels in the mask, over all echoes, that are half a turn or more away from the truth."""
    return float(((unwrapped.double() - truth).abs() > math.pi)[:, mask[0] > 0.5].double().mean())


@pytest.mark.parametrize(
    ("times", "snr", "amplitude_ppm"),
    [
        (TIMES_S, 100.0, 2.7),
        (TIMES_S, 40.0, 2.7),
        (TIMES_S, 20.0, 2.7),
        ((0.004, 0.010, 0.022, 0.028), 40.0, 2.7),
        ((0.005, 0.015, 0.018), 40.0, 2.7),  # the shortest spacing comes last
        ((0.006, 0.020), 40.0, 1.0),
        ((0.005,), 40.0, 2.7),
    ],
)
def test_every_voxel_gets_its_turns(times: tuple[float, ...], snr: float, amplitude_ppm: float) -> None:
    magnitude, phase, truth, mask = echoes(times=times, snr=snr, amplitude_ppm=amplitude_ppm)
    unwrapped = unwrap_echoes(phase, magnitude, times, mask)
    assert wrong_turns(phase, truth, mask) > 0.1  # without unwrapping it must fail
    assert wrong_turns(unwrapped, truth, mask) < 1e-4


def test_the_result_is_the_phase_plus_whole_turns_exactly() -> None:
    magnitude, phase, _, mask = echoes()
    unwrapped = unwrap_echoes(phase, magnitude, TIMES_S, mask)
    turns = ((unwrapped - phase) / TURN).round()
    assert torch.equal(phase + TURN * turns, unwrapped)
    assert turns.unique().numel() > 5
    outside = mask[0] < 0.5
    assert torch.equal(unwrapped[:, outside], phase[:, outside])


def test_a_phase_offset_is_shared_by_all_echoes() -> None:
    """With an offset of several turns all echoes are right up to the same field of whole turns, here none."""
    magnitude, phase, truth, mask = echoes(offset_rad=4.0)
    unwrapped = unwrap_echoes(phase, magnitude, TIMES_S, mask)
    turns = ((unwrapped.double() - truth) / TURN).round()[:, mask[0] > 0.5]
    assert float((turns - turns.median()).abs().max()) == 0


@pytest.mark.parametrize("shape", [(31, 24, 1), (24, 2, 31), (9, 30, 30)])
def test_thin_volumes(shape: tuple[int, int, int]) -> None:
    i, j, k = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in shape], indexing="ij")
    truth = (0.9 * i - 1.1 * j + 0.7 * k + (i + k).cos())[None]
    mask = torch.ones_like(truth)
    unwrapped = unwrap_volume(wrap(truth), mask)
    difference = unwrapped - truth
    assert float((difference - difference.median()).abs().max()) < 1e-9


def two_pieces() -> tuple[torch.Tensor, torch.Tensor]:
    """A ramp of two turns and more, in a mask of two large pieces two voxels apart and a crumb next to the second."""
    x, y, _ = coordinates((40, 20, 20))
    truth = (12 * x + 2 * y)[None]
    mask = torch.zeros_like(truth)
    mask[:, 1:19, 2:18, 2:18] = 1
    mask[:, 21:38, 2:18, 2:18] = 1
    mask[:, 39, 3, 3] = 1
    return truth - truth[:, 10, 10, 10], mask


def test_pieces_are_referenced_across_the_shortest_gap() -> None:
    truth, mask = two_pieces()
    inside = mask > 0.5
    difference = (unwrap_volume(wrap(truth), mask) - truth)[inside]
    assert float((difference - difference.median()).abs().max()) < 1e-9
    right = inside.clone()
    right[:, :20] = False
    assert float(truth[right].median()) > math.pi  # the smallest median of each piece alone must be wrong here


def test_the_largest_piece_has_the_smallest_median() -> None:
    x, y, z = coordinates((20, 21, 18))
    truth = 5 * TURN + (8 * x + 7 * y * z)[None]
    unwrapped = unwrap_volume(wrap(truth), torch.ones_like(truth))
    assert abs(float(unwrapped.median())) <= math.pi
    assert float((truth - unwrapped - 5 * TURN).abs().max()) < 1e-9


def test_the_same_input_gives_the_same_result() -> None:
    magnitude, phase, _, mask = echoes(snr=5.0)
    first, second = (unwrap_echoes(phase, magnitude, TIMES_S, mask) for _ in range(2))
    assert torch.equal(first, second)


def test_no_signal_gives_no_nan() -> None:
    magnitude, phase, _, mask = echoes((16, 15, 14), amplitude_ppm=0.5)
    magnitude[:, 6:9, 6:9, 6:9] = 0
    assert bool(unwrap_echoes(phase, magnitude, TIMES_S, mask).isfinite().all())


def test_wrap_keeps_its_range_and_whole_turns() -> None:
    values = torch.linspace(-50, 50, 4001, dtype=torch.float64)
    wrapped = wrap(values)
    assert float(wrapped.max()) <= math.pi and float(wrapped.min()) > -math.pi
    turns = (values - wrapped) / TURN
    assert float((turns - turns.round()).abs().max()) < 1e-12
    assert wrap(torch.tensor(math.pi, dtype=torch.float64)) == math.pi


def test_the_transform_keeps_the_affine_and_its_input() -> None:
    magnitude, phase, truth, mask = echoes((24, 23, 22), amplitude_ppm=1.0)
    affine = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0])).double()
    data = {"phase": MetaTensor(phase, affine=affine), "magnitude": magnitude, "mask": mask, "echo_times_s": TIMES_S}
    result = UnwrapPhased()(data)
    assert torch.equal(result["unwrapped_phase"].affine, affine)
    assert wrong_turns(result["unwrapped_phase"].as_tensor(), truth, mask) == 0
    assert torch.equal(data["phase"].as_tensor(), phase) and "unwrapped_phase" not in data


def test_errors_say_what_was_expected() -> None:
    magnitude, phase, _, mask = echoes((12, 11, 10))
    with pytest.raises(ValueError, match="of one number, got 5, 5 and 3"):
        unwrap_echoes(phase, magnitude, TIMES_S[:3], mask)
    with pytest.raises(ValueError, match="mask is empty"):
        mask_box(torch.zeros_like(mask))


@pytest.mark.gpu
def test_cuda_gives_the_same_turns() -> None:
    magnitude, phase, _, mask = echoes()
    on_gpu = unwrap_echoes(phase.cuda(), magnitude.cuda(), TIMES_S, mask.cuda())
    difference = on_gpu.cpu() - unwrap_echoes(phase, magnitude, TIMES_S, mask)
    assert on_gpu.is_cuda and float((difference.abs() > 1).double().mean()) < 1e-5
