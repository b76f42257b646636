"""Zero reference: the field does not determine the mean of the total susceptibility, so a region has to."""

from collections.abc import Hashable, Mapping
from typing import Any, Literal

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.nn.functional import avg_pool3d, max_pool3d

from custom_transforms.keys import MASK, PRED
from custom_transforms.physics import combine_sources

from .base import to_float_tensor, with_meta_of

Reference = Literal["none", "csf", "brain"]

CSF_FRACTION = 0.02
"""Fraction of the eroded mask that is taken for cerebrospinal fluid: about that of the ventricles."""

CSF_EROSION_VOXELS = 3
"""Rim of the mask that is left out of the search for cerebrospinal fluid, as the field is unreliable there."""


def csf_mask(s_ppm: Tensor, mask: Tensor) -> Tensor:
    """Find cerebrospinal fluid: where the sum of the sources is lowest.

    The sum is averaged over 3 x 3 x 3 voxels of the mask; the lowest 2 % of the mask, eroded by 3 voxels, are taken (of
    the whole mask, where erosion leaves nothing). The idea is that of MEDI+0, which thresholds R2*; R2' has no
    threshold that would hold for any relaxivity.

    Args:
        s_ppm: (1, X, Y, Z), chi_para + chi_dia in ppm.
        mask: (1, X, Y, Z), 0 or 1.

    Returns:
        (1, X, Y, Z), boolean.

    References:
        Liu 2018, doi:10.1002/mrm.26946 (MEDI+0).
    """
    weight = mask.to(s_ppm.dtype)
    average = avg_pool3d(s_ppm * weight, 3, 1, 1) / avg_pool3d(weight, 3, 1, 1).clamp(min=1e-6)
    outside = 1 - weight
    for _ in range(CSF_EROSION_VOXELS):
        outside = max_pool3d(outside, 3, 1, 1)
    inside = outside == 0
    if not inside.any():
        inside = mask > 0
    candidates = average[inside]
    count = max(1, round(CSF_FRACTION * candidates.numel()))
    return inside & (average <= candidates.kthvalue(count).values)


class ReferenceSources(Transform):
    """Choose the zero of the total susceptibility, which the field does not determine.

    With c the value of q = chi_para - chi_dia in the reference region, q is shifted by -c and the sum stays:

        chi_para <- max(chi_para - c/2, 0),    chi_dia <- max(chi_dia + c/2, 0)

    Where that would make a source negative, the source is set to 0 and the shift is smaller there.

    Args:
        reference: "none" leaves the maps alone; "brain" takes the mean over the mask; "csf" the median over the
            voxels of :func:`csf_mask`.

    Raises:
        ValueError: unknown reference.
    """

    def __init__(self, *, reference: Reference = "none") -> None:
        if reference not in ("none", "csf", "brain"):
            raise ValueError(f"reference must be none, csf or brain, got {reference!r}")
        self.reference = reference

    def __call__(  # type: ignore[override]  # the pair and its mask go in
        self, chi: NdarrayOrTensor, mask: NdarrayOrTensor
    ) -> Tensor:
        """Shift the pair.

        Args:
            chi: (2, X, Y, Z), chi_para and chi_dia in ppm.
            mask: (1, X, Y, Z), 0 or 1.

        Returns:
            chi_para and chi_dia in ppm, (2, X, Y, Z), zero outside the mask unless the reference is "none".

        Raises:
            ValueError: the mask is empty.
        """
        pair = to_float_tensor(chi)
        if self.reference == "none":
            return pair
        inside = convert_to_tensor(mask, track_meta=False, device=pair.device) > 0
        if not inside.any():
            raise ValueError("the mask of the zero reference is empty; give a mask with 1 in the brain")
        q, s = (part[0] for part in combine_sources(convert_to_tensor(pair, track_meta=False)[None]))
        shift = q[inside].mean() if self.reference == "brain" else q[csf_mask(s, inside)].median()
        shifted = torch.cat([(s + q - shift) / 2, (s - q + shift) / 2]).clamp(min=0)
        return with_meta_of(shifted * inside, pair)


class ReferenceSourcesd(MapTransform):
    """Dictionary form of :class:`ReferenceSources`."""

    def __init__(
        self,
        keys: KeysCollection = PRED,
        *,
        mask_key: str = MASK,
        reference: Reference = "none",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key = mask_key
        self.transform = ReferenceSources(reference=reference)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Shift each pair."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key], result[self.mask_key])
        return result
