"""Tables hold the samples, and show what was computed from them."""

import csv
import io

import pytest

from custom_transforms.phantom.ms_lesions import ms_kind
from custom_transforms.reproduce.papers_tables import (
    Table,
    agreement_table,
    bleed_table,
    qsm_table,
    reading_table,
    readings_of,
    source_table,
)


def reading(para: str = "iso", dia: str = "iso", rim: bool = False) -> dict:
    return {"para": para, "rim": rim, "dia": dia}


MS = {
    "ms_lesions": {
        "a": [{"1": reading("hyper", rim=True), "3": reading()}, {"1": reading("hypo", "hypo")}],
        "b": [{"1": reading("hyper"), "3": reading()}, {"1": reading("hypo", "iso")}],
    }
}


def test_cells_show_mean_and_sd() -> None:
    table = Table(["method"], ["NRMSE, %", "SSIM"], {("a",): {"NRMSE, %": [10.0, 14.0], "SSIM": [0.5]}, ("b",): {}})
    assert table.markdown().splitlines() == [
        "| method | NRMSE, % | SSIM |",
        "| --- | --- | --- |",
        "| a | 12.0 ± 2.8 | 0.5000 |",
        "| b | – | – |",
    ]
    assert table.means("NRMSE, %") == {("a",): 12.0}


def test_csv_has_the_numbers() -> None:
    table = Table(["method"], ["NRMSE, %"], {("a",): {"NRMSE, %": [10.0, 14.0]}, ("b",): {}})
    rows = list(csv.reader(io.StringIO(table.csv())))
    assert rows[0] == ["method", "NRMSE, %", "NRMSE, %: SD", "NRMSE, %: samples"]
    assert [float(x) for x in rows[1][1:]] == pytest.approx([12.0, 8**0.5, 2])
    assert rows[2] == ["b", "", "", "0"]


def test_samples_are_of_all_heads() -> None:
    qsm = {"a": [{"NRMSE, %": [1.0, 2.0]}, {"NRMSE, %": [3.0, 4.0]}]}
    assert qsm_table({"qsm": qsm}).rows[("a",)]["NRMSE, %"] == [1, 2, 3, 4]
    scores = dict.fromkeys(("NRMSE, %", "PSNR, dB", "SSIM", "XSIM"), 1.0)
    sources = {"a": [{"chi_para": scores, "chi_dia": {**scores, "XSIM": value}} for value in (0.5, 0.7)]}
    assert source_table({"sources": sources}).rows["chi_dia", "a"]["XSIM"] == [0.5, 0.7]


def test_lesions_of_several_heads_keep_their_kind() -> None:
    readings = readings_of(MS, "a")
    assert len(readings) == 3
    assert [ms_kind(number) for number in readings] == [ms_kind(1), ms_kind(3), ms_kind(1)]


def test_agreement_counts_lesions_of_measured_pairs() -> None:
    table = agreement_table(MS, [("a", "b"), ("a", "c")])
    assert list(table.rows) == [("a", "b")]
    cells = table.rows["a", "b"]
    assert cells["lesions"] == [3]
    assert cells["chi_para, %"] == pytest.approx([200 / 3])  # the rim
    assert cells["chi_dia, %"] == pytest.approx([200 / 3])


def test_readings_by_kind() -> None:
    rows = reading_table(MS, "a").rows
    first = rows[(ms_kind(1),)]
    assert (first["lesions"], first["chi_para hyper"], first["chi_para hypo"], first["rim"]) == ([2], [1], [1], [1])
    assert first["chi_dia hypo"] == [1]
    assert rows[(ms_kind(2),)]["lesions"] == [0]


def test_bleeds_are_fitted_over_all_heads() -> None:
    heads = [{"truth": [0.2, 1.0], "found": [0.3, 1.1]}, {"truth": [0.6], "found": [0.7]}]
    cells = bleed_table({"haemorrhages": {"a": heads}, "microbleeds": {"a": heads[:1]}}).rows["haemorrhages", "a"]
    assert (cells["number"], *(cells[name][0] for name in ("slope", "intercept, ppm", "R2"))) == (
        [3],
        pytest.approx(1.0),
        pytest.approx(0.1),
        pytest.approx(1.0),
    )
