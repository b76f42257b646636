"""Refuse misspelt options of ``python -m monai.bundle run``, which MONAI accepts without a word.

``--max_epohcs 1`` would add a setting that nobody reads and train for the default number of epochs. Every config calls
:func:`refuse_unknown_overrides` first in its ``initialize``.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from itertools import pairwise, takewhile
from typing import Any

from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser, run

_TRACKING = {"tracking_uri", "experiment_name", "run_name", "save_execute_config"}
_FLAG = re.compile(r"--|-[a-zA-Z]")


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Give name and value of the options, read as Fire reads them."""
    flags = [bool(_FLAG.match(argument)) for argument in arguments] + [True]
    for i, (argument, follows) in enumerate(zip(arguments, pairwise(flags), strict=True)):
        if not follows[0]:
            continue
        name, equals, value = argument.lstrip("-").partition("=")
        if not equals and not follows[1]:
            value = arguments[i + 1]
        elif not equals and name.startswith("no"):
            name = name[2:]  # Fire: --noamp is --amp False
        yield name.replace("-", "_"), DefaultParseValue(value)


def _top_level(name: str) -> str:
    return re.split(r"::|#", name.lstrip("+"))[0]


def unknown_overrides(arguments: Sequence[str]) -> dict[str, str | None]:
    """Find options that neither MONAI's `run` nor a config file knows.

    Args:
        arguments: the command line after ``run``.

    Returns:
        The unknown names, each with the valid name that is nearest, or None.
    """
    options = dict(_options(arguments))
    if "args_file" in options:
        options = ConfigParser.load_config_file(options["args_file"]) | options
    if "config_file" not in options:
        return {}
    files = ConfigParser.load_config_files(options["config_file"])
    valid = set(map(_top_level, files)) | inspect.signature(run).parameters.keys() - {"override"}
    valid |= _TRACKING if "tracking" in options else set()
    return {name: _nearest(name, valid) for name in options if _top_level(name) not in valid}


def _nearest(name: str, valid: Iterable[str]) -> str | None:
    return next(iter(get_close_matches(_top_level(name), sorted(valid), n=1)), None)


def refuse_unknown_overrides(argv: Sequence[str] | None = None) -> None:
    """Leave with exit code 2 and one line on standard error if an option is unknown.

    Any command line but that of ``python -m monai.bundle run`` is left alone: it belongs to somebody else.

    Args:
        argv: ``sys.argv`` if None.
    """
    argv = sys.argv if argv is None else argv
    program = argv[0].replace("\\", "/") if argv else ""
    if not program.endswith("monai/bundle/__main__.py") or argv[1:2] not in (["run"], ["run_workflow"]):
        return
    unknown = unknown_overrides(list(takewhile(lambda argument: argument != "--", argv[2:])))
    if unknown:
        hints = [f"--{name}" + (f" (did you mean --{near}?)" if near else "") for name, near in unknown.items()]
        print(f"unknown option {', '.join(hints)}; the top-level names of the config are valid", file=sys.stderr)
        raise SystemExit(2)
