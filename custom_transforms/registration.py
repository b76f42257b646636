"""Rigid registration of two images of a head, and interpolation, by ITK.

The motion maximises the correlation of both images, from coarse to fine, twice: from where the centres of mass meet, of
the images as they are, which the outline of the brain rules; and from there on, of the images x over their smooth part,

    m (x / s - 1),    s = <m x> / <m>,

with the mask m and a Gaussian mean <>: what the outline and the sensitivity of the coil have to say is gone.
"""

from __future__ import annotations

import math
from typing import Any

import itk
import torch
from monai.data import MetaTensor
from monai.utils import convert_to_tensor
from torch import Tensor

from custom_transforms.transforms.geometry import voxel_size_from_affine

_LEVELS_MM = (8.0, 4.0, 2.0)  # voxel sizes from coarse to fine; an image is not made finer than it is
_SMOOTH_MM = 10.0  # SD of the Gaussian
_LEAST_SMOOTH = 0.1  # of the mean of the image: where there is less, as in a ventricle without R2', x / s is noise
_ITERATIONS = 200
_RELAXATION = 0.6  # of the step, where the gradient turns
_SHORTEST_STEP = 1e-4  # of the first one, which moves the edge of the image by a voxel
_BRIGHTEST = 0.99  # quantile at which values are cut: vessels and the noise at the rim are brighter than all else
LEAST_WEIGHT = 1e-3  # of the mask around a voxel
_SPLINE_ORDER = 3
_ELASTIX = {
    "RandomSeed": ["121212"],
    "AutomaticTransformInitialization": ["false"],
    "NumberOfSpatialSamples": ["4000"],
    "MaximumNumberOfIterations": ["150"],
    "WriteResultImage": ["false"],
}

_Image = Any  # ITK's classes have no types
_DIMENSIONS = 3


def to_itk(values: Tensor, affine: Tensor) -> _Image:
    """Give values (X, Y, Z) in the coordinates of their affine, RAS+, which ITK takes for its own."""
    image = itk.image_from_array(values.float().permute(2, 1, 0).contiguous().cpu().numpy())
    origin, spacing, direction = itk_geometry(affine)
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    return image


def from_itk(image: _Image) -> Tensor:
    """Give the values of an image of ITK, (X, Y, Z)."""
    return torch.from_numpy(itk.array_from_image(image)).permute(2, 1, 0)


def smooth_image(image: _Image) -> _Image:
    """Smooth an image by a Gaussian with an SD of 10 mm."""
    smoothing = itk.SmoothingRecursiveGaussianImageFilter[type(image), type(image)].New(Input=image)
    smoothing.SetSigma(_SMOOTH_MM)
    smoothing.Update()
    return smoothing.GetOutput()


def itk_geometry(affine: Tensor) -> tuple[list[float], list[float], Any]:
    """Give origin and spacing in mm and the matrix of directions of an affine (4, 4)."""
    affine = torch.as_tensor(affine).double().cpu()  # not a MetaTensor
    spacing = affine[:3, :3].norm(dim=0)
    return affine[:3, 3].tolist(), spacing.tolist(), itk.matrix_from_array((affine[:3, :3] / spacing).numpy())


def _inside(image: MetaTensor, mask: Tensor) -> tuple[_Image, _Image]:
    """Give an image inside its mask, its brightest values cut; and what it is over its smooth part."""
    values, m = image.as_tensor().double()[0], (convert_to_tensor(mask, track_meta=False) > 0.5).double()[0]
    within = values[m > 0].sort().values
    values = values.clamp(max=float(within[int(_BRIGHTEST * len(within))])) * m
    smooth, weight = (from_itk(smooth_image(to_itk(part, image.affine))) for part in (values, m))
    smooth = (smooth / weight.clamp(min=LEAST_WEIGHT)).clamp(min=_LEAST_SMOOTH * float(within.mean()))
    return to_itk(values, image.affine), to_itk(m * (values / smooth - 1), image.affine)


def register(fixed: MetaTensor, fixed_mask: Tensor, moving: MetaTensor, moving_mask: Tensor) -> Tensor:
    """Find the rigid motion of a head from one image to another.

    Args:
        fixed: (1, X, Y, Z) with its affine, any unit.
        fixed_mask: (1, X, Y, Z), 1 in the brain.
        moving: (1, X', Y', Z') with its affine, the same contrast.
        moving_mask: (1, X', Y', Z'), 1 in the brain.

    Returns:
        T, (4, 4) float64: points of the fixed image, mm in RAS+, to those of the moving image.

    Raises:
        ValueError: ITK cannot register them, as where one is 0 everywhere.
    """
    motion = itk.VersorRigid3DTransform[itk.D].New()
    try:
        stages = list(zip(_inside(fixed, fixed_mask), _inside(moving, moving_mask), strict=True))
        _start(motion, *stages[0])
        for pair in stages:
            _optimise(motion, *pair, voxel_size_from_affine(fixed.affine))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].split(": ", 1)[-1]
        raise ValueError(f"the images cannot be registered: {reason} Give others with --registration_image") from error
    return _as_matrix(motion)


def _start(motion: Any, fixed: _Image, moving: _Image) -> None:
    kind = type(fixed)
    start = itk.CenteredTransformInitializer[type(motion), kind, kind].New(
        Transform=motion, FixedImage=fixed, MovingImage=moving
    )
    start.MomentsOn()
    start.InitializeTransform()


def _optimise(motion: Any, fixed: _Image, moving: _Image, voxel_size_mm: Tensor) -> None:
    """Improve the motion, in place."""
    kind = type(fixed)
    metric = itk.CorrelationImageToImageMetricv4[kind, kind].New()
    scales = itk.RegistrationParameterScalesFromPhysicalShift[type(metric)].New(Metric=metric)
    optimizer = itk.RegularStepGradientDescentOptimizerv4[itk.D].New(ScalesEstimator=scales)
    optimizer.SetNumberOfIterations(_ITERATIONS)
    optimizer.SetRelaxationFactor(_RELAXATION)
    optimizer.SetMinimumStepLength(_SHORTEST_STEP)
    method = itk.ImageRegistrationMethodv4[kind, kind].New(
        FixedImage=fixed, MovingImage=moving, Metric=metric, Optimizer=optimizer, InitialTransform=motion
    )
    method.InPlaceOn()
    _set_levels(method, voxel_size_mm)
    method.Update()


def _set_levels(method: Any, voxel_size_mm: Tensor) -> None:
    method.SetNumberOfLevels(len(_LEVELS_MM))
    for level, size_mm in enumerate(_LEVELS_MM):
        factors = itk.FixedArray[itk.UI, _DIMENSIONS]()
        for axis, factor in enumerate(_shrink_factors(size_mm, voxel_size_mm)):
            factors[axis] = factor
        method.SetShrinkFactorsPerDimension(level, factors)
    method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(True)
    method.SetSmoothingSigmasPerLevel([size_mm / 2 for size_mm in _LEVELS_MM])


def register_contrasts(fixed: MetaTensor, fixed_mask: Tensor, moving: MetaTensor) -> Tensor:
    """Find the rigid motion between two images of a head of different contrast, from one session, by elastix.

    It maximises the mutual information inside the mask, and starts from where the affines put the images.

    Args:
        fixed: (1, X, Y, Z) with its affine, any unit.
        fixed_mask: (1, X, Y, Z), 1 in the brain.
        moving: (1, X', Y', Z') with its affine, any unit.

    Returns:
        T, (4, 4) float64: points of the fixed image, mm in RAS+, to those of the moving image.

    Raises:
        ValueError: elastix cannot register them.

    References:
        Klein 2010, doi:10.1109/TMI.2009.2035616 (elastix).
    """
    settings = itk.ParameterObject.New()
    pyramids = {"FixedImagePyramidSchedule": _schedule(fixed), "MovingImagePyramidSchedule": _schedule(moving)}
    settings.AddParameterMap({**settings.GetDefaultParameterMap("rigid", len(_LEVELS_MM)), **_ELASTIX, **pyramids})
    brain = _around(convert_to_tensor(fixed_mask, track_meta=False)[0], fixed_mask, fixed.affine)
    head = _around(fixed.as_tensor()[0], fixed_mask, fixed.affine)
    try:
        _, found = itk.elastix_registration_method(
            head,
            to_itk(moving.as_tensor()[0], moving.affine),
            parameter_object=settings,
            fixed_mask=brain.astype(itk.UC),
            log_to_console=False,
        )
    except RuntimeError as error:
        raise ValueError(
            "the spin echoes cannot be registered to the gradient echoes; align them beforehand"
        ) from error
    motion = itk.Euler3DTransform[itk.D].New()
    motion.SetCenter([float(value) for value in found.GetParameter(0, "CenterOfRotationPoint")])
    values = [float(value) for value in found.GetParameter(0, "TransformParameters")]
    parameters = itk.OptimizerParameters[itk.D](len(values))
    for i, value in enumerate(values):
        parameters.SetElement(i, value)
    motion.SetParameters(parameters)
    return _as_matrix(motion)


def _around(values: Tensor, mask: Tensor, affine: Tensor) -> _Image:
    """Give the box of an image (X, Y, Z) around a mask (1, X, Y, Z): elastix gives up if most of its points miss it."""
    occupied = convert_to_tensor(mask, track_meta=False)[0].nonzero().cpu()
    low, high = occupied.amin(0), occupied.amax(0) + 1
    box = tuple(slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))
    corner = torch.as_tensor(affine).double().cpu().clone()
    corner[:3, 3] += corner[:3, :3] @ low.double()
    return to_itk(values[box], corner)


def _schedule(image: MetaTensor) -> list[str]:
    """Give by how much an image is shrunk along each axis at each level."""
    voxel_size_mm = voxel_size_from_affine(image.affine)
    return [str(factor) for size_mm in _LEVELS_MM for factor in _shrink_factors(size_mm, voxel_size_mm)]


def _shrink_factors(size_mm: float, voxel_size_mm: Tensor) -> list[int]:
    return [max(1, round(size_mm / voxel_mm)) for voxel_mm in voxel_size_mm.tolist()]


def _as_matrix(motion: Any) -> Tensor:
    """Give an affine transform of ITK as (4, 4), float64."""
    result = torch.eye(_DIMENSIONS + 1, dtype=torch.float64)
    result[:3, :3] = torch.from_numpy(itk.array_from_matrix(motion.GetMatrix()))
    result[:3, 3] = torch.tensor(list(motion.GetOffset()), dtype=torch.float64)
    return result


def rotation_deg(motion: Tensor) -> float:
    """Give the angle of a motion (4, 4) in degrees."""
    cosine = (float(motion[:3, :3].trace()) - 1) / 2
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def resample(values: Tensor, affine: Tensor, target_affine: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Interpolate by cubic B-splines, which blur less than linear interpolation.

    Args:
        values: (X, Y, Z), any unit.
        affine: (4, 4) of their grid.
        target_affine: (4, 4) of the new grid in the same coordinates.
        shape: the new grid.

    Returns:
        (*shape), same unit; 0 from beyond the edge.
    """
    image = to_itk(values, affine)
    kind = type(image)
    splines = itk.BSplineInterpolateImageFunction[kind, itk.D, itk.F].New(SplineOrder=_SPLINE_ORDER)
    resampling = itk.ResampleImageFilter[kind, kind].New(Input=image, Interpolator=splines, Size=list(shape))
    origin, spacing, direction = itk_geometry(target_affine)
    resampling.SetOutputOrigin(origin)
    resampling.SetOutputSpacing(spacing)
    resampling.SetOutputDirection(direction)
    resampling.Update()
    return from_itk(resampling.GetOutput())
