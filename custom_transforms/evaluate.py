"""`chisep evaluate`: score every variant on the same volumes, in one table."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.bundle import ConfigParser
from tqdm import tqdm

from custom_transforms.bundle_path import bundle_path
from custom_transforms.checks import InputError, user_input
from custom_transforms.data import training_data
from custom_transforms.keys import R2PRIME, R2STAR
from custom_transforms.options import ALL, choose_device, choose_variants
from custom_transforms.output import staged_folder
from custom_transforms.report.scores import WITHOUT_R2PRIME, Scores, save_scores_figure, scores_table
from custom_transforms.variants import inference_config

TABLE, CSV, FIGURE = "table.md", "scores.csv", "scores.png"


class Evaluation(NamedTuple):
    """Scores of one method.

    Attributes:
        metrics: means over the volumes, by the names of evaluate.json.
        volumes: how many there were.
    """

    metrics: dict[str, float]
    volumes: int


def evaluate_method(name: str, *, quick: bool = False, settings: Mapping[str, Any] | None = None) -> Evaluation:
    """Run evaluate.json on a variant.

    Args:
        name: of a variant.
        quick: stack quick.json on top.
        settings: further entries of the configs.

    Returns:
        Its scores.

    Raises:
        InputError: its weights or the data are not usable.
        RuntimeError: anything else went wrong; the message names the method.
    """
    stack = ["train", f"variants/{name}", "evaluate", *(["quick"] if quick else [])]
    parser = ConfigParser()
    parser.read_config([bundle_path() / "configs" / f"{part}.json" for part in stack])
    parser.update({"bundle_root": str(bundle_path()), "validate::handlers": [], **(settings or {})})
    try:
        for step in ("initialize", "evaluating"):
            parser.get_parsed_content(step)
    except Exception as error:
        cause = _root_cause(error)
        kind = InputError if isinstance(cause, (ValueError, FileNotFoundError)) else RuntimeError
        raise kind(f"{name} cannot be scored: {cause}") from error
    state = parser.get_parsed_content("validate::evaluator").state
    return Evaluation(dict(state.metrics), state.epoch_length)


def _root_cause(error: BaseException) -> BaseException:
    """Give the error that MONAI's configs wrapped."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _check_data(settings: Mapping[str, Any], rates: Iterable[str]) -> None:
    """Refuse data that cannot be scored, before anything runs."""
    dataset_dir, data_list, section = (settings.get(key) for key in ("dataset_dir", "data_list", "section"))
    if section is not None and dataset_dir is None and data_list is None:
        raise InputError("--section is a part of --dataset_dir or --data_list; give one of them")
    with user_input():
        for rate in rates:
            training_data(dataset_dir, data_list, section, rate=rate)


def _describe(volumes: int, settings: Mapping[str, Any], left_out: Sequence[str], without_r2prime: bool) -> str:
    """Say below the table what was scored."""
    source = settings.get("dataset_dir") or settings.get("data_list")
    counted = f"{volumes} volume{'s' * (volumes != 1)} of {source or 'the simulated validation set'}"
    lines = [f"Means over {counted}, on their own grids, with a single relaxivity; bold: best."]
    if without_r2prime:
        lines.append(f"{WITHOUT_R2PRIME} from R2* in the place of R2': R2' is not measured.")
    if left_out:
        lines.append(f"Left out, as they have no weights: {', '.join(left_out)}.")
    return "\n\n".join(lines) + "\n"


def write_csv(path: Path, scores: Scores) -> None:
    """Write one line for each variant and metric, in full precision."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["variant", "metric", "value"])
        writer.writerows((name, metric, value) for name, row in scores.items() for metric, value in row.items())


def evaluate(
    *,
    output: str,
    variants: str = ALL,
    dataset_dir: str | None = None,
    data_list: str | None = None,
    section: str | None = None,
    device: str = "auto",
    quick: bool = False,
) -> None:
    """Score variants on the same volumes, in memory: one table, its numbers as CSV, and a figure.

    Args:
        output: folder for table.md, scores.csv and scores.png; files of these names are replaced.
        variants: names with commas between them, or all that are ready to run.
        dataset_dir: labelled data set in BIDS; a simulated validation set if neither this nor data_list is given.
        data_list: JSON file that lists labelled cases.
        section: training or validation of dataset_dir, or a section of data_list; if not given, all subjects of
            dataset_dir, or the section validation.
        device: auto, cpu, cuda, cuda:1 and so on.
        quick: few and small simulated volumes.
    """
    given = {"dataset_dir": dataset_dir, "data_list": data_list, "section": section}
    settings: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    torch_device: torch.device = choose_device(device)
    chosen, left_out = choose_variants(variants)
    rates = {name: inference_config(name)["rate"] for name in chosen}
    _check_data(settings, {R2PRIME, *rates.values()})
    without_r2prime = [name for name, rate in rates.items() if rate == R2STAR]
    with staged_folder(Path(output)) as stage:
        found = {
            name: evaluate_method(name, quick=quick, settings={**settings, "device": str(torch_device)})
            for name in tqdm(chosen, desc="evaluating", disable=None)
        }
        scores = {name: evaluation.metrics for name, evaluation in found.items()}
        table = scores_table(scores, without_r2prime=without_r2prime) + "\n"
        table += _describe(found[chosen[0]].volumes, settings, left_out, bool(without_r2prime))
        (stage / TABLE).write_text(table, encoding="utf-8")
        write_csv(stage / CSV, scores)
        save_scores_figure(stage / FIGURE, scores, without_r2prime=without_r2prime)
    print(f"{table}\n{TABLE}, {CSV} and {FIGURE} are in {output}")
