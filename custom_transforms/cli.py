"""The command line: `chisep run`, `reconstruct`, `simulate`, `labels`, `evaluate`, `benchmark`, `reproduce` and others.

Fire builds the commands and their help from the functions' signatures, but it runs a command before it notices an
unknown option. So the arguments are checked against the signature first, and values are converted by its types.
Parameters that are not keyword-only may be given without their name, in their order: `chisep benchmark DATASET`.
"""

from __future__ import annotations

import inspect
import math
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import fire

from custom_transforms.benchmark.command import benchmark
from custom_transforms.bundle_path import bundle_path
from custom_transforms.checks import InputError
from custom_transforms.demo import demo
from custom_transforms.deploy.export import export
from custom_transforms.deploy.pack_command import pack
from custom_transforms.evaluate import evaluate
from custom_transforms.labels import labels
from custom_transforms.pipeline.command import run
from custom_transforms.provenance import versions
from custom_transforms.reconstruct import reconstruct
from custom_transforms.reproduce.papers import papers
from custom_transforms.reproduce.thesis import thesis
from custom_transforms.simulate import simulate
from custom_transforms.simulate_raw import simulate_raw

Command = Callable[..., None]


def show_bundle_path() -> None:
    """Print the folder of the bundle: its configs, weights and documentation."""
    print(bundle_path())


def show_version() -> None:
    """Print the versions of chisep and of what it computes with."""
    print(", ".join(f"{name} {version}" for name, version in versions().items()))


COMMANDS: dict[str, Command] = {
    "run": run,
    "simulate": simulate,
    "simulate-raw": simulate_raw,
    "reconstruct": reconstruct,
    "evaluate": evaluate,
    "benchmark": benchmark,
    "labels": labels,
    "export": export,
    "demo": demo,
    "pack": pack,
    "reproduce thesis": thesis,
    "reproduce papers": papers,
    "bundle-path": show_bundle_path,
    "version": show_version,
}


def parse_value(annotation: Any, text: str) -> Any:
    """Convert the text of an option by the type of its parameter.

    Args:
        annotation: str, int, float, bool, Literal of strings, tuple of floats, any number of them with an ellipsis, or
            one of all these or None.
        text: what was typed. A str stays as it is, even if it looks like a number.

    Returns:
        The value.

    Raises:
        ValueError: what was expected, and the text.
    """
    if get_origin(annotation) in (Union, types.UnionType):
        return parse_value(get_args(annotation)[0], text)
    if get_origin(annotation) is Literal:
        return _parse_choice(get_args(annotation), text)
    if get_origin(annotation) is tuple:
        several = get_args(annotation)
        return _parse_numbers(None if several[-1] is Ellipsis else len(several), text)
    if annotation is bool:
        return _parse_choice(("True", "False"), text) == "True"
    return _parse_text(text) if annotation is str else _parse_number(annotation, text)


def _parse_text(text: str) -> str:
    if not text:
        raise ValueError("expected a value, got an empty text")
    return text


def _parse_choice(choices: tuple[str, ...], text: str) -> str:
    if text not in choices:
        raise ValueError(f"expected {' or '.join(choices)}, got {text!r}")
    return text


def _parse_number(kind: type[int] | type[float], text: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"expected {'a whole number' if kind is int else 'a number'}, got {text!r}")
    return value


def _parse_numbers(count: int | None, text: str) -> tuple[float, ...]:
    parts = text.strip("()[] ").split(",")
    if count is not None and len(parts) != count:
        raise ValueError(f"expected {count} numbers with commas between them and no space, got {text!r}")
    return tuple(_parse_number(float, part) for part in parts)


def _nearest(word: str, valid: Sequence[str]) -> str:
    close = get_close_matches(word, valid, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"valid: {', '.join(valid)}"


def _option_name(argument: str, valid: Iterable[str]) -> str:
    """Give the name of an option that is written --field_unit, --field-unit, or -m if one name begins with m."""
    name = argument.split("=", 1)[0].lstrip("-").replace("-", "_")
    alike = [option for option in valid if option.startswith(name)]
    return alike[0] if len(name) == 1 and len(alike) == 1 else name


def _is_option(argument: str) -> bool:
    return argument.startswith("--") or (argument[:1] == "-" and argument[1:2].isalpha())  # -1,0,0 is a value


def _positional(function: Command) -> list[str]:
    """Name the parameters that may be given without their name, in their order."""
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]


def _read_options(command: str, arguments: Sequence[str], hints: dict[str, Any]) -> dict[str, str]:
    """Pair option names with the texts of their values."""
    valid = [f"--{name}" for name in hints]
    options: dict[str, str] = {}
    unnamed = _positional(COMMANDS[command])
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not _is_option(argument):
            if not unnamed:
                raise InputError(f"{command}: unexpected argument {argument!r}; options are written --name value")
            argument = f"--{unnamed.pop(0)}={argument}"
        name = _option_name(argument, hints)
        if name not in hints:
            raise InputError(f"{command}: unknown option --{name}; {_nearest(f'--{name}', valid)}")
        if name in options:
            raise InputError(f"{command}: --{name} is given twice; give it once")
        if "=" in argument:
            options[name] = argument.split("=", 1)[1]
        elif rest and not _is_option(rest[0]):
            options[name] = rest.pop(0)
        elif hints[name] is bool:
            options[name] = "True"
        else:
            raise InputError(f"{command}: --{name} needs a value; write --{name} VALUE")
    return options


def _parse_option(command: str, name: str, annotation: Any, text: str) -> Any:
    try:
        return parse_value(annotation, text)
    except ValueError as error:
        raise InputError(f"{command}: --{name}: {error}") from error


def _parameter_types(function: Command) -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(function).items() if name != "return"}


def _split_command(arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Split off the command, which has one word or two."""
    words = 2 if " ".join(arguments[:2]) in COMMANDS else 1
    return " ".join(arguments[:words]), arguments[words:]


def check_arguments(arguments: Sequence[str]) -> list[str]:
    """Check a command and its options before anything runs, and convert the values.

    Args:
        arguments: the command line without the program's name.

    Returns:
        The command and --name=value for each option, as Python literals: Fire reads 20261120 as a number, but
        '20261120' as text. With --help, just that.

    Raises:
        InputError: unknown command or option, missing or wrong value.
    """
    command, rest = _split_command(arguments)
    if {"--help", "-h"} & set(arguments):
        return [*(command.split() if command in COMMANDS else []), "--help"]
    if command not in COMMANDS:
        raise InputError(f"unknown command {command!r}; {_nearest(command, list(COMMANDS))}")
    hints = _parameter_types(COMMANDS[command])
    options = _read_options(command, rest, hints)
    values = {name: _parse_option(command, name, hints[name], text) for name, text in options.items()}
    parameters = inspect.signature(COMMANDS[command]).parameters.values()
    unnamed = _positional(COMMANDS[command])
    missing = [
        p.name.upper() if p.name in unnamed else f"--{p.name}"
        for p in parameters
        if p.default is p.empty and p.name not in values
    ]
    if missing:
        raise InputError(f"{command}: {', '.join(missing)} missing; see chisep {command} --help")
    return [*command.split(), *(f"--{name}={value!r}" for name, value in values.items())]


def _grouped(commands: Mapping[str, Command]) -> dict[str, Any]:
    """Nest the commands of two words under their first, as Fire wants them."""
    groups: dict[str, Any] = {}
    for name, function in commands.items():
        *group, last = name.split()
        (groups.setdefault(group[0], {}) if group else groups)[last] = function
    return groups


def main() -> None:
    """Run the command line.

    Mistakes of the user end in one line on standard error and exit code 2; tracebacks are left to errors of ours.
    """
    arguments = sys.argv[1:]
    try:
        fire.Fire(_grouped(COMMANDS), command=check_arguments(arguments) if arguments else [], name="chisep")
    except (InputError, FileNotFoundError) as error:
        print(f"chisep: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("chisep: interrupted; nothing half-written was left", file=sys.stderr)
        sys.exit(130)
