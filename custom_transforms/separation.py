"""Source separation of a subject's files: check them, run the bundle's inference.json on them, say what was done."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from custom_transforms import keys
from custom_transforms.checks import check_maps, rate_key, read_map
from custom_transforms.inferers import AxialInferer, GeometryInferer
from custom_transforms.networks.uncertainty import INTERVALS
from custom_transforms.options import (
    Settings,
    check_magnitude,
    check_plausible,
    check_uncertainty,
    refuse_two_relaxivities,
)
from custom_transforms.plausibility import doubtful_sign, notes
from custom_transforms.provenance import (
    describe_convergence,
    describe_files,
    describe_geometry,
    describe_weights,
    peak_memory_gib,
    versions,
)
from custom_transforms.transforms.sources import SD_SUFFIX
from custom_transforms.variants import inference_config

MAPS = (keys.CHI_PARA, keys.CHI_DIA, keys.CHI_TOTAL)
SD_MAPS = tuple(f"{name}{SD_SUFFIX}" for name in MAPS[:2])
R2PRIME_SOURCE = {keys.R2PRIME: "measured", keys.R2STAR: "predicted from R2*", None: "not used"}


@dataclass(frozen=True)
class Separation:
    """What a separation gave.

    Attributes:
        names: of its maps, chi_para, chi_dia and so on, each a file NAME.nii.gz.
        record: inputs, settings, geometry, weights, versions and cost, for a JSON file.
        warnings: sentences for the user, which are in the record too.
        note: what a figure must say, or empty.
    """

    names: tuple[str, ...]
    record: dict[str, Any]
    warnings: list[str]
    note: str


def run_inference(config: ConfigParser, files: Mapping[str, str], output: Path) -> None:
    """Run the bundle's inference.json on one subject.

    Args:
        config: inference.json of a variant, with its settings.
        files: paths of local_field, r2prime or r2star, and mask.
        output: folder for chi_para, chi_dia and chi_total, and for what else the config saves.
    """
    config.update({"datalist": [dict(files)], "output_dir": str(output)})
    logging.getLogger("monai.data.image_writer").setLevel(logging.WARNING)  # it would name the temporary files
    for step in ("initialize", "run"):
        config.get_parsed_content(step)


def _read_checked(
    files: Mapping[str, str], settings: Settings, config: ConfigParser, *, force: bool
) -> tuple[dict[str, MetaTensor], list[str]]:
    """Check the maps; give them, and what to warn of."""
    maps = {key: read_map(key, path) for key, path in files.items()}
    check_maps(maps)
    findings = check_plausible(maps, settings, force=force)
    inferer: GeometryInferer = config.get_parsed_content("inferer")
    return maps, findings + notes(
        maps,
        rate_unit=settings.rate_unit,
        b0_tesla=settings.b0_tesla,
        b0_direction=settings.b0_direction,
        axial_mm=inferer.voxel_size_mm if isinstance(inferer, AxialInferer) else None,
        learned=bool(config["model_file"]),
    )


class SourceSeparation:
    """A variant with its settings, ready for the files of subjects.

    Args:
        settings: units, relaxivities, geometry.
        variant: its name.
        rate: key of the map that it gets, r2prime or r2star; None for dipole inversion alone.
        magnitude: a magnitude is given too.
        uncertainty: write standard deviations too.
        device: where it runs.
        force: warn of implausible values instead of refusing them.

    Raises:
        InputError: options that do not go together.
        FileNotFoundError: the variant has no weights.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        variant: str,
        rate: str | None,
        magnitude: bool,
        uncertainty: bool,
        device: torch.device,
        force: bool,
    ) -> None:
        if uncertainty:
            check_uncertainty(variant, () if rate is None else (rate,))
        self.settings, self.variant, self.rate = settings, variant, rate
        self.uncertainty, self.device, self.force = uncertainty, device, force
        self.config = inference_config(variant, device=device, qsm=rate is None, uncertainty=uncertainty)
        self.config.update({**asdict(settings), "magnitude": magnitude})
        self.weights = describe_weights(self.config)
        refuse_two_relaxivities(self.config)
        check_magnitude(variant, given=magnitude)

    def check(self, files: Mapping[str, str]) -> tuple[dict[str, MetaTensor], list[str]]:
        """Read and check a subject's maps.

        Args:
            files: paths by key.

        Returns:
            The maps, and what to warn of.

        Raises:
            InputError: a map cannot be used.
            FileNotFoundError: a file is missing.
        """
        return _read_checked(files, self.settings, self.config, force=self.force)

    def __call__(
        self, files: Mapping[str, str], maps: Mapping[str, MetaTensor], warnings: list[str], folder: Path
    ) -> Separation:
        """Separate.

        Args:
            files: paths by key.
            maps: of :meth:`check`.
            warnings: of :meth:`check`.
            folder: where the maps are written.
        """
        start = time.monotonic()
        record = self._describe(files, maps)
        run_inference(self.config, files, folder)
        chi_total = nib.Nifti1Image.from_filename(folder / f"{keys.CHI_TOTAL}.nii.gz").get_fdata()
        warnings = warnings + doubtful_sign(chi_total, maps)
        note = f"R2' is not measured but {R2PRIME_SOURCE[keys.R2STAR]} (variant {self.variant})"
        note = note if keys.R2STAR in files else ""
        warnings += [note] if note else []
        convergence = describe_convergence(self.config.get_parsed_content("network"))
        if convergence and not convergence["converged"]:
            warnings.append(
                f"{self.variant} has not converged after {convergence['iteration']} iterations; look at its record"
            )
        cost = {"wall_time_s": round(time.monotonic() - start, 1), "peak_memory_gib": round(peak_memory_gib(), 2)}
        names = (MAPS if rate_key(files) else MAPS[-1:]) + (SD_MAPS if self.uncertainty else ())
        return Separation(names, {**record, "convergence": convergence, "warnings": warnings, **cost}, warnings, note)

    def _describe(self, files: Mapping[str, str], maps: Mapping[str, MetaTensor]) -> dict[str, Any]:
        intervals = {f"{share:.2%}": f"± {factor:g} sd" for share, factor in INTERVALS.items()}
        return {
            "variant": self.variant,
            "r2prime": R2PRIME_SOURCE[rate_key(files)],
            "inputs": describe_files(files),
            "settings": asdict(self.settings),
            "forced": self.force,
            "geometry": describe_geometry(maps[keys.LOCAL_FIELD], self.settings.b0_direction),
            "unit": "ppm; chi_para and chi_dia are magnitudes, chi_total = chi_para - chi_dia",
            "intervals": intervals if self.uncertainty else None,
            "weights": self.weights,
            "device": str(self.device),
            "versions": versions(),
        }
