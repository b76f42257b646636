"""What a training run or an evaluation was made from: ``run.json``, TensorBoard's text, and MLflow where it tracks."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ignite import distributed as idist
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.handlers import MLFlowHandler
from torch.utils.tensorboard import SummaryWriter

from custom_transforms.data import Case
from custom_transforms.output import staged_folder, write_json
from custom_transforms.provenance import describe_files, file_sha256, hardware, versions

_SOURCES = Path(__file__).resolve().parents[1]


def source_commit(sources: Path = _SOURCES) -> str | None:
    """Give the Git hash of the sources, followed by "-dirty" if tracked files differ from it.

    Args:
        sources: root of a checkout.

    Returns:
        None for an installed package, also where some other project's repository is around it, and without Git.
    """
    if not (sources / ".git").exists():
        return None
    command = ["git", "-C", str(sources), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def config_in_use() -> dict[str, Any]:
    """Give the config that an expression in it belongs to, with all stacked files and overrides.

    MONAI hands its parser to nothing that it makes, but the parser is among the callers of every expression.

    Returns:
        Content as written, without the metadata.

    Raises:
        ValueError: no expression of a config is being evaluated.
    """
    frame = sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        if isinstance(parser := frame.f_locals.get("self"), ConfigParser):
            content = {name: value for name, value in parser.get().items() if name != "_meta_"}
            return json.loads(json.dumps(content, default=str), parse_constant=str)
    raise ValueError("expected to be called by an expression of a config; write $custom_transforms.run_record...")


def _listing_sha256(cases: Sequence[Case]) -> str:
    """Hash what each file is, its name and its size: contents would take as long as reading all of them."""
    lines = (f"{key}\t{Path(file).name}\t{Path(file).stat().st_size}\n" for case in cases for key, file in case.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def describe_data(
    cases: Mapping[str, Sequence[Case]], *, seed: int, data_list: str | None = None, pretrained: str | None = None
) -> dict[str, Any]:
    """State which data a run uses.

    Args:
        cases: the user's own by section, see :func:`custom_transforms.data.training_data`; none where it simulates.
        seed: of the simulation.
        data_list: JSON file that names the cases, if one does.
        pretrained: weights that training starts from.

    Returns:
        A statement; the seed, or for each section the number of cases and the SHA-256 of the names and sizes of their
        files; and the SHA-256 of the list and of the weights.
    """
    if any(cases.values()):
        sections = {name: {"cases": len(part), "sha256": _listing_sha256(part)} for name, part in cases.items()}
        data: dict[str, Any] = {"statement": "the user's own cases", **sections}
    else:
        data = {"statement": "simulated on the fly, no measured data", "seed": seed}
    if data_list is not None:
        data["data_list_sha256"] = file_sha256(data_list)
    if pretrained:
        data |= describe_files({"pretrained": pretrained})
    return data


class RunRecord:
    """Record a run when it starts, on rank 0.

    ``run.json`` has the config and the data, and of every start, that of a resumed run too, when it was, the Git hash
    of the sources, the versions, the hardware, the processes and the hash of the config. The same goes to TensorBoard
    as text and, where an MLFlowHandler is attached, to its run: the file, the commit and the data as tags, the
    options as parameters.

    It comes after the checkpoints in the list of handlers: a run that they refuse leaves no record.

    Args:
        output_dir: folder of the run.
        config: see :func:`config_in_use`.
        data: see :func:`describe_data`.
        device: what the run computes on.
    """

    def __init__(self, *, output_dir: str, config: Mapping[str, Any], data: Mapping[str, Any], device: str) -> None:
        self.path = Path(output_dir) / "run.json"
        self.config = config
        self.data = data
        self.device = device
        self._done: set[str] = set()

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer or an evaluator."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.STARTED, self.write)
            engine.add_event_handler(Events.EPOCH_STARTED, self.track)  # MLflow's run begins after STARTED

    def write(self, engine: Engine) -> None:
        """Write the file and TensorBoard's text, once."""
        if "write" in self._done:
            return
        self._done.add("write")
        earlier = json.loads(self.path.read_text(encoding="utf-8"))["starts"] if self.path.is_file() else []
        self.record: dict[str, Any] = {
            "starts": [*earlier, self._start(engine)],
            "data": self.data,
            "config": self.config,
        }
        with staged_folder(self.path.parent) as stage:
            write_json(stage / self.path.name, self.record)
        with SummaryWriter(str(self.path.parent / "tensorboard")) as writer:
            text = json.dumps(self.record, indent=2, ensure_ascii=False)
            writer.add_text("run", "".join(f"    {line}\n" for line in text.splitlines()), engine.state.epoch)

    def _start(self, engine: Engine) -> dict[str, Any]:
        config = json.dumps(self.config, sort_keys=True).encode()
        return {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "epoch": engine.state.epoch,
            "commit": source_commit(),
            "versions": versions(),
            "hardware": hardware(self.device),
            "processes": idist.get_world_size(),
            "config_sha256": hashlib.sha256(config).hexdigest(),
        }

    def track(self, engine: Engine) -> None:
        """Log to the run of every MLFlowHandler of the engine, once."""
        if "track" in self._done:
            return
        self._done.add("track")
        for handler in _mlflow_handlers(engine):
            client, run_id = handler.client, handler.cur_run.info.run_id
            for name, value in self._tags().items():
                client.set_tag(run_id, name, value)
            options = {f"chisep.{name}": value for name, value in self.config.items() if _is_option(value)}
            for name in options.keys() - client.get_run(run_id).data.params.keys():  # a parameter cannot change
                client.log_param(run_id, name, str(options[name])[:500])
            client.log_artifact(run_id, str(self.path))

    def _tags(self) -> dict[str, str]:
        start = self.record["starts"][-1]
        tags = {"version": start["versions"]["chisep"], "config_sha256": start["config_sha256"]}
        tags |= {f"data.{name}": v if isinstance(v, str) else json.dumps(v) for name, v in self.data.items()}
        commit = {"mlflow.source.git.commit": start["commit"]} if start["commit"] else {}  # shown in its interface
        return {f"chisep.{name}": value for name, value in tags.items()} | commit


def _is_option(value: Any) -> bool:
    """Tell what somebody may have set from what the config computes or builds."""
    if isinstance(value, list):
        return all(isinstance(item, (int, float)) for item in value)
    return isinstance(value, (int, float)) or (isinstance(value, str) and not value.startswith(("$", "@")))


def _mlflow_handlers(engine: Engine) -> Iterator[Any]:
    for function, *_ in engine._event_handlers[Events.STARTED]:
        if isinstance(handler := getattr(function, "__self__", None), MLFlowHandler):
            yield handler
