"""Handlers on a small engine; that a killed run ends like another is tested with the bundle."""

from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events, State
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from custom_transforms.handlers import Checkpoints, EarlyStop, GradientClipping, SetEpoch


class Batches(IterableDataset):
    """Batches whose content is the epoch."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        for _ in range(2):
            yield {"image": torch.full((1, 1), float(self.epoch)), "label": torch.zeros(1, 1)}

    def __len__(self) -> int:
        return 2


def make_trainer(handlers: list, network: nn.Module, *, epochs: int = 3, lr: float = 0.1) -> SupervisedTrainer:
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(Batches(), batch_size=None),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=lr),
        loss_function=nn.MSELoss(),
        decollate=False,
        train_handlers=handlers,
    )


def test_gradients_are_clipped() -> None:
    steps = {}
    for clipped in (True, False):
        network = nn.Linear(1, 1)
        nn.init.constant_(network.weight, 1000.0)
        before = nn.utils.parameters_to_vector(network.parameters()).detach().clone()
        handlers = [GradientClipping(network=network, max_norm=0.5)] if clipped else []
        trainer = make_trainer(handlers, network, epochs=1, lr=1.0)
        trainer.data_loader = [{"image": torch.ones(1, 1), "label": torch.zeros(1, 1)}]
        trainer.state.epoch_length = 1
        trainer.run()
        steps[clipped] = float((nn.utils.parameters_to_vector(network.parameters()) - before).detach().norm())
    assert steps[True] == pytest.approx(0.5, rel=1e-3)
    assert steps[False] > 100


def test_every_epoch_is_told_to_the_dataset() -> None:
    network = nn.Linear(1, 1)
    trainer = make_trainer([], network)
    SetEpoch(loader=trainer.data_loader).attach(trainer)
    seen = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: seen.append(float(engine.state.batch["image"]))
    )
    trainer.run()
    assert seen == [1, 1, 2, 2, 3, 3]


def evaluator_with_best(epoch: int) -> Engine:
    evaluator = Engine(lambda engine, batch: None)
    evaluator.state = State(best_metric=1.0, best_metric_epoch=epoch, epoch=0)
    return evaluator


@pytest.mark.parametrize(("best", "stopped_at"), [(-1, 3), (0, 3), (2, 5), (100, 10)])
def test_early_stop(best: int, stopped_at: int) -> None:
    trainer = make_trainer(
        [EarlyStop(evaluator=evaluator_with_best(best), patience_epochs=3)], nn.Linear(1, 1), epochs=10
    )
    trainer.run()
    assert trainer.state.epoch == stopped_at


def checkpoints(directory: Path, network: nn.Module, evaluator: Engine) -> tuple[Checkpoints, torch.optim.Optimizer]:
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    parts = {"network": network, "optimizer": optimizer, "lr_scheduler": schedule, "evaluator": evaluator}
    return Checkpoints(directory=str(directory), **parts), optimizer


def test_best_is_saved_only_when_best(tmp_path: Path) -> None:
    network = nn.Linear(1, 1)
    evaluator = evaluator_with_best(2)
    handler, _ = checkpoints(tmp_path, network, evaluator)
    evaluator.state.epoch = 3
    handler.save_best(evaluator)
    assert not (tmp_path / "best.pt").exists()
    evaluator.state.epoch = 2
    handler.save_best(evaluator)
    assert torch.load(tmp_path / "best.pt", weights_only=True).keys() == network.state_dict().keys()


def test_state_comes_back(tmp_path: Path) -> None:
    evaluator = SupervisedEvaluator(device="cpu", val_data_loader=[], network=nn.Identity())
    network = nn.Linear(1, 1)
    handler, optimizer = checkpoints(tmp_path, network, evaluator)
    trainer = make_trainer([handler], network, epochs=2)
    trainer.run()
    evaluator.state.best_metric, evaluator.state.best_metric_epoch = 7.0, 1
    handler.save_last(trainer)
    assert not list(tmp_path.glob("*.part"))
    fresh_evaluator = SupervisedEvaluator(device="cpu", val_data_loader=[], network=nn.Identity())
    fresh = nn.Linear(1, 1)
    other, fresh_optimizer = checkpoints(tmp_path, fresh, fresh_evaluator)
    resumed = make_trainer([], fresh, epochs=5)
    other.resume(resumed)
    assert (resumed.state.epoch, resumed.state.iteration, resumed.state.max_epochs) == (2, 4, 5)
    assert fresh_optimizer.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    assert torch.equal(fresh.weight, network.weight)
    assert (fresh_evaluator.state.best_metric, fresh_evaluator.state.best_metric_epoch) == (7.0, 1)


def test_without_a_checkpoint_training_starts_at_zero(tmp_path: Path) -> None:
    trainer = make_trainer(
        [checkpoints(tmp_path, nn.Linear(1, 1), evaluator_with_best(-1))[0]], nn.Linear(1, 1), epochs=1
    )
    trainer.run()
    assert torch.load(tmp_path / "last.pt", weights_only=True)["trainer"]["iteration"] == 2
