"""One scan, from its echoes to its report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from monai.utils import convert_to_tensor

from custom_transforms import keys
from custom_transforms.checks import read_map, user_input
from custom_transforms.options import choose_device, choose_variant
from custom_transforms.output import save_map, staged_folder, write_json
from custom_transforms.pipeline.derivatives import (
    RECORD,
    WORK,
    map_path,
    scan_path,
    write_sidecar,
)
from custom_transforms.pipeline.pages import write_regions, write_scan_report
from custom_transforms.pipeline.preprocess import (
    MADE,
    OWN,
    on_device,
    preprocess,
    preprocessing_config,
    require_for_separation,
    stages_of,
    write_preprocessed,
)
from custom_transforms.pipeline.progress import Progress
from custom_transforms.pipeline.run_options import RunOptions
from custom_transforms.preprocessing import RemoveBackgroundd, Stage, StageCache
from custom_transforms.provenance import describe_files, peak_memory_gib, versions
from custom_transforms.raw import RawScan, load_scan
from custom_transforms.report.html_regions import RegionRow
from custom_transforms.separation import Separation, SourceSeparation
from custom_transforms.transforms import Geometryd
from custom_transforms.transforms.geometry import voxel_size_from_affine
from custom_transforms.variants import inference_config, takes_magnitude

LONG_VOXELS = 1.5
"""Length over width from which the background is not removed again: with 0.8 x 0.8 x 2 mm the second time was worse."""


def _choose_rate(variant: str | None, files: Mapping[str, str]) -> str | None:
    """Give the rate that the separation takes: what the variant wants, else R2' before R2*."""
    there = [key for key in (keys.R2PRIME, keys.R2STAR) if key in files]
    if variant is None:
        return there[0] if there else None
    with user_input():
        wanted = str(inference_config(variant)["rate"])
    return wanted if wanted in there else None


def _separate(
    files: Mapping[str, str], options: RunOptions, b0_tesla: float, stage: Path, name: str
) -> tuple[Separation, dict[str, str]]:
    """Separate the sources, and give their maps the names of the derivative."""
    rate = _choose_rate(options.variant, files)
    variant = choose_variant(options.variant, [rate] if rate else [])
    magnitude = takes_magnitude(variant) and keys.MAGNITUDE in files
    separation = SourceSeparation(
        options.settings(b0_tesla),
        variant=variant,
        rate=rate,
        magnitude=magnitude,
        uncertainty=options.uncertainty,
        device=choose_device(options.device),
        force=options.force,
    )
    used = [keys.LOCAL_FIELD, *([rate] if rate else []), keys.MASK, *([keys.MAGNITUDE] if magnitude else [])]
    taken = {key: files[key] for key in used}
    maps, warnings = separation.check(taken)
    result = separation(taken, maps, warnings, stage)
    made = {}
    facts = {"Variant": variant, "R2Prime": result.record["r2prime"], "Weights": result.record["weights"]}
    for map_name in result.names:
        made[map_name] = str(map_path(stage, name, map_name))
        (stage / f"{map_name}.nii.gz").replace(made[map_name])
        write_sidecar(Path(made[map_name]), map_name, facts)
    return result, made


def _background(stages: Sequence[Stage]) -> Stage | None:
    """Give the stage that removes the background by PDF, if there is one."""
    removing = (stage for stage in stages if isinstance(stage.transform, RemoveBackgroundd))
    return next((stage for stage in removing if stage.settings()["method"] == "pdf"), None)


def _can_refine(stages: Sequence[Stage], provided: Collection[str], files: Mapping[str, str]) -> bool:
    """Say whether the background was removed by PDF, from voxels that are not much longer than wide."""
    if keys.LOCAL_FIELD in provided or keys.TOTAL_FIELD not in files or _background(stages) is None:
        return False
    sizes = voxel_size_from_affine(read_map(keys.MASK, files[keys.MASK]).affine)
    return float(sizes.max() / sizes.min()) < LONG_VOXELS


def _refine(
    stages: Sequence[Stage], files: Mapping[str, str], made: Mapping[str, str], options: RunOptions, b0_tesla: float
) -> None:
    """Remove the background of the total field again, given the sources that were found, and write the local field."""
    inputs = (keys.TOTAL_FIELD, keys.MASK, keys.FIELD_QUALITY, keys.MAGNITUDE, keys.R2PRIME, keys.R2STAR)
    maps: dict[Any, Any] = {key: read_map(key, files[key]) for key in inputs if key in files}
    sources = [read_map(key, made[key]) for key in (keys.CHI_PARA, keys.CHI_DIA) if key in made]
    # chi_total may have another reference; the sources themselves have the zero that their signs give
    maps[keys.CHI_TOTAL] = sources[0] - sources[1] if sources else read_map(keys.CHI_TOTAL, made[keys.CHI_TOTAL])
    maps[keys.B0_TESLA] = b0_tesla
    direction = options.preprocessing.get("b0_direction")
    data = Geometryd(keys=keys.MASK, b0_direction=direction)(on_device(maps, choose_device(options.device)))
    stage = _background(stages)
    assert stage is not None
    local = stage(data)[keys.LOCAL_FIELD]
    save_map(Path(files[keys.LOCAL_FIELD]), convert_to_tensor(local, track_meta=False).cpu(), data[keys.MASK].affine)


def process_scan(scan: RawScan, options: RunOptions, output: Path, *, bar: bool = True) -> dict[str, Any]:
    """Take a scan from its echoes to its report.

    Args:
        scan: its files.
        options: how.
        output: folder of the derivative.
        bar: draw a bar of progress where somebody watches.

    Returns:
        The record, which is also written.

    Raises:
        InputError: the scan cannot be processed; nothing of it is written but the cache.
        FileNotFoundError: a file is missing.
    """
    start = time.monotonic()
    device = choose_device(options.device)
    parser = preprocessing_config(options.preprocessing)
    stages = stages_of(parser.get_parsed_content("preprocessing"))
    again = ["background_again", "separation_again"] if options.refine else []
    last = ["separation", *again, *(["regions"] if options.regions else []), "report"]
    progress = Progress(scan.name, ["reading", *(s.name for s in stages), *last], verbose=options.verbose, bar=bar)
    work = output / WORK / scan.name
    try:
        progress.begin("reading")
        data = on_device(load_scan(scan, force=options.force), device)
        direction = options.preprocessing.get("b0_direction")
        data = preprocess(
            data,
            stages,
            provided=scan.maps,
            b0_direction=direction,
            cache=StageCache(work),
            progress=progress,
        )
        require_for_separation(data, scan.name)
        with staged_folder(output) as stage:
            files = write_preprocessed(data, stage, scan.name, scan.maps)
            b0_tesla, notes = data[keys.B0_TESLA], data[keys.NOTES]
            del data  # echoes and phases: most of the memory
            progress.begin("separation")
            separation, made = _separate(files, options, b0_tesla, stage, scan.name)
            if options.refine and _can_refine(stages, scan.maps, files):
                progress.begin("background_again")
                _refine(stages, files, made, options, b0_tesla)
                progress.begin("separation_again")
                separation, made = _separate(files, options, b0_tesla, stage, scan.name)
            warnings = list(dict.fromkeys([*notes, *separation.warnings]))
            record = _describe(scan, options, stages, separation, warnings)
            maps = {key: read_map(key, path) for key, path in {**files, **made}.items()}
            rows: list[RegionRow] = []
            regions_note = ""
            if options.regions:
                progress.begin("regions")
                rows, regions_note, doubts = write_regions(stage, scan.name, maps)
                warnings += doubts
            progress.begin("report")
            record |= {"warnings": warnings, "wall_time_s": round(time.monotonic() - start, 1)}
            record["peak_memory_gib"] = round(peak_memory_gib(), 2)
            write_scan_report(stage, scan.name, maps, record, rows, regions_note)
            write_json(scan_path(stage, scan.name, RECORD), record)
    finally:
        progress.close()
    if not options.keep_work:
        shutil.rmtree(work, ignore_errors=True)
    return record


def _describe(
    scan: RawScan, options: RunOptions, stages: Sequence[Stage], separation: Separation, warnings: Sequence[str]
) -> dict[str, Any]:
    """Give the record of a scan."""
    files = {
        f"{part}_{i + 1}": path
        for part in ("magnitude", "phase", "real", "imaginary", "spin_echo")
        for i, path in enumerate(getattr(scan, part))
    }
    return {
        "name": scan.name,
        "inputs": describe_files({**files, **scan.maps}),
        "acquisition": {
            "echo_times_s": scan.echo_times_s,
            "spin_echo_times_s": scan.spin_echo_times_s,
            "b0_tesla": scan.b0_tesla,
            "vendor": scan.vendor,
        },
        "measured": {
            "local field": OWN if keys.LOCAL_FIELD in scan.maps else MADE[keys.LOCAL_FIELD],
            "mask": OWN if keys.MASK in scan.maps else MADE[keys.MASK],
            "R2'": separation.record["r2prime"],
            "chi_para, chi_dia": f"estimated by {separation.record['variant']}",
        },
        "options": {key: value for key, value in asdict(options).items() if key not in ("verbose", "keep_work")},
        "stages": {stage.name: stage.settings() for stage in stages},
        "separation": {key: value for key, value in separation.record.items() if key not in ("versions", "warnings")},
        "versions": versions(),
        "warnings": list(warnings),
    }
