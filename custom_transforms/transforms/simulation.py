"""Simulation of the local field by the dipole convolution, on the device of the maps."""

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_tensor
from torch import Tensor

from custom_transforms.keys import B0_DIRECTION, CHI_DIA, CHI_PARA, LOCAL_FIELD, MASK, VOXEL_SIZE_MM
from custom_transforms.physics import DipoleConvolution

from .base import image_name, to_float_tensor, with_meta_of
from .geometry import b0_direction_from_affine, voxel_size_from_affine


class SimulateLocalField(Transform):
    """Simulate the local field, f = mask D (chi_para - chi_dia), over the whole volume.

    The dipole is non-local: give whole volumes and crop afterwards, never patches.

    Args:
        padding: relative zero margin against wrap-around; 1.0 doubles each axis.

    References:
        Salomir 2003, doi:10.1002/cmr.b.10083.
    """

    def __init__(self, *, padding: float = 1.0) -> None:
        self.dipole = DipoleConvolution(padding=padding)

    def __call__(  # type: ignore[override]  # two maps and their geometry go in
        self,
        chi_para: NdarrayOrTensor,
        chi_dia: NdarrayOrTensor,
        voxel_size_mm: NdarrayOrTensor,
        b0_direction: NdarrayOrTensor,
        *,
        mask: NdarrayOrTensor | None = None,
    ) -> Tensor:
        """Simulate.

        Args:
            chi_para: (1, X, Y, Z), non-negative, ppm.
            chi_dia: (1, X, Y, Z), non-negative magnitude, ppm.
            voxel_size_mm: (3,) in mm.
            b0_direction: (3,) unit vector in voxel axes.
            mask: (1, X, Y, Z), 0 or 1; None leaves the field unmasked.

        Returns:
            Local field in ppm of B0, (1, X, Y, Z), with the metadata and on the device of ``chi_para``.
        """
        reference = to_float_tensor(chi_para)
        para = convert_to_tensor(reference, track_meta=False)
        dia = convert_to_tensor(chi_dia, track_meta=False, dtype=para.dtype, device=para.device)
        voxel, b0 = (convert_to_tensor(v, track_meta=False)[None] for v in (voxel_size_mm, b0_direction))
        field = self.dipole((para - dia)[None], voxel, b0)[0]
        if mask is not None:
            field = field * (convert_to_tensor(mask, track_meta=False, device=field.device) > 0)
        return with_meta_of(field, reference)


class SimulateLocalFieldd(MapTransform):
    """Dictionary form of :class:`SimulateLocalField`.

    The geometry is the dictionary's (see :class:`Geometryd`), else that of the affine of chi_para.

    Args:
        chi_para_key: key of chi_para.
        chi_dia_key: key of chi_dia.
        mask_key: key of the mask, or None for no mask.
        local_field_key: key that the field is written to.
        padding: see :class:`SimulateLocalField`.

    Raises:
        ValueError: the geometry is neither in the dictionary nor in an affine.
    """

    def __init__(
        self,
        *,
        chi_para_key: str = CHI_PARA,
        chi_dia_key: str = CHI_DIA,
        mask_key: str | None = MASK,
        local_field_key: str = LOCAL_FIELD,
        padding: float = 1.0,
    ) -> None:
        super().__init__((chi_para_key, chi_dia_key))
        self.mask_key = mask_key
        self.local_field_key = local_field_key
        self.transform = SimulateLocalField(padding=padding)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the local field."""
        result = dict(data)
        chi_para, chi_dia = (result[key] for key in self.key_iterator(result))
        mask = None if self.mask_key is None else result[self.mask_key]
        result[self.local_field_key] = self.transform(chi_para, chi_dia, *self._geometry(result), mask=mask)
        return result

    def _geometry(self, data: Mapping[Hashable, Any]) -> tuple[Tensor, Tensor]:
        image = data[self.keys[0]]
        if VOXEL_SIZE_MM in data and B0_DIRECTION in data:
            return data[VOXEL_SIZE_MM], data[B0_DIRECTION]
        if not isinstance(image, MetaTensor):
            raise ValueError(
                f"{image_name(self.keys[0], image)} has no affine; "
                f"load it with its header or put {VOXEL_SIZE_MM} and {B0_DIRECTION} into the dictionary"
            )
        return voxel_size_from_affine(image.affine), b0_direction_from_affine(image.affine)
