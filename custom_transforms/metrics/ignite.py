"""The error measures as Ignite metrics, to be named in configs: each gives one number for a whole run, on all ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from ignite import distributed as idist
from ignite.metrics import Metric
from torch import Tensor

from custom_transforms.metrics.calibration import coverage_percent
from custom_transforms.metrics.error import nrmse_percent, psnr_db
from custom_transforms.metrics.orientation import orientation_sd
from custom_transforms.metrics.regions import (
    LineFit,
    deep_grey_linearity,
    fit_line,
    leakage,
    lesion_means,
    region_means,
)
from custom_transforms.metrics.streaking import streaking_percent
from custom_transforms.metrics.structure import hfen_percent, ssim, xsim

OutputTransform = Callable[[Any], Any]


def _plain(output: Sequence[Tensor]) -> list[Tensor]:
    """Drop what MONAI keeps with its tensors, which takes time and means nothing to a score."""
    return [x.detach().as_subclass(Tensor) for x in output]


class VolumeMetric(Metric):
    """Mean of a score over volumes and sources.

    Subclasses give the score, a function of (pred, truth, mask), each (B, C, X, Y, Z), that returns (B, C).

    Args:
        output_transform: engine output to the arguments of the score, in their order.
        source: channel to look at; the mean over the channels if None.
    """

    score: Callable[..., Tensor]

    def __init__(self, output_transform: OutputTransform = lambda x: x, *, source: int | None = None) -> None:
        self.source = source
        super().__init__(output_transform=output_transform)

    def reset(self) -> None:
        """Forget all volumes."""
        self._values: list[Tensor] = []

    def update(self, output: Sequence[Tensor]) -> None:
        """Add the volumes of one batch."""
        values = self.score(*_plain(output))
        self._values.append((values if self.source is None else values[:, self.source]).flatten())

    def compute(self) -> float:
        """Give the mean over all volumes so far, on all ranks in distributed training."""
        values = torch.cat([torch.zeros(0), *(v.cpu() for v in self._values)])
        # Before any rank may give up, else the others would wait for it
        total, count = (float(idist.all_reduce(float(x))) for x in (values.sum(), len(values)))
        if count == 0:
            raise ValueError(f"{type(self).__name__} needs at least one volume before compute()")
        return total / count


class NRMSE(VolumeMetric):
    """Mean NRMSE over volumes and sources, in percent; see :func:`nrmse_percent`.

    Args:
        output_transform: engine output to (pred, truth, mask), (B, C, X, Y, Z) each.
        source: channel to look at; the mean over the channels if None.
        demean: subtract the mean in the mask from both first.
    """

    def __init__(
        self, output_transform: OutputTransform = lambda x: x, *, source: int | None = None, demean: bool = False
    ) -> None:
        self.demean = demean
        super().__init__(output_transform, source=source)

    def score(self, pred: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
        """Score each volume."""
        return nrmse_percent(pred, truth, mask, demean=self.demean)


class PSNR(VolumeMetric):
    """Mean peak signal-to-noise ratio of (pred, truth, mask), peak 1 ppm, in dB; see :func:`psnr_db`."""

    score = staticmethod(psnr_db)


class SSIM(VolumeMetric):
    """Mean structural similarity of (pred, truth, mask) as for chi-sepnet; see :func:`ssim`."""

    score = staticmethod(ssim)


class XSIM(VolumeMetric):
    """Mean structural similarity of (pred, truth, mask) for susceptibility maps; see :func:`xsim`."""

    score = staticmethod(xsim)


class HFEN(VolumeMetric):
    """Mean high-frequency error norm of (pred, truth, mask), in percent; see :func:`hfen_percent`."""

    score = staticmethod(hfen_percent)


class Leakage(VolumeMetric):
    """Mean share of the other source in (pred, truth, mask); see :func:`leakage`."""

    score = staticmethod(leakage)


class Streaking(VolumeMetric):
    """Mean error near the dipole's zero cone, in percent; see :func:`streaking_percent`, also for what it is given."""

    score = staticmethod(streaking_percent)


class OrientationSD(VolumeMetric):
    """Mean standard deviation of (pred, mask) over the orientations of a head, a batch; see :func:`orientation_sd`."""

    score = staticmethod(orientation_sd)


class Coverage(VolumeMetric):
    """Mean share of the voxels whose truth lies in the interval, in percent; see :func:`coverage_percent`.

    Args:
        output_transform: engine output to (pred, sd, truth, mask), (B, C, X, Y, Z) each.
        source: channel to look at; the mean over the channels if None.
        factor: half the width of the interval in standard deviations.
    """

    def __init__(
        self, output_transform: OutputTransform = lambda x: x, *, source: int | None = None, factor: float
    ) -> None:
        self.factor = factor
        super().__init__(output_transform, source=source)

    def score(self, pred: Tensor, sd: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
        """Score each volume."""
        return coverage_percent(pred, sd, truth, mask, factor=self.factor)


class RegionMean(VolumeMetric):
    """Mean of one region over the volumes that have it.

    Args:
        output_transform: engine output to (pred, regions), (B, C, X, Y, Z) each.
        source: channel to look at; the mean over the channels if None.
        label: of the region.
    """

    def __init__(
        self, output_transform: OutputTransform = lambda x: x, *, source: int | None = None, label: int
    ) -> None:
        self.label = label
        super().__init__(output_transform, source=source)

    def score(self, pred: Tensor, regions: Tensor) -> Tensor:
        """Mean of the region in each volume that has it."""
        present = (regions == self.label).flatten(1).any(dim=1)
        return region_means(pred[present], regions[present], labels=[self.label])[..., 0]


class DeepGreyLinearity(VolumeMetric):
    """Mean deviation from proportionality over the deep grey nuclei; see :func:`deep_grey_linearity`.

    Args:
        output_transform: engine output to (pred, truth, regions), (B, C, X, Y, Z) each.
        source: channel to look at; the mean over the channels if None.
        labels: of the nuclei.
    """

    def __init__(
        self, output_transform: OutputTransform = lambda x: x, *, source: int | None = None, labels: Sequence[int]
    ) -> None:
        self.labels = labels
        super().__init__(output_transform, source=source)

    def score(self, pred: Tensor, truth: Tensor, regions: Tensor) -> Tensor:
        """Score each volume."""
        return deep_grey_linearity(pred, truth, regions, labels=self.labels)


class LesionMetric(Metric):
    """Line through the means of all lesions of a run; subclasses say what of it they give.

    Args:
        output_transform: engine output to (pred, truth, lesions), (B, C, X, Y, Z) each.
        source: channel to look at.
    """

    def __init__(self, output_transform: OutputTransform = lambda x: x, *, source: int) -> None:
        self.source = source
        super().__init__(output_transform=output_transform)

    def reset(self) -> None:
        """Forget all lesions."""
        self._points: list[list[float]] = []

    def update(self, output: Sequence[Tensor]) -> None:
        """Add the lesions of one batch."""
        pred, truth, lesions = _plain(output)
        both = torch.stack([values[:, self.source] for values in (truth, pred)], dim=1)
        self._points += lesion_means(both, lesions).tolist()

    def fit(self) -> LineFit:
        """Fit the line to the lesions of all ranks."""
        ranks = cast(list[list[list[float]]], idist.all_gather(self._points))
        points = [point for rank in ranks for point in rank]
        if len(points) < 2:
            raise ValueError(f"{type(self).__name__} needs at least two lesions before compute(), got {len(points)}")
        return fit_line(*torch.tensor(points, dtype=torch.float64).T)


class LesionSlope(LesionMetric):
    """Slope of the lesions' means against the truth, 1 if they are fully recovered; see :func:`lesion_fit`."""

    def compute(self) -> float:
        """Give the slope over all lesions so far."""
        return float(self.fit().slope)


class LesionR2(LesionMetric):
    """Share of the variance of the lesions' means that the line explains; see :func:`lesion_fit`."""

    def compute(self) -> float:
        """Give R2 over all lesions so far."""
        return float(self.fit().r_squared)
