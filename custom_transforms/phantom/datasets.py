"""Simulated data sets: a phantom, its acquisition, and from them the network's input and label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from ignite import distributed as idist
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from custom_transforms import keys
from custom_transforms.phantom.acquisition import Acquisition
from custom_transforms.phantom.brain import AnatomicalBrain
from custom_transforms.phantom.random_draws import Draws
from custom_transforms.phantom.steps import Step, ideal_simulation
from custom_transforms.physics import r2prime_per_s_to_ppm, relaxivity_at, relaxivity_weights

Phantom = Callable[[int, torch.Generator], dict[str, Tensor]]


def _generator(device: torch.device, *words: int) -> torch.Generator:
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0] >> np.uint64(1)))


def _network_data(maps: Mapping[str, Tensor], relaxivity_per_s_ppm: float, rate: str) -> dict[str, Tensor]:
    """Give image, label, mask and geometry of measured maps; the channel axis is the fourth from the end."""
    rate_ppm = r2prime_per_s_to_ppm(maps[rate], relaxivity_per_s_ppm)
    return {
        keys.IMAGE: torch.cat([maps[keys.LOCAL_FIELD], rate_ppm, maps[keys.MASK]], dim=-4),
        keys.LABEL: maps[keys.MASK] * torch.cat([maps[keys.CHI_PARA], maps[keys.CHI_DIA]], dim=-4),
        keys.MASK: maps[keys.MASK],
        **{name: maps[name].cpu() for name in keys.GEOMETRY},
    }


class SimulatedBatches(IterableDataset):
    """Batches of simulated measurements, each a function of (seed, rank, epoch, index) alone.

    Use it in a DataLoader with ``batch_size=None`` and no workers: it computes whole batches on the phantom's device.
    In distributed training every rank has ``length`` batches of its own, or, with ``shared``, its part of those that
    a single process would have.

    Args:
        phantom: (batch, generator) to tissue maps, such as :class:`RandomShapes`.
        batch_size: volumes in a batch.
        length: batches in an epoch.
        seed: a training and a validation set need different ones.
        simulation: from tissue to measured maps, in this order; :func:`ideal_simulation` if None.
        rate: "r2prime" or "r2star", which of them the image holds.
        device: where the phantom computes.
        shared: all ranks together make ``length`` batches, those of rank 0 of N being 0, N, 2N, ...

    Raises:
        ValueError: fewer batches are shared than there are ranks.
    """

    def __init__(
        self,
        *,
        phantom: Phantom,
        batch_size: int,
        length: int,
        seed: int,
        simulation: Sequence[Step] | None = None,
        rate: str = keys.R2PRIME,
        device: torch.device | str = "cpu",
        shared: bool = False,
    ) -> None:
        if shared and length < idist.get_world_size():
            raise ValueError(
                f"expected a batch for each of the {idist.get_world_size()} processes, got {length}; start fewer, or "
                "simulate more (--val_length)"
            )
        self.phantom = phantom
        self.batch_size = batch_size
        self.length = length
        self.seed = seed
        self.simulation = ideal_simulation() if simulation is None else simulation
        self.rate = rate
        self.device = torch.device(device)
        self.shared = shared
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches the next iteration gives, so that a resumed run goes on where it stopped."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Give the number of batches that this rank makes in an epoch."""
        return len(self._indices())

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Make the batches of the current epoch."""
        rank = 0 if self.shared else idist.get_rank()
        for index in self._indices():
            yield self.batch(_generator(self.device, self.seed, rank, self.epoch, index))

    def _indices(self) -> range:
        return range(idist.get_rank(), self.length, idist.get_world_size()) if self.shared else range(self.length)

    def batch(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Make one batch.

        Returns:
            image (B, 3, X, Y, Z) and label (B, 2, X, Y, Z) in ppm, mask (B, 1, X, Y, Z), voxel_size_mm (B, 3),
            b0_direction (B, 3) and relaxivity_weights (B, 2).
        """
        draws = Draws(self.batch_size, generator, self.device)
        maps = self.phantom(self.batch_size, generator)
        for step in self.simulation:
            maps = step(maps, draws)
        return _network_data(maps, relaxivity_at(3.0), self.rate)


class SimulatedSubjects(Dataset):
    """Anatomical heads, each measured by simulated echoes and fitted back: a function of (seed, index) alone.

    Args:
        brain: makes the heads.
        length: number of subjects.
        seed: another seed gives other subjects.
        snr: signal-to-noise ratio, or None for exact maps.
        acquisition: how they are measured; the default protocol if None.
        rate: "r2prime" or "r2star", which of them the image holds.
    """

    def __init__(
        self,
        *,
        brain: AnatomicalBrain,
        length: int,
        seed: int,
        snr: float | None = 100.0,
        acquisition: Acquisition | None = None,
        rate: str = keys.R2PRIME,
    ) -> None:
        self.brain = brain
        self.length = length
        self.seed = seed
        self.snr = snr
        self.acquisition = acquisition or Acquisition()
        self.rate = rate

    def __len__(self) -> int:
        """Give the number of subjects."""
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Make a subject.

        Returns:
            image (3, X, Y, Z) and label (2, X, Y, Z) in ppm, mask (1, X, Y, Z), voxel_size_mm (3,), b0_direction (3,)
            and relaxivity_weights (2,).

        Raises:
            IndexError: there is no such subject.
        """
        if not 0 <= index < self.length:
            raise IndexError(f"expected a subject from 0 to {self.length - 1}, got {index}")
        tissue = self.brain(int(np.random.SeedSequence([self.seed, index]).generate_state(1)[0]))
        generator = _generator(tissue[keys.MASK].device, self.seed, index)
        maps = self.acquisition(tissue, snr=self.snr, generator=generator)
        para, dia = self.acquisition.relaxivity_para_per_s_ppm, self.acquisition.relaxivity_dia_per_s_ppm
        relaxivity_per_s_ppm, *weights = relaxivity_weights(para, dia)
        return _network_data({**maps, keys.RELAXIVITY_WEIGHTS: torch.tensor(weights)}, relaxivity_per_s_ppm, self.rate)
