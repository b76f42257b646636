"""The whole run on small heads: its files are complete, and it goes on where it stopped."""

import csv
from pathlib import Path

import pytest

from custom_transforms.inferers import GeometryInferer
from custom_transforms.reproduce import papers as module
from custom_transforms.reproduce.papers_studies import Heads
from custom_transforms.variants import LoadedVariant

FILES = {
    *(f"papers_{name}.csv" for name in ("qsm", "sources", "ms_agreement", "ms_truth", "bleeds")),
    *(f"papers_{name}.png" for name in ("qsm", "sources", "ms", "bleeds")),
    "papers.md",
    "heads",
}


@pytest.fixture
def run(tmp_path: Path, make_head, scaled, monkeypatch: pytest.MonkeyPatch):
    """Run with networks by name, and give the folder and the number of heads that were made."""
    made = []

    def make(heads: Heads, index: int, device: str):
        made.append((heads.seed, index))
        return make_head(index, heads.orientations)

    def run(factors: dict[str, float], **options: int) -> tuple[Path, int]:
        def load(name: str, *, device: str) -> LoadedVariant:
            if name not in factors:
                raise FileNotFoundError(f"no weights for {name}")
            rate = "r2star" if "r2star" in name else "r2prime"
            return LoadedVariant(scaled(factors[name]), GeometryInferer(), rate)

        monkeypatch.setattr(module, "load_variant", load)
        monkeypatch.setattr(Heads, "make", make)
        made.clear()
        module.papers(output=str(tmp_path), subjects=2, ms_subjects=2, device="cpu", **options)
        return tmp_path, len(made)

    return run


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.reader(file))


def test_page_tables_and_figures(run) -> None:
    folder, _ = run({"qsmnet": 1.0, "unrolled": 1.0, "unrolled_r2star": 0.5})
    assert {path.name for path in folder.iterdir()} == FILES
    page = (folder / "papers.md").read_text()
    assert all(f"({name})" in page for name in FILES if name.endswith(".png"))
    assert "Not measured, for want of weights: qsmnet_plus, tkd, medi, chi_sepnet_r2prime" in page
    assert "unrolled and unrolled_r2star agree in" in page and "99.6 % (chi_para) and 98.4 % (chi_dia)" in page
    assert "COSMOS has the least NRMSE." in page
    methods = [row[0] for row in rows(folder / "papers_qsm.csv")[1:]]
    assert methods == ["qsmnet", "Tikhonov", "COSMOS"]
    pairs = [row[:2] for row in rows(folder / "papers_ms_agreement.csv")[1:]]
    assert pairs == [
        ["unrolled", "unrolled_r2star"],
        *(["truth", name] for name in ("unrolled", "unrolled_r2star", "closed form")),
    ]


def test_second_run_computes_nothing_and_says_the_same(run) -> None:
    folder, heads = run({"unrolled": 1.0})
    assert heads == 10  # five studies of two heads
    first = (folder / "papers.md").read_bytes()
    assert run({"unrolled": 1.0})[1] == 0
    assert (folder / "papers.md").read_bytes() == first


def test_other_weights_are_measured_anew(run) -> None:
    folder, _ = run({"unrolled": 1.0})
    before = rows(folder / "papers_sources.csv")
    count = len(list((folder / "heads").iterdir()))
    assert run({"unrolled": 0.7})[1] == 8  # in all studies but that of chi_total
    after = rows(folder / "papers_sources.csv")
    changed = [new[:2] for old, new in zip(before, after, strict=True) if old != new]
    assert changed == [["chi_para", "unrolled"]]  # its chi_dia is nothing with any weights
    assert len(list((folder / "heads").iterdir())) == count + 8


def test_interrupted_result_is_not_kept(tmp_path: Path) -> None:
    settings = {"study": "qsm", "head": 0, "pipeline": "closed form"}

    def interrupted() -> dict:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        module.kept(tmp_path, settings, interrupted)
    assert module.kept(tmp_path, settings, lambda: {"value": 1}) == {"value": 1}
    assert module.kept(tmp_path, settings, interrupted) == {"value": 1}
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]
