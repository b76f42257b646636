"""Error measures of susceptibility maps, as functions of tensors and as Ignite metrics.

error.py and structure.py compare voxels; regions.py, orientation.py and streaking.py look for what a method does wrong
to tissue, lesions, rotated heads and ill-posed frequencies; calibration.py asks whether standard deviations are what
they say; ignite.py makes metrics of them, to be named in configs.
All functions compute in float64.
"""

from .calibration import coverage_percent, rank_correlation, reliability
from .error import masked_mean, nrmse_percent, psnr_db
from .ignite import (
    HFEN,
    NRMSE,
    PSNR,
    SSIM,
    XSIM,
    Coverage,
    DeepGreyLinearity,
    Leakage,
    LesionR2,
    LesionSlope,
    OrientationSD,
    RegionMean,
    Streaking,
)
from .orientation import orientation_sd
from .regions import (
    LineFit,
    connected_components,
    deep_grey_linearity,
    fit_line,
    leakage,
    lesion_fit,
    lesion_means,
    region_means,
)
from .streaking import streaking_percent
from .structure import hfen_percent, ssim, xsim

__all__ = [
    "HFEN",
    "NRMSE",
    "PSNR",
    "SSIM",
    "XSIM",
    "Coverage",
    "DeepGreyLinearity",
    "Leakage",
    "LesionR2",
    "LesionSlope",
    "LineFit",
    "OrientationSD",
    "RegionMean",
    "Streaking",
    "connected_components",
    "coverage_percent",
    "deep_grey_linearity",
    "fit_line",
    "hfen_percent",
    "leakage",
    "lesion_fit",
    "lesion_means",
    "masked_mean",
    "nrmse_percent",
    "orientation_sd",
    "psnr_db",
    "rank_correlation",
    "region_means",
    "reliability",
    "ssim",
    "streaking_percent",
    "xsim",
]
