"""The page of the papers: every number on it comes from the results it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from custom_transforms.phantom.lesions import LESIONS, MICROBLEEDS
from custom_transforms.phantom.ms_lesions import RADIUS_MM as MS_RADIUS_MM
from custom_transforms.reproduce.papers_figures import (
    save_agreement_figure,
    save_bars_figure,
    save_bleeds_figure,
    save_orientation_figure,
)
from custom_transforms.reproduce.papers_studies import ORIENTATION_SD, SOURCES, Heads
from custom_transforms.reproduce.papers_tables import (
    MAPS,
    Results,
    Table,
    agreement_table,
    bleed_table,
    qsm_table,
    reading_table,
    source_table,
)

PAIRS = (("chi_sepnet_r2prime", "chi_sepnet_r2star"), ("unrolled", "unrolled_r2star"))
PUBLISHED_AGREEMENT = {"chi_para": 99.6, "chi_dia": 98.4}  # percent of 250 lesions, Kim 2025
NRMSE = "NRMSE, %"


def write_page(folder: Path, results: Results, heads: Mapping[str, Heads], *, missing: Sequence[str]) -> None:
    """Write papers.md, and its tables (CSV) and figures beside it.

    Args:
        folder: where they go.
        results: of all studies.
        heads: of each study.
        missing: variants that were not measured, as they have no weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with_truth = [("truth", method) for method in results["ms_lesions"] if method != "truth"]
    tables = {
        "qsm": qsm_table(results),
        "sources": source_table(results),
        "ms_agreement": agreement_table(results, [*PAIRS, *with_truth]),
        "ms_truth": reading_table(results, "truth"),
        "bleeds": bleed_table(results),
    }
    for name, table in tables.items():
        (folder / f"papers_{name}.csv").write_text(table.csv(), encoding="utf-8")
    _save_figures(folder, results, tables)
    sections = [
        _introduction(heads, missing),
        _qsm_section(tables["qsm"], heads["qsm"]),
        _source_section(tables["sources"], heads["sources"]),
        _ms_section(tables["ms_agreement"], tables["ms_truth"], heads["ms_lesions"]),
        _bleed_section(tables["bleeds"], heads["haemorrhages"]),
    ]
    (folder / "papers.md").write_text("\n".join(sections), encoding="utf-8")


def _save_figures(folder: Path, results: Results, tables: Mapping[str, Table]) -> None:
    panels = {source: [row for row in tables["sources"].rows if row[0] == source] for source in SOURCES}
    save_orientation_figure(folder / "papers_qsm.png", results)
    save_bars_figure(folder / "papers_sources.png", tables["sources"], panels, NRMSE)
    save_agreement_figure(folder / "papers_ms.png", tables["ms_agreement"], list(MAPS.values()))
    save_bleeds_figure(folder / "papers_bleeds.png", results)


def _introduction(heads: Mapping[str, Heads], missing: Sequence[str]) -> str:
    first = heads["qsm"]
    left_out = f"\nNot measured, for want of weights: {', '.join(missing)}.\n" if missing else ""
    return f"""# The two papers, checked on simulated heads

QSMnet (Yoon 2018, doi:10.1016/j.neuroimage.2018.06.030; QSMnet+, Jung 2020) and chi-sepnet (Kim 2025,
doi:10.48550/arXiv.2409.14030) beside other methods, on heads of `AnatomicalBrain` that no network has seen: voxels of
{first.voxel_size_mm:g} mm, gradient and spin echoes at SNR {first.snr:g}, fitted back. Simulated heads cannot say how
a method does in patients. Written by `chisep reproduce papers --seed {first.seed[0]}`; the tables are also
beside this page as CSV. Cells are mean ± SD.

The closed form and Tikhonov inversion get the regularisation that is best against the truth in each head; the other
conventional methods have their defaults, and the magnitude where they use it. The edges of a simulated magnitude are
exactly those of the sources, which flatters the methods that look at them.
{left_out}"""


def _qsm_section(table: Table, heads: Heads) -> str:
    return f"""## Total susceptibility: accuracy and consistency over head orientations

Heads: {heads.count}, in {heads.orientations} orientations each. All maps, the truth too, have zero mean in the mask, as
the field says nothing about it. COSMOS uses all orientations together, every other method one at a time; the networks
see each orientation resampled to a grid along B0. The SD is that over the orientations, voxel by voxel, and averaged in
the mask.

{table.markdown()}
{_least(table, NRMSE, "NRMSE")} {_least(table, ORIENTATION_SD, "SD over the orientations")}

![NRMSE of chi_total by the angle of the head](papers_qsm.png)
"""


def _source_section(table: Table, heads: Heads) -> str:
    verdicts = [_least(table, NRMSE, f"NRMSE of {source}", of=source) for source in SOURCES]
    for r2prime, r2star in PAIRS:
        nrmse = table.means(NRMSE)
        if all((source, method) in nrmse for source in SOURCES for method in (r2prime, r2star)):
            cost = [f"{nrmse[source, r2star] - nrmse[source, r2prime]:+.1f} ({source})" for source in SOURCES]
            verdicts.append(f"From {r2prime} to {r2star} the NRMSE changes by {' and '.join(cost)} points.")
    return f"""## Paramagnetic and diamagnetic susceptibility

Heads: {heads.count}, B0 along the head; cerebrospinal fluid and veins do not count, as published. The variants named
r2star get R2* in place of R2'.

{table.markdown()}
{" ".join(verdicts)}

![NRMSE of both sources](papers_sources.png)
"""


def _ms_section(agreement: Table, truth: Table, heads: Heads) -> str:
    verdicts = []
    for first, second in PAIRS:
        if (first, second) in agreement.rows:
            cells = agreement.rows[first, second]
            shares = [f"{cells[column][0]:.1f} % ({source})" for source, column in MAPS.items()]
            verdicts.append(f"{first} and {second} agree in {' and '.join(shares)} of {cells['lesions'][0]} lesions.")
    published = " and ".join(f"{share} % ({source})" for source, share in PUBLISHED_AGREEMENT.items())
    return f"""## Lesions of multiple sclerosis

Heads: {heads.count}, with {heads.ms_lesions} lesions each, of {_range(MS_RADIUS_MM, 2)} mm, in white matter, of
{len(truth.rows)} kinds in turns. A fixed rule (`custom_transforms/reproduce/ms_reading.py`) reads each source as hyper,
iso or hypo against the white matter around it, and chi_para for a paramagnetic rim. Published, for readers of
chi-sepnet-R2' and -R2* maps of 250 lesions: {published}.

What the rule reads in the true maps:

{truth.markdown()}
Share of the lesions read the same:

{agreement.markdown()}
{" ".join(verdicts)}

![Share of the lesions read the same](papers_ms.png)
"""


def _bleed_section(table: Table, heads: Heads) -> str:
    return f"""## Haemorrhages and microbleeds

Heads: {heads.count}, with {heads.lesions // 2} haemorrhages ({_range(LESIONS.chi_ppm)} ppm) and as many calcifications
each, and as many heads with {heads.lesions // 2} microbleeds ({_range(MICROBLEEDS.radius_mm, 2)} mm,
{_range(MICROBLEEDS.chi_ppm)} ppm): the line through the mean of chi_para in every lesion, or of chi_total for methods
that give nothing else. Lesions that touch count as one.

{table.markdown()}
![Lesion means](papers_bleeds.png)
"""


def _range(bounds: tuple[float, float], factor: float = 1) -> str:
    low, high = bounds
    return f"{factor * low:g} to {factor * high:g}"


def _least(table: Table, column: str, what: str, *, of: str | None = None) -> str:
    """Which row has the least mean of a column, among those that begin with `of` if that is given."""
    means = {row[-1]: value for row, value in table.means(column).items() if of in (None, row[0])}
    best = min(means, key=lambda method: means[method])
    return f"{best} has the least {what}."
