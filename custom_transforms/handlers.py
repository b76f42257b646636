"""Ignite handlers that MONAI does not have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import torch
from ignite import distributed as idist
from ignite.engine import Engine, Events
from monai.engines import Evaluator, IterationEvents
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader


class GradientClipping:
    """Clip the norm of all gradients between the backward pass and the optimiser's step.

    Args:
        network: the network that is trained.
        max_norm: largest norm.
    """

    def __init__(self, *, network: nn.Module, max_norm: float = 1.0) -> None:
        self.network = network
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Clip."""
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)


class SetEpoch:
    """Tell the data which epoch begins, so that every epoch is new and a resumed run sees what it would have seen.

    Args:
        loader: a loader whose dataset or sampler has ``set_epoch``; one that has neither is left alone.
    """

    def __init__(self, *, loader: DataLoader) -> None:
        self.loader = loader

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Set the epoch."""
        for part in (self.loader.dataset, self.loader.sampler):
            if hasattr(part, "set_epoch"):
                part.set_epoch(engine.state.epoch)


class SameBuffers:
    """Give all ranks the buffers of rank 0 when the validation starts, so that all score one and the same network.

    The running statistics of batch normalisation come from the volumes of each rank alone. Parameters never differ.

    Args:
        network: the network that is trained, not wrapped.
    """

    def __init__(self, *, network: nn.Module) -> None:
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator that runs on all ranks at the same time."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Send, or receive."""
        for buffer in self.network.buffers():
            sent = cast(torch.Tensor, idist.broadcast(buffer.contiguous(), src=0))
            buffer.copy_(sent)


class EarlyStop:
    """Stop the trainer when the validation metric has not improved for a number of epochs.

    It comes after the validation in the list of handlers. Its only memory is the evaluator's best epoch, which
    :class:`Checkpoints` restores.

    Args:
        evaluator: the validation, which knows its best epoch.
        patience_epochs: epochs without improvement.
    """

    def __init__(self, *, evaluator: Evaluator, patience_epochs: int) -> None:
        self.evaluator = evaluator
        self.patience_epochs = patience_epochs

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Stop, or go on."""
        waited = engine.state.epoch - max(self.evaluator.state.best_metric_epoch, 0)
        if waited >= self.patience_epochs:
            engine.logger.info(f"Early stop: no improvement for {waited} epochs")
            engine.terminate()


def _read_on_rank_0(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint, if there is one, for all ranks: other machines may lack the file."""
    content = [None]
    if idist.get_rank() == 0 and path.is_file():
        content = [torch.load(path, map_location="cpu", weights_only=True)]
    if idist.get_world_size() > 1:
        torch.distributed.broadcast_object_list(content, src=0)
    return content[0]


class Checkpoints:
    """Save ``last.pt`` (all state, after every epoch) and ``best.pt`` (weights alone), and resume from ``last.pt``.

    It comes before the validation in the list of handlers, and the validation runs when training starts: a run that
    was killed between an epoch and its validation then makes up for it. ``last.pt`` is replaced in one step, so that
    there is a whole one at any time. In distributed training rank 0 saves, reads, and sends what it read to the others.

    A trainer that runs again, as for every round of federated training, keeps the weights that it was given.

    Args:
        directory: folder of the checkpoints.
        network: the network that is trained, not wrapped.
        optimizer: its optimiser.
        lr_scheduler: its learning-rate schedule.
        evaluator: the validation, which knows its best epoch.
        restart_finished: begin anew where the run in ``directory`` has come to its end, instead of refusing.
        resume: False never looks for a ``last.pt``.
    """

    def __init__(
        self,
        *,
        directory: str,
        network: nn.Module,
        optimizer: Optimizer,
        lr_scheduler: LRScheduler,
        evaluator: Evaluator,
        restart_finished: bool = False,
        resume: bool = True,
    ) -> None:
        self.directory = Path(directory)
        self.parts: dict[str, Any] = {"model": network, "optimizer": optimizer, "lr_scheduler": lr_scheduler}
        self.evaluator = evaluator
        self.restart_finished = restart_finished
        self.resumes = resume

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        if self.resumes:
            engine.add_event_handler(Events.STARTED, self.resume)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save_last)
        self.evaluator.add_event_handler(Events.COMPLETED, self.save_best)

    def save_last(self, engine: Engine) -> None:
        """Save everything that the run needs to go on."""
        best = {name: getattr(self.evaluator.state, name) for name in ("best_metric", "best_metric_epoch")}
        states = {name: part.state_dict() for name, part in self.parts.items()}
        self._save(states | {"trainer": dict(engine.state_dict()), "validation": best}, "last.pt")

    def save_best(self, evaluator: Evaluator) -> None:
        """Save the weights if this validation was the best so far."""
        if evaluator.state.best_metric_epoch == evaluator.state.epoch:
            self._save(self.parts["model"].state_dict(), "best.pt")

    def resume(self, engine: Engine) -> None:
        """Go on from ``last.pt``, if there is one.

        Raises:
            ValueError: that run is finished, or its epochs have another length.
        """
        path = self.directory / "last.pt"
        checkpoint = None if engine.state.iteration else _read_on_rank_0(path)
        if checkpoint is None:
            return
        trainer = checkpoint["trainer"]
        if trainer["epoch_length"] != engine.state.epoch_length:
            raise ValueError(
                f"{path} has {trainer['epoch_length']} iterations an epoch, this run {engine.state.epoch_length}; "
                "choose another --output_dir"
            )
        epoch, max_epochs = trainer["iteration"] // trainer["epoch_length"], engine.state.max_epochs
        if epoch >= max_epochs:
            if self.restart_finished:
                return
            raise ValueError(
                f"{path} is finished, it is at epoch {epoch} of {max_epochs}; raise --max_epochs to go on, "
                "choose another --output_dir, or begin anew with --restart_finished True"
            )
        for name, part in self.parts.items():
            part.load_state_dict(checkpoint[name])
        engine.load_state_dict(trainer | {"max_epochs": max_epochs})
        for name, value in checkpoint["validation"].items():
            setattr(self.evaluator.state, name, value)
        engine.logger.info(f"Resumed from {path} at epoch {epoch} of {max_epochs}")

    def _save(self, content: dict[str, Any], name: str) -> None:
        if idist.get_rank() == 0:
            self.directory.mkdir(parents=True, exist_ok=True)
            unfinished = self.directory / f"{name}.part"
            torch.save(content, unfinished)
            os.replace(unfinished, self.directory / name)
