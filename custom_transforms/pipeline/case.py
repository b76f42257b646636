"""One scan, from its echoes to its report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose
from monai.utils import convert_to_tensor

from custom_transforms import keys
from custom_transforms.bundle_path import bundle_path
from custom_transforms.checks import InputError, read_map, user_input
from custom_transforms.options import Settings, choose_device, choose_relaxivities, choose_variant
from custom_transforms.output import save_map, staged_folder, write_json
from custom_transforms.pipeline.derivatives import (
    RECORD,
    TEXTS,
    WORK,
    map_path,
    scan_path,
    write_description,
    write_map,
    write_sidecar,
)
from custom_transforms.pipeline.pages import write_regions, write_scan_report
from custom_transforms.pipeline.progress import Progress
from custom_transforms.preprocessing import RemoveBackgroundd, Stage, StageCache
from custom_transforms.provenance import describe_files, peak_memory_gib, versions
from custom_transforms.raw import RawScan, find_scans, load_scan
from custom_transforms.relaxometry import combine_echoes
from custom_transforms.report.html_regions import RegionRow
from custom_transforms.separation import Separation, SourceSeparation
from custom_transforms.transforms import Geometryd
from custom_transforms.transforms.reference import Reference
from custom_transforms.variants import inference_config, takes_magnitude

_GRIDS = (keys.MAGNITUDE, keys.TOTAL_FIELD, keys.LOCAL_FIELD, keys.MASK)  # the first that is there has the geometry
_WRITTEN = (keys.TOTAL_FIELD, keys.FIELD_QUALITY, keys.LOCAL_FIELD, keys.R2STAR, keys.R2, keys.R2PRIME)
_OWN = "the user's"
_MADE = {
    keys.TOTAL_FIELD: "measured, fitted to the phase of the echoes",
    keys.LOCAL_FIELD: "measured, the background removed",
    keys.R2STAR: "measured, fitted to the gradient echoes",
    keys.R2: "measured, fitted to the spin echoes",
    keys.R2PRIME: "measured, R2* - R2",
    keys.MASK: "found in the magnitude",
}


@dataclass(frozen=True)
class RunOptions:
    """How scans are processed; it can be sent to another process.

    Args:
        preprocessing: settings of preprocess.json, under its own names.
        variant: of the separation, or None for the default of the maps at hand.
        relaxivity: Dr of both sources in 1/s/ppm, or None for the default at the field strength.
        relaxivity_para: that of paramagnetic sources alone.
        relaxivity_dia: that of diamagnetic sources alone.
        reference: zero of chi_total.
        uncertainty: write standard deviations.
        refine: remove the background and separate the sources a second time, given the sources of the first.
        regions: register the template and write a table of regions.
        device: auto, cpu, cuda, ...
        force: warn of implausible values instead of refusing them.
        keep_work: leave the cache of a scan that is done.
        verbose: write a line for each stage.
    """

    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    variant: str | None = None
    relaxivity: float | None = None
    relaxivity_para: float | None = None
    relaxivity_dia: float | None = None
    reference: Reference = "none"
    uncertainty: bool = False
    refine: bool = True
    regions: bool = True
    device: str = "auto"
    force: bool = False
    keep_work: bool = False
    verbose: bool = False

    def settings(self, b0_tesla: float) -> Settings:
        """Give the settings of the separation at a field strength."""
        para, dia = choose_relaxivities(self.relaxivity, self.relaxivity_para, self.relaxivity_dia, b0_tesla)
        direction = self.preprocessing.get("b0_direction")
        given = None if direction is None else list(direction)
        return Settings("ppm", 1, None, "per_s", b0_tesla, para, dia, given, self.reference)


def preprocessing_config(options: Mapping[str, Any]) -> ConfigParser:
    """Give preprocess.json with some of its options changed."""
    parser = ConfigParser()
    parser.read_config(bundle_path() / "configs" / "preprocess.json")
    parser.update({"bundle_root": str(bundle_path()), **options})
    return parser


def stages_of(preprocessing: Compose) -> list[Stage]:
    """Give the stages of a preprocessing."""
    return list(preprocessing.transforms)


def preprocess(
    data: Mapping[Any, Any],
    stages: Sequence[Stage],
    *,
    provided: Collection[str] = (),
    b0_direction: Sequence[float] | None = None,
    cache: StageCache | None = None,
    progress: Progress | None = None,
) -> dict[Any, Any]:
    """Run the stages that have work, in their order.

    Args:
        data: what :func:`custom_transforms.raw.load_scan` gives.
        stages: of preprocess.json.
        provided: keys of the user's own maps, which replace stages.
        b0_direction: (3,) in voxel axes, or None for that of the affine.
        cache: what the stages gave in an earlier run.
        progress: is told which stage runs.

    Returns:
        The data with what the stages write, voxel_size_mm and b0_direction.

    Raises:
        InputError: what a stage refuses.
    """
    cache = cache or StageCache(None)
    grids = [key for key in _GRIDS if key in data]
    if not grids:
        raise InputError("there is no image to start from: give magnitude and phase, or a field and a mask")
    with user_input():
        result = Geometryd(keys=grids[:1], b0_direction=b0_direction)(data)
        for stage in stages:
            if not stage.applies(result, provided):
                continue
            if progress:
                progress.begin(stage.name)
            result, restored = cache.run(stage, result)
            if progress and restored:
                progress.end("from the cache")
    return result


def _on_device(data: Mapping[Any, Any], device: torch.device) -> dict[Any, Any]:
    return {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in data.items()}


def write_preprocessed(data: Mapping[Any, Any], dataset: Path, name: str, provided: Collection[str]) -> dict[str, str]:
    """Write the maps that preprocessing made, zero outside the mask.

    Args:
        data: of :func:`preprocess`.
        dataset: folder of the derivative.
        name: of the scan.
        provided: keys of the user's own maps.

    Returns:
        The file of each map by key.
    """
    mask, files = data[keys.MASK], {}
    facts = {"B0Direction": [round(b, 6) for b in data[keys.B0_DIRECTION].tolist()], "B0Tesla": data[keys.B0_TESLA]}
    maps = {keys.MASK: mask, **{key: data[key] * mask for key in _WRITTEN if key in data}}
    if keys.MAGNITUDE in data:
        maps[keys.MAGNITUDE] = combine_echoes(data[keys.MAGNITUDE])
    for key, values in maps.items():
        origin = {"Origin": _OWN if key in provided else _MADE[key]} if key in _MADE else {}
        image = MetaTensor(convert_to_tensor(values, track_meta=False).cpu(), affine=mask.affine)
        files[key] = str(write_map(dataset, name, key, image, {**facts, **origin}))
    return files


def preprocess_folder(
    source: str | None,
    output_dir: str,
    preprocessing: Compose,
    *,
    device: torch.device,
    b0_direction: Sequence[float] | None = None,
) -> list[str]:
    """Preprocess every scan of a folder: the workflow of preprocess.json.

    Args:
        source: BIDS dataset or DICOM folder.
        output_dir: folder of the derivative, which inference.json reads as dataset_dir.
        preprocessing: the stages.
        device: where they run.
        b0_direction: (3,) in voxel axes, or None for that of the affines.

    Returns:
        The names of the scans.

    Raises:
        InputError: no source, no scans, or one that cannot be processed.
    """
    if source is None:
        raise InputError("there is no input; name a BIDS or DICOM folder with --input_dir")
    output = Path(output_dir)
    names = []
    for scan in find_scans(source, output / WORK):
        data = _on_device(load_scan(scan), device)
        cache = StageCache(output / WORK / scan.name)
        result = preprocess(data, stages_of(preprocessing), provided=scan.maps, b0_direction=b0_direction, cache=cache)
        with staged_folder(output) as stage:
            write_preprocessed(result, stage, scan.name, scan.maps)
            write_description(stage, str(source))
        names.append(scan.name)
    return names


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
    return keys.LOCAL_FIELD not in provided and keys.TOTAL_FIELD in files and _background(stages) is not None


def _refine(stages: Sequence[Stage], files: Mapping[str, str], made: Mapping[str, str], options: RunOptions) -> None:
    """Remove the background of the total field again, given the sources that were found, and write the local field."""
    inputs = (keys.TOTAL_FIELD, keys.MASK, keys.FIELD_QUALITY, keys.MAGNITUDE)
    maps: dict[Any, Any] = {key: read_map(key, files[key]) for key in inputs if key in files}
    sources = [read_map(key, made[key]) for key in (keys.CHI_PARA, keys.CHI_DIA) if key in made]
    # chi_total may have another reference; the sources themselves have the zero that their signs give
    maps[keys.CHI_TOTAL] = sources[0] - sources[1] if sources else read_map(keys.CHI_TOTAL, made[keys.CHI_TOTAL])
    direction = options.preprocessing.get("b0_direction")
    data = Geometryd(keys=keys.MASK, b0_direction=direction)(_on_device(maps, choose_device(options.device)))
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
        data = _on_device(load_scan(scan, force=options.force), device)
        direction = options.preprocessing.get("b0_direction")
        data = preprocess(
            data,
            stages,
            provided=scan.maps,
            b0_direction=direction,
            cache=StageCache(work),
            progress=progress,
        )
        _require(data, scan)
        with staged_folder(output) as stage:
            files = write_preprocessed(data, stage, scan.name, scan.maps)
            b0_tesla, notes = data[keys.B0_TESLA], data[keys.NOTES]
            del data  # echoes and phases: most of the memory
            progress.begin("separation")
            separation, made = _separate(files, options, b0_tesla, stage, scan.name)
            if options.refine and _can_refine(stages, scan.maps, files):
                progress.begin("background_again")
                _refine(stages, files, made, options)
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


def _require(data: Mapping[Any, Any], scan: RawScan) -> None:
    """Refuse data without what a separation needs."""
    needs = {
        keys.MASK: "a mask, or a magnitude to find it in",
        keys.LOCAL_FIELD: "phase and magnitude, or a field, to make the local field of",
    }
    for key, need in needs.items():
        if key not in data:
            raise InputError(f"{scan.name}: there is no {TEXTS[key].description.split(',')[0]}; give {need}")


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
            "local field": _OWN if keys.LOCAL_FIELD in scan.maps else _MADE[keys.LOCAL_FIELD],
            "mask": _OWN if keys.MASK in scan.maps else _MADE[keys.MASK],
            "R2'": separation.record["r2prime"],
            "chi_para, chi_dia": f"estimated by {separation.record['variant']}",
        },
        "options": {key: value for key, value in asdict(options).items() if key not in ("verbose", "keep_work")},
        "stages": {stage.name: stage.settings() for stage in stages},
        "separation": {key: value for key, value in separation.record.items() if key not in ("versions", "warnings")},
        "versions": versions(),
        "warnings": list(warnings),
    }
