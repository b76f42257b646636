"""benchmarks/targets.py: its figures are those of errors that were put in, its verdicts follow from its bounds."""

import importlib.util
import json
import math
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor

import custom_transforms.simulate
from custom_transforms import keys
from custom_transforms.benchmark import verdicts
from custom_transforms.phantom import RandomShapes
from custom_transforms.phantom.brain import AFFINE
from custom_transforms.phantom.structures import REGIONS
from custom_transforms.physics import combine_sources, separate_sources
from custom_transforms.reproduce.papers_pipelines import MeasuredHead
from custom_transforms.simulate import simulate
from custom_transforms.weights import read_state_dict

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "targets.py"
SHAPE = (16, 12, 14)
Reconstruct = Callable[..., Tensor]


@pytest.fixture
def targets(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("targets", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "targets", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tissue() -> dict[str, Tensor]:
    """A small oblique phantom with regions, as the anatomical brain gives its own."""
    batch = RandomShapes(shape=(20, 24, 16))(1, torch.Generator().manual_seed(4))
    regions = torch.randint(1, 9, (1, 20, 24, 16), generator=torch.Generator().manual_seed(5))
    turned = torch.tensor([[0.8, 0.0, 0.6], [0.0, 1.0, 0.0], [-0.6, 0.0, 0.8]], dtype=torch.float64)
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = turned * torch.tensor([1.0, 1.2, 2.0])
    geometry = {keys.VOXEL_SIZE_MM: torch.tensor([1.0, 1.2, 2.0]), keys.B0_DIRECTION: turned[2].float()}
    return {name: values[0] for name, values in batch.items()} | {keys.REGIONS: regions, AFFINE: affine} | geometry


@pytest.fixture
def head() -> SimpleNamespace:
    """A head with blocks of regions, among them two lesions of either kind, and R2' with noise."""
    generator = torch.Generator().manual_seed(6)
    names = ("putamen", "thalamus", "caudate", "red_nucleus", "white_matter", "grey_matter")
    labels = torch.tensor([REGIONS[name] for name in names])
    regions = labels[torch.arange(SHAPE[0]) * len(labels) // SHAPE[0]][:, None, None].expand(SHAPE).clone()
    values = 0.02 + 0.1 * torch.rand(2, max(REGIONS.values()) + 1, generator=generator)
    truth = values[:, regions] * (1 + 0.1 * torch.rand(2, *SHAPE, generator=generator))
    for i, (kind, place) in enumerate(product(("haemorrhage", "calcification"), (2, 8))):
        box = (slice(place, place + 3), slice(6 * (i // 2) + 1, 6 * (i // 2) + 4), slice(3, 6))
        regions[box] = REGIONS[kind]
        truth[0][box], truth[1][box] = ((0.1 * place, 0.0), (0.0, 0.1 * place))[i // 2]
    mask = torch.ones(1, 1, *SHAPE)
    mask[..., -2:] = 0
    truth = mask * truth[None]
    noisy = truth.sum(dim=1, keepdim=True) + 0.01 * torch.randn(1, 1, *SHAPE, generator=generator)
    image = torch.cat([torch.zeros_like(mask), noisy, mask], dim=1)
    tissue = {keys.REGIONS: regions[None] * (mask[0] > 0)}
    return SimpleNamespace(
        truth=truth, mask=mask, tissue=tissue, image=lambda *_: SimpleNamespace(as_tensor=lambda: image)
    )


Make = Callable[..., SimpleNamespace]


@pytest.fixture
def subject(targets: ModuleType, head: SimpleNamespace) -> Make:
    """Make a subject that was measured: its maps are the truth times a factor for each condition."""

    def make(
        factor: Callable[..., float] = lambda _: 1.0, method: Reconstruct | None = None, **others: object
    ) -> object:
        conditions = [targets.Condition(tilt_deg=tilt_deg) for tilt_deg in targets.TILTS_DEG]
        conditions += [targets.THICK, targets.Condition(snr=300.0), targets.Condition(lesions=targets.LESIONS_A_HEAD)]
        called = SimpleNamespace(name="fake") if method is None else method
        kept = {condition: (head, factor(condition) * head.truth) for condition in conditions}
        return targets.Subject("sub-01", (1, 2), called, kept=kept, **others)

    return make


def closed_form(head: SimpleNamespace, *, relaxivity_factor: float) -> Tensor:
    """The physics: chi_total does not depend on Dr, the sum is inverse to it."""
    q, s = combine_sources(head.truth)
    return separate_sources(q, s / relaxivity_factor)


closed_form.name = "closed form"


def values(figures: list) -> dict[str, float]:
    return {figure.what: figure.value for figure in figures}


def test_the_truth_meets_every_target(targets: ModuleType, subject: Make) -> None:
    found = targets.measure_all(subject(method=closed_form), list(targets.TARGETS))
    figures = [figure for of_target in found for figure in of_target]
    assert {int(figure.what[0]) for figure in figures} == {1, 2, 3, 4, 5, 6}
    bounded = [figure for figure in figures if figure.bounds != verdicts.NO_BOUNDS]
    missed = [figure for figure in bounded if verdicts.verdict([figure]) != "yes"]
    # the rise of an error of zero is no number
    assert {figure.what[0] for figure in missed} == {"4"} and all(math.isnan(figure.value) for figure in missed)


def test_oracle_is_beaten_by_the_truth_but_not_by_what_was_measured(
    targets: ModuleType, subject: Make, head: SimpleNamespace
) -> None:
    assert {verdicts.verdict([figure]) for figure in targets.accuracy(subject())} == {"yes"}
    q, _ = combine_sources(head.truth)
    worse = subject()
    measured = head.image().as_tensor()[:, 1:2] + 0.002
    worse.kept[targets.AXIAL] = (head, head.mask * separate_sources(q, measured))
    figures = list(targets.accuracy(worse))
    assert [figure.bound_by[:6] for figure in figures] == ["oracle"] * 4
    assert {verdicts.verdict([figure]) for figure in figures} == {"no"}


def test_half_of_the_best_conventional_method(targets: ModuleType, subject: Make, head: SimpleNamespace) -> None:
    def conventional(name: str, with_magnitude: float, without: float) -> Reconstruct:
        def method(head: SimpleNamespace, *, magnitude: bool) -> Tensor:
            return (with_magnitude if magnitude else without) * head.truth

        method.name, method.uses_magnitude = name, with_magnitude != without
        return method

    methods = [conventional("a", 1.3, 1.3), conventional("b", 1.1, 1.4)]
    for error, expected in ((0.049, "yes"), (0.051, "no")):
        figures = list(targets.accuracy(subject(lambda _, error=error: 1 + error, conventional=methods)))[4:]
        names = ["a without magnitude", "b with magnitude", "b without magnitude"]
        assert [figure.what.split(", ")[1] for figure in figures[:3]] == names
        assert [figure.value for figure in figures[:3]] == pytest.approx([30, 10, 40], rel=1e-5)
        assert [figure.bound_by for figure in figures[3:]] == ["half of b with magnitude"] * 2
        assert {verdicts.verdict([figure]) for figure in figures[3:]} == {expected}
        assert {verdicts.verdict([figure]) for figure in figures[:3]} == {"–"}


def test_lesions_and_leakage(targets: ModuleType, subject: Make, head: SimpleNamespace) -> None:
    mixed = subject()
    with_lesions = targets.Condition(lesions=targets.LESIONS_A_HEAD)
    mixed.kept[with_lesions] = (head, 0.9 * head.truth + 0.03 * head.truth.flip(1))
    mixed.kept[targets.AXIAL] = (head, head.truth + 0.01 * head.truth.flip(1))
    figures = list(targets.lesions(mixed))
    found = values(figures)
    assert found["slope of haemorrhages"] == pytest.approx(0.9, rel=1e-5)  # the other source is zero in them
    assert found["R2 of calcifications"] == pytest.approx(1.0)
    for source in targets.SOURCES:
        assert found[f"leakage into {source}, with lesions"] == pytest.approx(0.03, rel=1e-4)
        assert found[f"leakage into {source}, without lesions"] == pytest.approx(0.01, rel=1e-4)
    missed = {figure.what.split()[0] for figure in figures if verdicts.verdict([figure]) == "no"}
    assert missed == {"slope", "leakage"}


def test_rise_of_the_error(targets: ModuleType, subject: Make) -> None:
    factors = {targets.AXIAL: 1.1, targets.OBLIQUE: 1.12, targets.THICK: 0.91}
    figures = list(targets.geometry(subject(lambda condition: factors.get(condition, 1.0))))
    assert [figure.value for figure in figures] == pytest.approx([20] * 3 + [-10] * 3, rel=1e-4)
    assert [verdicts.verdict([figure]) for figure in figures] == ["no"] * 3 + ["yes"] * 3


@pytest.mark.parametrize(("scaled", "change", "slope"), [(True, 100 / 6, 1.0), (False, 0.0, 1.2)])
def test_wrong_relaxivity(targets: ModuleType, subject: Make, scaled: bool, change: float, slope: float) -> None:
    """All maps scaled changes chi_total; no map changed leaves the sum."""

    def method(head: SimpleNamespace, *, relaxivity_factor: float) -> Tensor:
        return head.truth / (relaxivity_factor if scaled else 1.0)

    figures = list(targets.relaxivity(subject(method=method)))
    assert [figure.value for figure in figures] == pytest.approx([change, change, slope], rel=1e-5)
    assert sorted(verdicts.verdict([figure]) for figure in figures) == ["no", "yes", "–"]


def test_a_moved_zero_is_no_other_change_of_chi_total(
    targets: ModuleType, subject: Make, head: SimpleNamespace
) -> None:
    shifted = head.truth + torch.tensor([0.002, -0.001])[None, :, None, None, None]
    change, demeaned, _ = targets.relaxivity(subject(method=lambda *_, **__: shifted))
    q = (head.truth[:, :1] - head.truth[:, 1:])[head.mask > 0]
    assert change.value == pytest.approx(100 * 0.003 / float(q.square().mean().sqrt()), rel=1e-4)
    assert demeaned.value == pytest.approx(0, abs=1e-3)


def test_orientations(targets: ModuleType, subject: Make, head: SimpleNamespace) -> None:
    def peer(head: SimpleNamespace) -> Tensor:
        return head.truth

    peer.name = "peer"
    figures = list(targets.orientations(subject(lambda condition: 1 + condition.tilt_deg / 500, peers=[peer])))
    spread = float((1 + torch.tensor(targets.TILTS_DEG) / 500).std())
    for i, source in enumerate(targets.SOURCES):
        mean = float(head.truth[:, i : i + 1][head.mask > 0].mean())
        found = {figure.what: figure for figure in figures if source in figure.what}
        sd, slope, other = (found[what] for what in found)
        assert sd.value == pytest.approx(spread * mean, rel=1e-4) and sd.bound_by == "peer"
        assert other.value == 0.0 and verdicts.verdict([sd]) == "no"
        assert slope.value == pytest.approx(1 + 45 / 500, rel=1e-5) and verdicts.verdict([slope]) == "no"


def test_verdict_cell_and_aim(targets: ModuleType) -> None:
    def figures(*numbers: float, **bounds: object) -> list:
        return [verdicts.Figure("x", value, **bounds) for value in numbers]

    bound = {"bounds": (0.98, 1.02)}
    assert verdicts.verdict(figures(0.98, 1.02, **bound)) == "yes"
    assert verdicts.verdict(figures(0.97, 1.02, **bound)) == "on average"
    assert verdicts.verdict(figures(0.97, 0.97, **bound)) == "no"
    assert verdicts.verdict(figures(math.nan, 1.0, **bound)) == "no"
    assert verdicts.verdict(figures(1.0)) == "–" == verdicts.aim(figures(1.0)) == verdicts.cell([])
    assert verdicts.aim(figures(1.0, **bound)) == "0.98 to 1.02"
    assert verdicts.aim(figures(1.0, bounds=(0.95, math.inf))) == "≥ 0.95"
    assert verdicts.aim(figures(1.0, bounds=(-math.inf, 3.0), bound_by="oracle")) == "≤ oracle"
    assert verdicts.cell(figures(0.5)) == "0.5"
    assert verdicts.cell(figures(1.0, 3.0)) == "2 [1, 3]"
    pair = [verdicts.Figure("x", 1.0, (-math.inf, limit), "oracle") for limit in (2.0, 4.0)]
    assert verdicts.cell(pair) == "1 [1, 1]; bound 3"


def test_table(targets: ModuleType) -> None:
    a, b = verdicts.Figure("1. a", 1.0, (-math.inf, 2.0)), verdicts.Figure("2. b", 3.0, (-math.inf, 2.0))
    rows = verdicts.table([[a, b], [b]], [[a]]).splitlines()
    assert rows[2:] == ["| 1. a | ≤ 2 | 1 | 1 | yes |", "| 2. b | ≤ 2 | 3 [3, 3] | – | no |"]


def test_cohort_is_that_of_simulate(targets: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated = {}
    monkeypatch.setattr(
        custom_transforms.simulate,
        "write_subject",
        lambda _, name, **options: simulated.update({name: options["seeds"]}),
    )
    simulate(output=str(tmp_path / "cohort"), subjects=8)
    assert targets.cohort_seeds() == {name: simulated[name] for name in ("sub-06", "sub-07", "sub-08")}


def test_conditions_are_what_the_head_is_made_with(
    targets: ModuleType, tissue: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def brain(**options: object) -> Callable[[int], dict[str, Tensor]]:
        return lambda seed: made.append({**options, "seed": seed}) or tissue

    monkeypatch.setattr(targets, "AnatomicalBrain", brain)
    one = targets.Subject("sub-01", (7, 8), lambda head: head.truth, voxel_mm=2.0)
    axial, oblique = (one.measure(condition)[0] for condition in (targets.AXIAL, targets.OBLIQUE))
    clean, _ = one.measure(targets.Condition(snr=1e6, voxel_size_mm=(0.8, 0.8, 2.0), lesions=3))
    assert one.measure(targets.AXIAL)[0] is axial and len(made) == 3
    assert made[1] == {"voxel_size_mm": (2.0, 2.0, 2.0), "tilt_deg": 30.0, "lesions": 0, "seed": 7}
    assert made[2] == {"voxel_size_mm": (1.6, 1.6, 4.0), "tilt_deg": 0.0, "lesions": 3, "seed": 7}
    noise = [h.image(0, keys.R2PRIME)[:, 0] - clean.image(0, keys.R2PRIME)[:, 0] for h in (axial, oblique)]
    both = torch.stack([n[axial.mask[0] > 0] for n in noise])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.1


def test_method_divides_the_rate_and_takes_another_file(
    targets: ModuleType, tissue: dict[str, Tensor], tmp_path: Path
) -> None:
    cpu, head = torch.device("cpu"), MeasuredHead(tissue, orientations=1, snr=None, seed=0)
    chi, other = (targets.Method("tkd", cpu)(head, relaxivity_factor=factor) for factor in (1.0, 1.2))
    image = head.image(0, keys.R2PRIME).as_tensor()
    network = targets.Method("tkd", cpu).variant.network
    torch.testing.assert_close(chi, network(image, *head.geometry(0)), rtol=1e-4, atol=1e-6)
    image[:, 1] /= 1.2
    torch.testing.assert_close(other, network(image, *head.geometry(0)), rtol=1e-4, atol=1e-6)
    shipped = targets.Method("unrolled", cpu)
    state = {name: 0 * value for name, value in shipped.variant.network.state_dict().items()}
    torch.save(state, tmp_path / "zero.pt")
    changed = targets.Method("unrolled", cpu, str(tmp_path / "zero.pt"))
    assert not torch.allclose(changed(head), shipped(head))
    assert not any(w.any() for w in changed.variant.network.state_dict().values())
    assert any(w.any() for w in read_state_dict(SCRIPT.parents[1] / "bundle" / "models" / "model.pt").values())


def test_script(
    targets: ModuleType,
    tissue: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(targets, "AnatomicalBrain", lambda **_: lambda _: tissue)
    options = [
        "--variant",
        "closed_form",
        "--only",
        "1,4",
        "--subjects",
        "1",
        "--fresh",
        "2",
        "--device",
        "cpu",
        "--json",
    ]
    monkeypatch.setattr(sys, "argv", ["targets.py", *options, str(tmp_path / "figures.json")])
    targets.main()
    out, err = capsys.readouterr()
    rows = [line for line in out.splitlines() if line.startswith("| ")][1:]
    assert [row[2] for row in rows] == ["1"] * 2 + ["4"] * 6 and "heads: sub-06, fresh-9000, fresh-9001" in out
    assert "sub-06: SNR 300" in err and "fresh-9001: SNR 100" in err
    heads = json.loads((tmp_path / "figures.json").read_text())["heads"]
    assert list(heads) == ["sub-06", "fresh-9000", "fresh-9001"]
    first = heads["sub-06"][0]
    assert first["bounds"] == [0.95, None] and f"| {first['value']:.4g} |" in rows[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "7"], "--only takes numbers from 1 to 6"),
        (["--variant", "nonsense"], "there is no variant 'nonsense'"),
        (["--model", "absent.pt"], "no weights file absent.pt"),
    ],
)
def test_mistakes_are_one_line(
    targets: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["targets.py", *options])
    with pytest.raises(SystemExit) as stop:
        targets.main()
    assert stop.value.code == 2 and message in capsys.readouterr().err
