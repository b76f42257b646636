"""`papers`: what is published about QSMnet and chi-sepnet, measured on simulated heads.

Results of every head and pipeline are kept in the output folder, so that an interrupted run goes on where it stopped,
and weights that have changed or come new are measured alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from custom_transforms.options import choose_device
from custom_transforms.output import write_json
from custom_transforms.provenance import versions
from custom_transforms.reproduce.papers_page import write_page
from custom_transforms.reproduce.papers_pipelines import (
    MeasuredHead,
    Pipeline,
    closed_form_pipeline,
    cosmos_pipeline,
    susceptibility_pipeline,
    tikhonov_pipeline,
    truth_pipeline,
    variant_pipeline,
)
from custom_transforms.reproduce.papers_studies import (
    Heads,
    Study,
    measure_bleeds,
    measure_ms_lesions,
    measure_qsm,
    measure_sources,
)
from custom_transforms.reproduce.papers_tables import Results
from custom_transforms.variants import LoadedVariant, load_variant

QSM_VARIANTS = ("qsmnet", "qsmnet_plus", "tkd", "medi")
SOURCE_VARIANTS = (
    "chi_sepnet_r2prime",
    "chi_sepnet_r2star",
    "chi_sepnet_r2star_end_to_end",
    "unrolled",
    "unrolled_r2star",
    "chi_separation",
)


def papers(
    *,
    output: str,
    subjects: int = 3,
    orientations: int = 6,
    ms_subjects: int = 10,
    ms_lesions: int = 25,
    bleeds: int = 12,
    voxel_size: float = 1.0,
    snr: float = 100.0,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Compare QSMnet and chi-sepnet with other methods on simulated heads, and write tables, figures and papers.md.

    Args:
        output: folder for the page, its tables and figures, and the results of every head, which are not made again.
        subjects: heads of each study but that of MS lesions.
        orientations: of each head in the study of QSM, 3 or more.
        ms_subjects: heads with MS lesions.
        ms_lesions: in each of them; 10 heads of 25 are as many lesions as published.
        bleeds: haemorrhages and microbleeds in each head of their studies.
        voxel_size: isotropic, mm.
        snr: signal of white matter at echo time 0 over the noise SD of one channel.
        seed: the same seed gives the same heads.
        device: auto, cpu, cuda, cuda:1 and so on.
    """
    device = str(choose_device(device))
    folder = Path(output)
    variants = load_variants(device)

    def heads(number: int, count: int, **options: int) -> Heads:
        return Heads(count, (seed, number), voxel_size, snr, **options)

    sources = [variant_pipeline(name, variants[name]) for name in SOURCE_VARIANTS if name in variants]
    sources.append(closed_form_pipeline())
    totals = [susceptibility_pipeline(name, variants[name]) for name in QSM_VARIANTS if name in variants]
    totals.append(tikhonov_pipeline())
    with_ms = heads(3, ms_subjects, ms_lesions=ms_lesions)
    studies = [
        Study("qsm", heads(1, subjects, orientations=orientations), [*totals, cosmos_pipeline()], measure_qsm),
        Study("sources", heads(2, subjects), sources, measure_sources),
        Study("ms_lesions", with_ms, [truth_pipeline(), *sources], measure_ms_lesions),
        Study("haemorrhages", heads(4, subjects, lesions=2 * bleeds), [*totals, *sources], measure_bleeds),
        Study("microbleeds", heads(5, subjects, microbleeds=bleeds), [*totals, *sources], measure_bleeds),
    ]
    results = run_studies(studies, folder / "heads", device)
    missing = [name for name in (*QSM_VARIANTS, *SOURCE_VARIANTS) if name not in variants]
    write_page(folder, results, {study.name: study.heads for study in studies}, missing=missing)
    print(f"page, tables and figures in {folder}")


def load_variants(device: str) -> dict[str, LoadedVariant]:
    """Load the variants that have weights."""
    loaded = {}
    for name in (*QSM_VARIANTS, *SOURCE_VARIANTS):
        try:
            loaded[name] = load_variant(name, device=device)
        except FileNotFoundError as error:
            print(f"{name} is left out: {error}")
    return loaded


def run_studies(studies: list[Study], folder: Path, device: str) -> Results:
    """Measure every head of every study by each of its pipelines.

    Args:
        studies: what to do.
        folder: where the results of each are kept.
        device: where the heads are made.

    Returns:
        For each study and pipeline a list of what was measured, one entry a head.
    """
    results: Results = {}
    count = sum(study.heads.count * len(study.pipelines) for study in studies)
    with tqdm(total=count, unit="map", disable=None) as bar:
        for study in studies:
            results[study.name] = {pipeline.name: [] for pipeline in study.pipelines}
            for index in range(study.heads.count):
                head = cache(partial(study.heads.make, index, device))  # made when the first pipeline needs it
                for pipeline in study.pipelines:
                    bar.set_description(f"{study.name}, head {index + 1}: {pipeline.name}")
                    measured = kept(folder, study.settings(index, pipeline), partial(_measure, study, pipeline, head))
                    results[study.name][pipeline.name].append(measured)
                    bar.update()
    return results


def _measure(study: Study, pipeline: Pipeline, head: Callable[[], MeasuredHead]) -> dict[str, Any]:
    return study.measure(head(), pipeline.reconstruct(head()))


def kept(folder: Path, settings: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Read a result that was made with the same settings and the same version of this project, or make and keep it."""
    settings = {**settings, "chisep": versions()["chisep"]}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    name = f"{settings['study']}-{settings['head'] + 1:02d}-{settings['pipeline'].replace(' ', '_')}-{digest}.json"
    if not (folder / name).is_file():
        write_json(folder / f"{name}.part", {"settings": settings, "result": compute()})
        os.replace(folder / f"{name}.part", folder / name)
    result: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))["result"]
    return result
