r"""Deformable registration by elastix: an affine map, and cubic B-splines on top of it.

Both maximise the mutual information of one or several pairs of images together, from coarse to fine, over points that
are drawn at random from the fixed images, but the same ones in each run.

References:
    Klein et al. 2010, IEEE Trans Med Imaging 29:196, doi:10.1109/TMI.2009.2035616 (elastix)
    Mattes et al. 2003, IEEE Trans Med Imaging 22:120, doi:10.1109/TMI.2003.809072 (mutual information and B-splines)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import itk
import torch
from torch import Tensor

from custom_transforms.registration import from_itk, itk_geometry, to_itk

_KNOTS_MM = 15.0  # between the knots of the splines on the finest level, twice as much on each one before
_SAMPLES = 4000  # points of the image drawn anew for each iteration
_BINS = 32  # of the histograms
_SEED = 1
_LEAST_VALID = 0.05  # share of the points that the moving image must hold

_Image = Any  # ITK's classes have no types
_Parameters = dict[str, list[str]]


class _Stage(NamedTuple):
    """A transform that is fitted on top of those before.

    Attributes:
        transform: elastix' name.
        levels_mm: smoothing from coarse to fine.
        iterations: on each level.
        masked: whether to look inside the mask alone.
    """

    transform: str
    levels_mm: tuple[float, ...]
    iterations: int
    masked: bool


_STAGES = (
    _Stage("AffineTransform", (8.0, 4.0, 2.0), 100, masked=False),  # the outline of the brain leads
    _Stage("AffineTransform", (4.0, 2.0), 100, masked=True),  # and may be wrong, if the mask is too small or cut off
    _Stage("BSplineTransform", (4.0, 2.0, 1.0), 200, masked=True),
)


class Deformation:
    """A map from points of the fixed images to those of the moving ones."""

    def __init__(self, parameters: Any) -> None:
        self._parameters = parameters

    def warp(self, values: Tensor, affine: Tensor, target_affine: Tensor, shape: Sequence[int]) -> Tensor:
        """Bring a moving image to a grid in the space of the fixed ones.

        Args:
            values: (X, Y, Z): integers, of which the nearest voxel's is taken, or others, linearly interpolated.
            affine: (4, 4) of their grid, mm.
            target_affine: (4, 4) of the new grid.
            shape: the new grid.

        Returns:
            (*shape), float32; 0 from beyond the edge.
        """
        kind = "Linear" if values.is_floating_point() else "NearestNeighbor"
        changes = _geometry(target_affine, shape) | {"ResampleInterpolator": [f"Final{kind}Interpolator"]}
        parameters = itk.ParameterObject.New()
        for index in range(self._parameters.GetNumberOfParameterMaps()):
            parameters.AddParameterMap(dict(self._parameters.GetParameterMap(index)) | changes)
        image = to_itk(values, affine)
        method = itk.TransformixFilter[type(image)].New()
        method.SetMovingImage(image)
        method.SetTransformParameterObject(parameters)
        method.LogToConsoleOff()
        method.Update()
        return from_itk(method.GetOutput())


def deform(
    fixed: Sequence[Tensor],
    fixed_mask: Tensor,
    fixed_affine: Tensor,
    moving: Sequence[Tensor],
    moving_mask: Tensor,
    moving_affine: Tensor,
) -> Deformation:
    """Register images of different heads, contrasts or units.

    The affine map starts where the centres of the masks meet.

    Args:
        fixed: images (X, Y, Z) of one head, not constant, 0 outside the mask.
        fixed_mask: (X, Y, Z), 1 in the brain.
        fixed_affine: (4, 4), voxel indices to mm, RAS+.
        moving: as many images (X', Y', Z') of the other one, in the same order.
        moving_mask: (X', Y', Z').
        moving_affine: (4, 4).

    Returns:
        The deformation; the same for the same images.

    Raises:
        ValueError: elastix finds none, as where a fixed image has too few voxels along an axis.
    """
    pairs = [(to_itk(f, fixed_affine), to_itk(m, moving_affine)) for f, m in zip(fixed, moving, strict=True)]
    inside = itk.image_from_array((fixed_mask > 0).byte().permute(2, 1, 0).contiguous().numpy())
    inside.CopyInformation(pairs[0][0])
    found = _translation(_centre(moving_mask, moving_affine) - _centre(fixed_mask, fixed_affine))
    sizes_mm = [itk_geometry(affine)[1] for affine in (fixed_affine, moving_affine)]
    try:
        for stage in _STAGES:
            found = _run(pairs, inside if stage.masked else None, _settings(stage, len(pairs), *sizes_mm), found)
    except RuntimeError as error:
        raise ValueError("elastix cannot deform one head to the other; are these images of whole brains?") from error
    return Deformation(found)


def _centre(mask: Tensor, affine: Tensor) -> Tensor:
    return affine[:3, :3].double() @ mask.nonzero().double().mean(0) + affine[:3, 3].double()


def _translation(shift_mm: Tensor) -> Any:
    values = {
        "Transform": ["TranslationTransform"],
        "NumberOfParameters": ["3"],
        "TransformParameters": [repr(x) for x in shift_mm.tolist()],
        "HowToCombineTransforms": ["Compose"],
        "InitialTransformParameterFileName": ["NoInitialTransform"],
    }
    parameters = itk.ParameterObject.New()
    parameters.AddParameterMap(values | _geometry(torch.eye(4), (1, 1, 1)))
    return parameters


def _geometry(affine: Tensor, shape: Sequence[int]) -> _Parameters:
    """Give a grid in elastix' words."""
    origin, spacing, _ = itk_geometry(affine)
    direction = torch.as_tensor(affine).double().cpu()[:3, :3] / torch.tensor(spacing).double()
    return {
        "Size": [str(n) for n in shape],
        "Index": ["0"] * 3,
        "Spacing": [repr(x) for x in spacing],
        "Origin": [repr(x) for x in origin],
        "Direction": [repr(x) for x in direction.T.flatten().tolist()],  # column by column
        "UseDirectionCosines": ["true"],
        "FixedImageDimension": ["3"],
        "MovingImageDimension": ["3"],
        "FixedInternalImagePixelType": ["float"],
        "MovingInternalImagePixelType": ["float"],
    }


def _schedule(levels_mm: Sequence[float], size_mm: Sequence[float]) -> list[str]:
    """Give the smoothing of each level in voxels of each axis."""
    return [str(max(1, round(level / size))) for level in levels_mm for size in size_mm]


def _settings(stage: _Stage, pairs: int, fixed_mm: Sequence[float], moving_mm: Sequence[float]) -> _Parameters:
    mean_mm = (fixed_mm[0] * fixed_mm[1] * fixed_mm[2]) ** (1 / 3)  # the other image is smoothed to this at least
    each = {
        "FixedImagePyramid": "FixedSmoothingImagePyramid",
        "MovingImagePyramid": "MovingSmoothingImagePyramid",
        "Interpolator": "LinearInterpolator",
        "ImageSampler": "RandomCoordinate",
        "Metric": "AdvancedMattesMutualInformation",
    }
    once = {
        "Registration": "MultiMetricMultiResolutionRegistration",
        "Transform": stage.transform,
        "HowToCombineTransforms": "Compose",
        "AutomaticTransformInitialization": "false",
        "AutomaticScalesEstimation": "true",
        "FinalGridSpacingInPhysicalUnits": str(_KNOTS_MM),
        "Optimizer": "AdaptiveStochasticGradientDescent",
        "ASGDParameterEstimationMethod": "DisplacementDistribution",
        "AutomaticParameterEstimation": "true",
        "MaximumNumberOfIterations": str(stage.iterations),
        "NumberOfResolutions": str(len(stage.levels_mm)),
        "NumberOfSpatialSamples": str(_SAMPLES),
        "NewSamplesEveryIteration": "true",
        "NumberOfHistogramBins": str(_BINS),
        "RequiredRatioOfValidSamples": str(_LEAST_VALID),
        "RandomSeed": str(_SEED),
        "ResampleInterpolator": "FinalLinearInterpolator",
        "Resampler": "DefaultResampler",
        "WriteResultImage": "false",
    }
    return {
        **{name: [value] * pairs for name, value in each.items()},
        **{name: [value] for name, value in once.items()},
        "FixedImagePyramidSchedule": _schedule(stage.levels_mm, fixed_mm),
        "MovingImagePyramidSchedule": _schedule([max(level, mean_mm) for level in stage.levels_mm], moving_mm),
    }


def _run(pairs: Sequence[tuple[_Image, _Image]], mask: _Image | None, settings: _Parameters, start: Any) -> Any:
    """Run elastix on as many threads as it likes: with a number of threads set, several metrics crash it."""
    kind = type(pairs[0][0])
    method = itk.ElastixRegistrationMethod[kind, kind].New()
    for fixed, moving in pairs:
        method.AddFixedImage(fixed)
        method.AddMovingImage(moving)
    if mask is not None:
        method.SetFixedMask(mask)
    parameters = itk.ParameterObject.New()
    parameters.AddParameterMap(settings)
    method.SetParameterObject(parameters)
    method.SetInitialTransformParameterObject(start)
    method.LogToConsoleOff()
    method.Update()
    return method.GetTransformParameterObject()
