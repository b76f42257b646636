"""benchmarks/failures.py: every case has the error it is called by, and the figure and the table what comes of it."""

import importlib.util
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from custom_transforms import keys
from custom_transforms.phantom.brain import AFFINE
from custom_transforms.phantom.random_draws import Draws

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "failures.py"
SHAPE = (34, 31, 32)
VOXEL_SIZE_MM = (3.0, 3.0, 3.5)
WELL = "nothing wrong"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, ...]]:
    """Voxel sizes of the heads that were asked for."""
    return []


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch, asked: list[tuple[float, ...]]) -> ModuleType:
    """The script, with a ball of tissue as its head: mostly iron on the left, mostly myelin on the right."""
    spec = importlib.util.spec_from_file_location("failures", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "failures", module)  # its dataclasses look for it
    spec.loader.exec_module(module)
    axes = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in SHAPE), indexing="ij")
    mask = (torch.stack(axes).norm(dim=0) < 12).float()[None]
    generator = torch.Generator().manual_seed(2)
    values = 0.05 * torch.rand(2, *SHAPE, generator=generator)
    values *= torch.where(torch.stack([axes[0] < 0, axes[0] >= 0]), 1.0, 0.1)
    head = {
        keys.CHI_PARA: mask * values[:1],
        keys.CHI_DIA: mask * values[1:],
        keys.R2: 15 * mask,
        keys.PROTON_DENSITY: mask,
        keys.MASK: mask,
        keys.VOXEL_SIZE_MM: torch.tensor(VOXEL_SIZE_MM),
        keys.B0_DIRECTION: torch.tensor([0.0, 0.0, 1.0]),
        AFFINE: torch.diag(torch.tensor([*VOXEL_SIZE_MM, 1.0])),
    }

    def brain(*, voxel_size_mm: tuple[float, ...]) -> Callable[[int], dict[str, Tensor]]:
        asked.append(voxel_size_mm)
        return lambda _: dict(head)

    monkeypatch.setattr(module, "AnatomicalBrain", brain)
    return module


def zero(image: Tensor, *_: Tensor) -> Tensor:
    return torch.zeros_like(image[:, :2])


Measured = Callable[[str], SimpleNamespace]


@pytest.fixture
def measured(failures: ModuleType) -> Measured:
    """What the network is given in a case, and its outcome where it says that there is nothing."""

    def run(name: str) -> SimpleNamespace:
        images = []

        def network(image: Tensor, *geometry: Tensor) -> Tensor:
            images.append(image)
            assert [value.tolist() for value in geometry] == [[list(VOXEL_SIZE_MM)], [[0.0, 0.0, 1.0]]]
            return zero(image)

        outcome = failures.run(failures.CASES[name], network, voxel_mm=2.0, seed=1, device=torch.device("cpu"))
        (image,) = images
        return SimpleNamespace(field=image[:, :1], rate=image[:, 1:2], mask=image[:, 2:3] > 0, outcome=outcome)

    return run


def test_without_an_error_the_rate_is_the_sum_of_the_sources(measured: Measured) -> None:
    well = measured(WELL)
    total = well.outcome.truth.sum(dim=1, keepdim=True)
    assert abs(float((well.rate - total)[well.mask].median())) < 5e-4
    assert torch.equal(well.outcome.mask > 0, well.mask)


def test_a_low_snr_and_a_wrong_relaxivity(measured: Measured) -> None:
    well, noisy, wrong = (measured(name) for name in (WELL, "SNR 15", "Dr 40 % too low"))
    exact = well.outcome.truth.sum(dim=1, keepdim=True)
    noise = [float((case.rate - exact)[case.mask].std()) for case in (well, noisy)]
    assert noise[1] / noise[0] == pytest.approx(100 / 15, rel=0.2)  # R2' >= 0 cuts some of it off
    torch.testing.assert_close(wrong.rate, well.rate / 0.6)
    assert torch.equal(wrong.outcome.truth, well.outcome.truth)


def test_background_has_its_strength(measured: Measured) -> None:
    change = measured("strong residual background (0.01 ppm RMS)").field - measured(WELL).field
    assert float(change[measured(WELL).mask].square().mean().sqrt()) == pytest.approx(0.01, rel=0.05)


def test_mask_loses_four_voxels(measured: Measured) -> None:
    well, small = measured(WELL), measured("mask 4 voxels too small")
    # mean voxels, in which the depth is counted
    sampling = [size / math.prod(VOXEL_SIZE_MM) ** (1 / 3) for size in VOXEL_SIZE_MM]
    depth = torch.from_numpy(distance_transform_edt(well.mask[0, 0].numpy(), sampling=sampling))[None, None]
    assert float(depth[small.mask].min()) > 2.5 and float(depth[well.mask & ~small.mask].max()) < 5.5
    assert torch.equal(small.outcome.truth, small.mask * well.outcome.truth)


def test_fibres_change_the_diamagnetic_source_alone(measured: Measured) -> None:
    well, fibres = (measured(name).outcome.truth for name in (WELL, "anisotropic white matter, full"))
    assert torch.equal(fibres[:, :1], well[:, :1]) and bool((fibres[:, 1] <= well[:, 1]).all())
    assert float((well - fibres)[:, 1].max()) > 0.2 * float(well.max())


def test_motion_blurs_the_measurement(measured: Measured) -> None:
    well, moved = measured(WELL), measured("motion of 2 voxels")
    assert float(moved.rate.diff(dim=2).square().sum()) < 0.7 * float(well.rate.diff(dim=2).square().sum())
    assert torch.equal(moved.outcome.truth, well.outcome.truth)


def test_calcification_is_a_ball_at_its_place(failures: ModuleType) -> None:
    shape, size = (48, 40, 44), torch.tensor([[0.8, 1.0, 1.2]])
    mask = torch.ones(1, 1, *shape)
    maps = {name: 0.02 * mask for name in (keys.CHI_PARA, keys.CHI_DIA, keys.R2, keys.PROTON_DENSITY)}
    maps |= {keys.MASK: mask, keys.VOXEL_SIZE_MM: size}
    draws = Draws(1, torch.Generator(), torch.device("cpu"))
    ball = failures.Calcification(chi_ppm=3.3, radius_mm=6.0, offset_mm=(-4.0, 3.0, 1.0))(maps, draws)
    share = (ball[keys.CHI_DIA] - 0.02)[0, 0] / (3.3 - 0.02)
    volume_mm3 = float(share.sum() * size.prod())
    assert volume_mm3 == pytest.approx(4 / 3 * math.pi * 6**3, rel=0.02)
    assert float(ball[keys.CHI_DIA].max()) == pytest.approx(3.3) and float(share.min()) == pytest.approx(0, abs=1e-6)
    for axis, place in enumerate((-4.0, 3.0, 1.0)):
        positions = float(size[0, axis]) * (torch.arange(shape[axis]) - (shape[axis] - 1) / 2)
        profile = share.sum(dim=[other for other in range(3) if other != axis])
        assert float((positions * profile).sum() / profile.sum()) == pytest.approx(place, abs=0.02)
    assert float(ball[keys.PROTON_DENSITY].max()) == pytest.approx(0.5)
    assert float(ball[keys.R2].max()) == pytest.approx(1000 / 60)
    mask[:, :, :24] = 0
    maps |= {keys.CHI_DIA: torch.zeros_like(mask)}
    assert not failures.Calcification(chi_ppm=3.3, radius_mm=6.0)(maps, draws)[keys.CHI_DIA][mask == 0].any()


def test_calcification_of_the_case_is_in_the_head(measured: Measured) -> None:
    slices = measured("3.3 ppm calcification of 6 mm radius").outcome.slices
    assert float(slices.truth[1].max()) == pytest.approx(3.3)


def test_scores_and_slices(failures: ModuleType, measured: Measured) -> None:
    outcome = measured(WELL).outcome
    assert outcome.nrmse_percent() == pytest.approx([100, 100])
    inside = outcome.mask[0, 0] > 0
    assert outcome.bias_ppb() == pytest.approx([-1000 * float(truth[inside].mean()) for truth in outcome.truth[0]])
    level = SHAPE[2] // 2
    box = [slice(int(i.min()), int(i.max()) + 1) for i in inside.nonzero().T[:2]]
    expected = outcome.truth[0, :, *box]
    assert any(torch.equal(torch.from_numpy(outcome.slices.truth), expected[..., z]) for z in (level - 1, level))
    assert not outcome.slices.estimate.any() and outcome.slices.aspect == 1.0


def test_script(
    failures: ModuleType,
    asked: list[tuple[float, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    labels = []
    save = failures.save_failures_figure
    monkeypatch.setattr(failures, "save_failures_figure", lambda path, rows: (labels.extend(rows), save(path, rows)))
    monkeypatch.setattr(failures, "load_variant", lambda *_, **__: SimpleNamespace(network=zero))
    options = ["--device", "cpu", "--voxel_mm", "2", "--output", str(tmp_path / "failures.png")]
    monkeypatch.setattr(sys, "argv", ["failures.py", *options])
    failures.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == list(failures.CASES)
    assert all(re.search(r"\| 100\.0 / 100\.0 \| -\d+\.\d / -\d+\.\d \|$", row) for row in rows)
    assert labels == [f"{name}: NRMSE 100.0 / 100.0 %" for name in failures.CASES]
    assert (tmp_path / "failures.png").stat().st_size < 1.5e6
    assert asked == [(2.0,) * 3, (6.0,) * 3]  # all cases but one share the head
