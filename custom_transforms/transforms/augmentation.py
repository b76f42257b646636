r"""Augmentation by the physics: new training pairs (image, label) that obey field = D (chi_para - chi_dia).

    rotation      chi, R2', m <- R chi, R R2', R m;   f <- m D (chi_para - chi_dia), B0 and grid as before
    scaling       chi, R2', f <- a chi, a R2', a f    (the model is linear)
    B0 direction  b <- b',                            f <- m D_b' (chi_para - chi_dia)

They take whole volumes, as the dipole is non-local; crop afterwards. A recomputed field is free of noise. Randomness
comes from MONAI's ``set_random_state``, which ``Compose`` passes on.

References:
    Yoon 2018, doi:10.1016/j.neuroimage.2018.06.030 (QSMnet: rotation); Jung 2020,
    doi:10.1016/j.neuroimage.2020.116619 (QSMnet+: scaling).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import NdarrayOrTensor
from monai.transforms import MapTransform, Randomizable, RandomizableTransform
from monai.utils import convert_to_tensor
from numpy.random import RandomState
from torch import Tensor

from custom_transforms.keys import B0_DIRECTION, IMAGE, LABEL, MASK, VOXEL_SIZE_MM
from custom_transforms.phantom.warp import rotation_matrix
from custom_transforms.physics import DipoleConvolution

from .base import to_float_tensor, with_meta_of
from .rotation import rotate_volume


def with_model_field(image: Tensor, label: Tensor, voxel_size_mm: Tensor, b0_direction: Tensor) -> Tensor:
    """Replace the local field of an image (3, X, Y, Z) by that of the sources of a label (2, X, Y, Z), in its mask."""
    para, dia = label.split(1)
    _, r2prime, mask = image.split(1)
    field = DipoleConvolution(padding=1.0)((para - dia)[None], voxel_size_mm[None], b0_direction[None])[0]
    return torch.cat([mask * field, r2prime, mask])


class _RandRotation(RandomizableTransform):
    """Draw a rotation about a uniformly distributed axis, by an angle uniform within +- max_angle_deg."""

    def __init__(self, *, prob: float, max_angle_deg: float) -> None:
        super().__init__(prob)
        if not 0 < max_angle_deg <= 180:
            raise ValueError(f"max_angle_deg must be above 0 and at most 180, got {max_angle_deg}")
        self.max_angle_deg = max_angle_deg
        self.rotation = torch.eye(3, dtype=torch.float64)

    def randomize(self, data: Any = None) -> None:
        """Draw the rotation R, (3, 3) float64."""
        super().randomize(data)
        angle_deg = self.R.uniform(-self.max_angle_deg, self.max_angle_deg)
        self.rotation = rotation_matrix(torch.from_numpy(self.R.normal(size=3)), angle_deg)


class RandModelRotation(_RandRotation):
    """Rotate the sources, R2' and the mask at random, and recompute the local field for the B0 that stays.

    Args:
        prob: probability.
        max_angle_deg: largest angle.
    """

    def __init__(self, *, prob: float = 0.5, max_angle_deg: float = 30.0) -> None:
        super().__init__(prob=prob, max_angle_deg=max_angle_deg)

    def __call__(  # type: ignore[override]  # a pair and its geometry go in
        self,
        image: NdarrayOrTensor,
        label: NdarrayOrTensor,
        voxel_size_mm: NdarrayOrTensor,
        b0_direction: NdarrayOrTensor,
    ) -> tuple[Tensor, Tensor]:
        """Rotate.

        Args:
            image: (3, X, Y, Z), local field (ppm), R2'/Dr (ppm) and mask.
            label: (2, X, Y, Z), chi_para and chi_dia in ppm.
            voxel_size_mm: (3,) in mm.
            b0_direction: (3,) unit vector in voxel axes.

        Returns:
            Image and label, in the same form.
        """
        image, label = to_float_tensor(image), to_float_tensor(label)
        self.randomize()
        if not self._do_transform:
            return image, label
        voxel, b0 = (convert_to_tensor(v, track_meta=False) for v in (voxel_size_mm, b0_direction))
        maps = torch.cat([convert_to_tensor(pair, track_meta=False) for pair in (image, label)])
        turned_image, turned_label = rotate_volume(maps, self.rotation, voxel).split([3, 2])
        mask = (turned_image[2:3] > 0.5).to(maps)
        turned_image, turned_label = torch.cat([turned_image[:2] * mask, mask]), turned_label * mask
        turned_image = with_model_field(turned_image, turned_label, voxel, b0)
        return with_meta_of(turned_image, image), with_meta_of(turned_label, label)


class RandB0Direction(_RandRotation):
    """Tilt the main field at random, and recompute the local field.

    Args:
        prob: probability.
        max_angle_deg: largest angle between the old and the new direction.
    """

    def __init__(self, *, prob: float = 0.5, max_angle_deg: float = 45.0) -> None:
        super().__init__(prob=prob, max_angle_deg=max_angle_deg)

    def __call__(  # type: ignore[override]  # a pair and its geometry go in
        self,
        image: NdarrayOrTensor,
        label: NdarrayOrTensor,
        voxel_size_mm: NdarrayOrTensor,
        b0_direction: NdarrayOrTensor,
    ) -> tuple[Tensor, Tensor]:
        """Give the image and the new direction (3,); the arguments are those of :class:`RandModelRotation`."""
        image, b0 = to_float_tensor(image), convert_to_tensor(b0_direction, track_meta=False).float()
        self.randomize()
        if not self._do_transform:
            return image, b0
        b0 = (self.rotation @ b0.double().cpu()).to(b0)
        plain, chi, voxel = (convert_to_tensor(v, track_meta=False) for v in (image, label, voxel_size_mm))
        return with_meta_of(with_model_field(plain, chi.to(plain), voxel, b0), image), b0


class RandSusceptibilityScaling(RandomizableTransform):
    """Multiply sources, R2' and local field by one random factor, log-uniform: a wider range of susceptibility.

    Args:
        prob: probability.
        min_factor: smallest factor.
        max_factor: largest factor.
    """

    def __init__(self, *, prob: float = 0.5, min_factor: float = 0.5, max_factor: float = 4.0) -> None:
        super().__init__(prob)
        if not 0 < min_factor <= max_factor:
            raise ValueError(f"expected 0 < min_factor <= max_factor, got {min_factor} and {max_factor}")
        self.min_factor = min_factor
        self.max_factor = max_factor
        self.factor = 1.0

    def randomize(self, data: Any = None) -> None:
        """Draw the factor."""
        super().randomize(data)
        self.factor = math.exp(self.R.uniform(math.log(self.min_factor), math.log(self.max_factor)))

    def __call__(self, image: NdarrayOrTensor, label: NdarrayOrTensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # a pair
        """Scale image (3, X, Y, Z) and label (2, X, Y, Z), all in ppm but the mask."""
        image, label = to_float_tensor(image), to_float_tensor(label)
        self.randomize()
        if not self._do_transform:
            return image, label
        return torch.cat([image[:2] * self.factor, image[2:3]]), label * self.factor


class _AugmentPaird(Randomizable, MapTransform):
    """Hold an array augmentation for the image and the label of a dictionary, and pass the random state on."""

    def __init__(self, transform: RandModelRotation | RandB0Direction | RandSusceptibilityScaling) -> None:
        MapTransform.__init__(self, (IMAGE, LABEL))
        self.transform: Any = transform  # the three are called differently

    def set_random_state(self, seed: int | None = None, state: RandomState | None = None) -> _AugmentPaird:
        """Set the random state of the array form."""
        self.transform.set_random_state(seed, state)
        return self

    def _pair(self, data: Mapping[Hashable, Any]) -> tuple[Any, ...]:
        """Give image, label, voxel size and B0 direction."""
        missing = [key for key in (*self.keys, VOXEL_SIZE_MM, B0_DIRECTION) if key not in data]
        if missing:
            raise ValueError(f"{', '.join(map(str, missing))} missing: put Geometryd and ConcatItemsd before this")
        return data[IMAGE], data[LABEL], data[VOXEL_SIZE_MM], data[B0_DIRECTION]


class RandModelRotationd(_AugmentPaird):
    """Dictionary form of :class:`RandModelRotation`: image, label and, if there, mask change."""

    def __init__(self, *, prob: float = 0.5, max_angle_deg: float = 30.0) -> None:
        super().__init__(RandModelRotation(prob=prob, max_angle_deg=max_angle_deg))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Rotate."""
        image, label = self.transform(*self._pair(data))
        result = {**data, IMAGE: image, LABEL: label}
        if MASK in data:
            result[MASK] = image[2:3]
        return result


class RandB0Directiond(_AugmentPaird):
    """Dictionary form of :class:`RandB0Direction`: image and b0_direction change."""

    def __init__(self, *, prob: float = 0.5, max_angle_deg: float = 45.0) -> None:
        super().__init__(RandB0Direction(prob=prob, max_angle_deg=max_angle_deg))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Tilt the main field."""
        image, b0_direction = self.transform(*self._pair(data))
        return {**data, IMAGE: image, B0_DIRECTION: b0_direction}


class RandSusceptibilityScalingd(_AugmentPaird):
    """Dictionary form of :class:`RandSusceptibilityScaling`: image and label change."""

    def __init__(self, *, prob: float = 0.5, min_factor: float = 0.5, max_factor: float = 4.0) -> None:
        super().__init__(RandSusceptibilityScaling(prob=prob, min_factor=min_factor, max_factor=max_factor))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale."""
        image, label = self.transform(data[IMAGE], data[LABEL])
        return {**data, IMAGE: image, LABEL: label}
