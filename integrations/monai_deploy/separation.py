"""What the operators do, as plain functions: a folder of maps to the image of a method, and that to the two sources.

They take what they need from a packed bundle: its configs, its TorchScript file, and the package that lies in its root.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from torch import Tensor

from custom_transforms import keys
from custom_transforms.checks import InputError, check_maps, read_map, user_input
from custom_transforms.output import save_map, staged_folder
from custom_transforms.physics import relaxivity_at

SETTINGS_FILE = "settings.json"
SUFFIXES = (".nii.gz", ".nii")
WORDS = {"ppm", "hz", "rad", "per_s", "per_ms", "none", "csf", "brain"}
NUMBERS = {"field_sign", "echo_time_s", "b0_tesla", "relaxivity_para_per_s_ppm", "relaxivity_dia_per_s_ppm"}
CHOICES = {"field_unit", "rate_unit", "reference"}


@dataclass(frozen=True)
class Case:
    """A case that is ready for a method.

    Attributes:
        image: (3, X, Y, Z); see :mod:`custom_transforms.keys`.
        mask: (1, X, Y, Z), 0 or 1.
        settings: what was asked for.
    """

    image: MetaTensor
    mask: MetaTensor
    settings: dict[str, Any]


def read_settings(folder: Path) -> dict[str, Any]:
    """Read settings.json of a folder: numbers and words under the names of inference.json; nothing else is let in.

    Raises:
        InputError: it is no JSON object, or has an unknown name or value.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON; correct it") from error
    if not isinstance(settings, dict) or settings.keys() - NUMBERS - CHOICES:
        raise InputError(f"{path} must hold an object with names among {', '.join(sorted(NUMBERS | CHOICES))}")
    for name, value in settings.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number if name in NUMBERS else isinstance(value, str) and value in WORDS):
            raise InputError(f"{path}: {name} must be {'a number' if name in NUMBERS else 'a unit or reference'}")
    return settings


def bundle_config(pack: Path, settings: Mapping[str, Any]) -> ConfigParser:
    """Give inference.json of a pack, with settings; relaxivities follow the field strength unless they are given."""
    config = ConfigParser(ConfigParser.load_config_file(pack / "configs" / "inference.json"))
    config.update({"bundle_root": str(pack), "datalist": [], "weights": False, "device": "cpu"})
    dr = relaxivity_at(float(settings.get("b0_tesla", 3.0)))
    config.update({"relaxivity_para_per_s_ppm": dr, "relaxivity_dia_per_s_ppm": dr, **settings})
    return config


def find_maps(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Find the files of maps, NAME.nii.gz or NAME.nii.

    Raises:
        FileNotFoundError: one is missing.
    """
    found = {}
    for name in names:
        paths = [path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()]
        if not paths:
            raise FileNotFoundError(f"there is no {name}.nii.gz in {folder}; it needs {', '.join(names)}")
        found[name] = str(paths[0])
    return found


def read_case(folder: Path, pack: Path) -> Case:
    """Read, check and scale the maps of a case, as the bundle does.

    Raises:
        InputError: a map or a setting cannot be used.
        FileNotFoundError: a map is missing.
    """
    settings = read_settings(folder)
    with user_input():
        config = bundle_config(pack, settings)
    files = find_maps(folder, config.get_parsed_content("maps"))
    check_maps({name: read_map(name, path) for name, path in files.items()})
    data = config.get_parsed_content("preprocessing")(files)
    return Case(data[keys.IMAGE], data[keys.MASK], settings)


def separate(case: Case, pack: Path, device: torch.device) -> dict[str, MetaTensor]:
    """Run the TorchScript file of a pack with the geometry of the case.

    Returns:
        chi_para, chi_dia and chi_total, each (1, X, Y, Z) float32 in ppm on the CPU.
    """
    network = torch.jit.load(str(pack / "models" / "model.ts"), map_location=device).eval()
    config = bundle_config(pack, case.settings)
    with torch.inference_mode():
        pred = config.get_parsed_content("inferer")(case.image[None].to(device), network)[0].cpu()
    data: dict[str, Any] = {keys.PRED: pred, keys.MASK: case.mask}
    for index in (0, 1):  # reference and split; what follows in the config saves files under names of its own
        data = config.get_parsed_content(f"postprocessing#transforms#{index}")(data)
    return {name: data[name] for name in (keys.CHI_PARA, keys.CHI_DIA, keys.CHI_TOTAL)}


def write_maps(maps: Mapping[str, Tensor], affine: Tensor, folder: Path, series: Path | None = None) -> None:
    """Write maps as NAME.nii.gz, float32, and as parametric maps NAME.dcm if there is a series; all of them or none.

    Args:
        maps: (1, X, Y, Z) each, ppm.
        affine: (4, 4), RAS+ in mm.
        folder: made if need be.
        series: folder of a DICOM series of the same study; highdicom must be installed for that.

    Raises:
        InputError: no single series is there.
    """
    with staged_folder(folder) as stage:
        for name, values in maps.items():
            save_map(stage / f"{name}.nii.gz", torch.as_tensor(values), affine)
        if series is not None:
            from parametric_map import parametric_map, read_series

            headers = read_series(series)
            for name, values in maps.items():
                array = torch.as_tensor(values)[0].numpy()
                parametric_map(name, array, affine.numpy(), headers).save_as(stage / f"{name}.dcm")
