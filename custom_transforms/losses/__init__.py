"""Training losses, each called as ``loss(prediction, target)``.

source       SourceLoss: L1 and gradient of both sources, over all iterations of an unrolled network
published    QsmnetLoss, ChiSepLoss: the terms and weights of QSMnet and chi-sepnet
rate         PredictedR2PrimeLoss: of methods that predict R2'
uncertainty  IntervalLoss: of standard deviations
terms        what those are made of: the 26-neighbour gradient, the field model
batch        PrepareMeasuredBatch: hands image and geometry, which the published losses need, to the loss
"""

from .batch import PrepareMeasuredBatch
from .published import ChiSepLoss, QsmnetLoss
from .rate import PredictedR2PrimeLoss
from .source import SourceLoss
from .terms import FieldModelLoss, gradient_loss, neighbour_gradient
from .uncertainty import IntervalLoss

__all__ = [
    "ChiSepLoss",
    "FieldModelLoss",
    "IntervalLoss",
    "PredictedR2PrimeLoss",
    "PrepareMeasuredBatch",
    "QsmnetLoss",
    "SourceLoss",
    "gradient_loss",
    "neighbour_gradient",
]
