"""The options of `chisep reconstruct`: the choice of variant, relaxivities and device, and what is refused of them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from custom_transforms import keys
from custom_transforms.checks import RATE_NAMES, InputError, user_input
from custom_transforms.networks import ChiSepNet
from custom_transforms.physics import relaxivity_at, relaxivity_weights
from custom_transforms.plausibility import implausible
from custom_transforms.provenance import describe_weights
from custom_transforms.transforms.field import FieldUnit
from custom_transforms.transforms.reference import Reference
from custom_transforms.transforms.relaxometry import RateUnit
from custom_transforms.variants import (
    DEFAULT,
    gives_uncertainty,
    inference_config,
    inverts_dipole,
    is_learned,
    takes_magnitude,
    variant_names,
    variant_path,
)

ALL = "all"
DEFAULT_VARIANTS = {keys.R2PRIME: DEFAULT, keys.R2STAR: "unrolled_r2star"}


@dataclass(frozen=True)
class Settings:
    """What inference.json is told, under its own names.

    Args:
        field_unit: unit of the local field.
        field_sign: +1 if it grows with the field, -1 if it falls.
        echo_time_s: echo time in s of a field in rad.
        rate_unit: unit of R2' or R2*.
        b0_tesla: main field in T.
        relaxivity_para_per_s_ppm: Dr of paramagnetic sources in 1/s/ppm.
        relaxivity_dia_per_s_ppm: Dr of diamagnetic sources in 1/s/ppm.
        b0_direction: (3,) in voxel axes of the stored maps, or None for that of the affine.
        reference: zero of chi_total.
    """

    field_unit: FieldUnit
    field_sign: int
    echo_time_s: float | None
    rate_unit: RateUnit
    b0_tesla: float
    relaxivity_para_per_s_ppm: float
    relaxivity_dia_per_s_ppm: float
    b0_direction: list[float] | None
    reference: Reference


def _variants_for(rate: str) -> str:
    """List the variants that take R2' or R2*."""
    names = [name for name in variant_names() if inference_config(name)["rate"] == rate]
    return ", ".join(names[:-1]) + f" or {names[-1]}"


def choose_variant(variant: str | None, rates: Collection[str]) -> str:
    """Give the name of the variant for the maps at hand.

    Args:
        variant: its name, or None for the default: unrolled for R2', unrolled_r2star for R2*.
        rates: keys of the maps that are given, r2prime or r2star; none for dipole inversion alone.

    Raises:
        InputError: no such variant, or it takes another map, or not exactly one map is given.
    """
    if variant is None:
        if len(rates) == 1:
            return DEFAULT_VARIANTS[next(iter(rates))]
        choices = "; ".join(f"--{rate} is for --variant {_variants_for(rate)}" for rate in RATE_NAMES)
        raise InputError(f"give --r2prime or --r2star, got {'both' if rates else 'neither'}; {choices}")
    with user_input():
        variant_path(variant)
    taken = str(inference_config(variant)["rate"])
    if set(rates) == {taken} or (not rates and inverts_dipole(variant)):
        return variant
    message = f"--variant {variant} takes {RATE_NAMES[taken]}: give --{taken} alone"
    others = [f"for {RATE_NAMES[rate]} use --variant {_variants_for(rate)}" for rate in rates if rate != taken]
    raise InputError("; ".join([message, *others]))


def choose_variants(names: str) -> tuple[list[str], list[str]]:
    """Give the variants to run, and those that are left out as they have no weights.

    Args:
        names: with commas between them, or "all".

    Raises:
        InputError: there is no such variant.
        FileNotFoundError: one that is named has no weights.
    """
    chosen = variant_names() if names == ALL else list(dict.fromkeys(names.replace(" ", "").split(",")))
    usable, left_out = [], []
    for name in chosen:
        with user_input():
            config = inference_config(name)
        try:
            describe_weights(config)
            usable.append(name)
        except FileNotFoundError:
            if names != ALL:
                raise
            left_out.append(name)
    return usable, left_out


def check_magnitude(variant: str, *, given: bool) -> None:
    """Refuse a magnitude for a method that has no use for it."""
    if not given or takes_magnitude(variant):
        return
    names = [name for name in variant_names() if not is_learned(name) and takes_magnitude(name)]
    raise InputError(
        f"--variant {variant} has no use for --magnitude: leave it out, or use --variant "
        f"{', '.join(names[:-1])} or {names[-1]}"
    )


def check_uncertainty(variant: str, rates: Collection[str]) -> None:
    """Refuse standard deviations of a variant that has no head for them, or of chi_total alone."""
    if not rates:
        raise InputError("--uncertainty is for chi_para and chi_dia: give --r2prime too, or leave out --uncertainty")
    if not gives_uncertainty(variant):
        names = [name for name in variant_names() if gives_uncertainty(name)]
        remedy = f"use --variant {' or '.join(names)}" if names else "train one with configs/train_uncertainty.json"
        raise InputError(f"--variant {variant} has no head for --uncertainty: leave it out, or {remedy}")


def check_plausible(maps: Mapping[str, MetaTensor], settings: Settings, *, force: bool) -> list[str]:
    """Refuse maps that do not fit their settings, or, if forced, give the findings; see :func:`implausible`.

    Raises:
        InputError: there is a finding.
    """
    findings = implausible(
        maps,
        field_unit=settings.field_unit,
        rate_unit=settings.rate_unit,
        b0_tesla=settings.b0_tesla,
        echo_time_s=settings.echo_time_s,
        relaxivities_per_s_ppm=(settings.relaxivity_para_per_s_ppm, settings.relaxivity_dia_per_s_ppm),
    )
    if findings and not force:
        raise InputError(f"{findings[0]}; or --force to go on as it is")
    return findings


def refuse_two_relaxivities(config: ConfigParser) -> None:
    """Refuse two relaxivities for a network that learnt a single one."""
    if config["relaxivity_para_per_s_ppm"] == config["relaxivity_dia_per_s_ppm"]:
        return
    if any(isinstance(module, ChiSepNet) for module in config.get_parsed_content("network").modules()):
        raise InputError(
            f"--variant {config['variant']} learnt a single relaxivity; give --relaxivity instead of --relaxivity_para "
            f"and --relaxivity_dia, or use --variant {DEFAULT_VARIANTS[config['rate']]}"
        )


def choose_relaxivities(
    single: float | None, para: float | None, dia: float | None, b0_tesla: float
) -> tuple[float, float]:
    """Give Dr of both sources in 1/s/ppm at the field strength."""
    if (para is None) != (dia is None):
        raise InputError("--relaxivity_para and --relaxivity_dia belong together; give both, or --relaxivity alone")
    if single is not None and para is not None:
        raise InputError("--relaxivity stands for both sources; leave out it, or the two others")
    default = relaxivity_at(b0_tesla) if single is None else single
    para, dia = (default, default) if para is None or dia is None else (para, dia)
    with user_input():
        relaxivity_weights(para, dia)
    return para, dia


def choose_device(name: str) -> torch.device:
    """Give the device of a name: auto takes a GPU if there is one.

    Raises:
        InputError: no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device: there is no device {name!r}; give auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device: {name} is not supported; give auto, cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device: {name} is not available here; give auto or cpu")
    return device
