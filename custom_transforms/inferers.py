"""The inferers of the bundle: they give every method the geometry of its image, in one orientation."""

import warnings
from collections.abc import Callable, Sequence

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import convert_to_tensor
from nibabel.orientations import io_orientation
from torch import Tensor

from custom_transforms.keys import split_image
from custom_transforms.physics.dipole import default_geometry
from custom_transforms.transforms.axial import AxialFrame
from custom_transforms.transforms.geometry import b0_direction_from_affine, unit_vector, voxel_size_from_affine

Geometry = tuple[Tensor | None, Tensor | None, Tensor | None]
_STORED = ([0, 1, 2], [1, 1, 1])  # the axes as they are


def canonical_order(affine: Tensor) -> tuple[list[int], list[int]]:
    """Order the voxel axes of an affine (4, 4) so that they run as closely as possible along RAS+.

    Returns:
        For each of right, anterior and superior: the voxel axis that becomes it, and +1, or -1 if it is flipped.
    """
    orientation = io_orientation(affine.cpu().numpy())
    axes = [int(axis) for axis in orientation[:, 0].argsort()]
    return axes, [int(orientation[axis, 1]) for axis in axes]


def _affines(inputs: Tensor) -> Tensor | None:
    """Give the affine of each image of a batch, (B, 4, 4) on the CPU, or None for a plain tensor."""
    if not isinstance(inputs, MetaTensor):
        return None
    affine = torch.as_tensor(inputs.affine).cpu()
    if affine.ndim == 2:
        return affine.expand(len(inputs), 4, 4)
    if len(affine) != len(inputs):
        raise ValueError(f"expected one affine for each of {len(inputs)} images, got {len(affine)}; pass whole volumes")
    return affine


def mask_box(mask: Tensor, margin_voxels: int) -> tuple[slice, slice, slice]:
    """Give the smallest box around the masks of a batch, (B, 1, X, Y, Z), with a margin; all if they are empty."""
    inside = (mask > 0).any(dim=1).any(dim=0)
    if not bool(inside.any()):
        return slice(None), slice(None), slice(None)
    indices = inside.nonzero()
    low = (indices.amin(dim=0) - margin_voxels).clamp(min=0).tolist()
    high = (indices.amax(dim=0) + 1 + margin_voxels).tolist()
    x, y, z = (slice(a, b) for a, b in zip(low, high, strict=True))
    return x, y, z


class GeometryInferer(Inferer):
    """Call ``network(image, voxel_size_mm, b0_direction, relaxivity_weights)`` with the geometry of the image.

    Voxel size and direction come from the call, else from the constructor, else from the affine of the MetaTensor;
    without any of them the method gets None (1 mm, B0 along +z) and a warning is given once.

    An image with an affine is permuted and flipped to the closest RAS+ orientation, its geometry with it, and the
    result is brought back, so that the storage order of a head cannot change its maps. Images of a batch whose
    orientations differ run one by one. Such an image is also cropped to its mask and a margin, which saves time and
    memory: the network pads its dipole convolution itself, and all maps are zero outside the mask.

    Args:
        b0_direction: (3,) in voxel axes of the image as stored; scaled to length 1.
        relaxivity_weights: (2,) = [Dr_para, Dr_dia] / Dr, with R2' / Dr in the image.
        canonical: bring images to RAS+ before the network.
        margin_voxels: margin around the mask.
    """

    def __init__(
        self,
        *,
        b0_direction: Sequence[float] | None = None,
        relaxivity_weights: Sequence[float] | None = None,
        canonical: bool = True,
        margin_voxels: int = 8,
    ) -> None:
        self.b0_direction = None if b0_direction is None else unit_vector(b0_direction)
        self.relaxivity_weights = None if relaxivity_weights is None else torch.tensor(relaxivity_weights).float()
        self.canonical = canonical
        self.margin_voxels = margin_voxels
        self._warned = False

    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Tensor],
        voxel_size_mm: Tensor | None = None,
        b0_direction: Tensor | None = None,
        relaxivity_weights: Tensor | None = None,
    ) -> Tensor:
        """Separate the sources of a batch.

        Args:
            inputs: (B, C, X, Y, Z); the channels of :func:`custom_transforms.keys.split_image`.
            network: the method.
            voxel_size_mm: (B, 3) in mm.
            b0_direction: (B, 3) unit vectors in voxel axes of the images as stored.
            relaxivity_weights: (B, 2).

        Returns:
            chi_para and chi_dia in ppm, (B, 2, X, Y, Z) float32; a MetaTensor with the input's metadata if that is one.
        """
        affines = _affines(inputs)
        image = convert_to_tensor(inputs, track_meta=False, dtype=torch.float32)
        geometry = self._geometry(image, affines, (voxel_size_mm, b0_direction, relaxivity_weights))
        if affines is None:
            chi = network(image, *geometry)
        else:
            x, y, z = mask_box(split_image(image)[2], self.margin_voxels)
            orders = [canonical_order(affine) if self.canonical else _STORED for affine in affines]
            cropped = _run_canonical(image[..., x, y, z], network, geometry, orders)
            chi = cropped.new_zeros(*cropped.shape[:-3], *image.shape[-3:])
            chi[..., x, y, z] = cropped
        chi = convert_to_tensor(chi, track_meta=False, dtype=torch.float32)
        return MetaTensor(chi).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else chi

    def _geometry(self, image: Tensor, affines: Tensor | None, given: Geometry) -> Geometry:
        """Fill in what the call did not give, and bring it to the image: (B, 3), (B, 3) and (B, 2)."""
        voxel_size_mm, b0_direction, weights = given
        if b0_direction is None and self.b0_direction is not None:
            b0_direction = self.b0_direction.expand(len(image), 3)
        if weights is None and self.relaxivity_weights is not None:
            weights = self.relaxivity_weights.expand(len(image), 2)
        if affines is None:
            self._warn_without_geometry(voxel_size_mm, b0_direction)
        else:
            if voxel_size_mm is None:
                voxel_size_mm = torch.stack([voxel_size_from_affine(affine) for affine in affines])
            if b0_direction is None:
                b0_direction = torch.stack([b0_direction_from_affine(affine) for affine in affines])
        voxel_size_mm, b0_direction, weights = (
            None if v is None else convert_to_tensor(v, track_meta=False, dtype=torch.float32, device=image.device)
            for v in (voxel_size_mm, b0_direction, weights)
        )
        return voxel_size_mm, b0_direction, weights

    def _warn_without_geometry(self, voxel_size_mm: Tensor | None, b0_direction: Tensor | None) -> None:
        missing = {"voxel size (1 mm is assumed)": voxel_size_mm, "B0 direction (+z is assumed)": b0_direction}
        names = " and ".join(name for name, value in missing.items() if value is None)
        if names and not self._warned:
            self._warned = True
            warnings.warn(f"no {names}: give it to the inferer, or an image with an affine", UserWarning, stacklevel=3)


class AxialInferer(GeometryInferer):
    """Call a network that knows one isotropic voxel size with B0 along +z, whatever the geometry of the image.

    Each image is resampled to its :class:`AxialFrame`, the network runs there, and the result is brought back. An image
    that has the geometry already is not interpolated.

    Args:
        voxel_size_mm: isotropic voxel size that the network knows, mm.
        b0_direction: see :class:`GeometryInferer`.
        relaxivity_weights: see :class:`GeometryInferer`.
        canonical: see :class:`GeometryInferer`.
        margin_voxels: see :class:`GeometryInferer`.
    """

    def __init__(
        self,
        *,
        voxel_size_mm: float = 1.0,
        b0_direction: Sequence[float] | None = None,
        relaxivity_weights: Sequence[float] | None = None,
        canonical: bool = True,
        margin_voxels: int = 8,
    ) -> None:
        super().__init__(
            b0_direction=b0_direction,
            relaxivity_weights=relaxivity_weights,
            canonical=canonical,
            margin_voxels=margin_voxels,
        )
        if not voxel_size_mm > 0:
            raise ValueError(f"voxel_size_mm must be positive, got {voxel_size_mm}")
        self.voxel_size_mm = voxel_size_mm

    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Tensor],
        voxel_size_mm: Tensor | None = None,
        b0_direction: Tensor | None = None,
        relaxivity_weights: Tensor | None = None,
    ) -> Tensor:
        """Separate the sources as :class:`GeometryInferer` does; the result is zero outside the mask."""

        def axial_network(image: Tensor, size: Tensor | None, b0: Tensor | None, weights: Tensor | None) -> Tensor:
            return _run_axial(image, network, (size, b0, weights), self.voxel_size_mm)

        return super().__call__(inputs, axial_network, voxel_size_mm, b0_direction, relaxivity_weights)


def _run_axial(image: Tensor, network: Callable[..., Tensor], geometry: Geometry, target_mm: float) -> Tensor:
    """Run the network on each image (B, C, X, Y, Z) in its axial frame, and bring the results back."""
    weights = geometry[2]
    voxel_size_mm, b0_direction = default_geometry(image, *geometry[:2])
    axial = torch.full_like(voxel_size_mm[:1], target_mm), torch.tensor([[0.0, 0.0, 1.0]]).to(b0_direction)
    results = []
    for i, (mask, size, b0) in enumerate(zip(split_image(image)[2], voxel_size_mm, b0_direction, strict=True)):
        frame = AxialFrame.around(mask, size, b0, target_mm=target_mm)
        chi = network(frame.to_axial(image[i])[None], *axial, None if weights is None else weights[i : i + 1])
        results.append(frame.from_axial(chi[0].float()))
    return torch.stack(results)


def _run_canonical(
    image: Tensor, network: Callable[..., Tensor], geometry: Geometry, orders: list[tuple[list[int], list[int]]]
) -> Tensor:
    if all(order == orders[0] for order in orders):
        return _run_ordered(image, network, geometry, *orders[0])
    results = []
    for i, order in enumerate(orders):
        voxel_size_mm, b0_direction, weights = (None if v is None else v[i : i + 1] for v in geometry)
        results.append(_run_ordered(image[i : i + 1], network, (voxel_size_mm, b0_direction, weights), *order))
    return torch.cat(results)


def _run_ordered(
    image: Tensor, network: Callable[..., Tensor], geometry: Geometry, axes: list[int], signs: list[int]
) -> Tensor:
    """Run the network on the voxel axes in the order ``axes``, flipped where the sign is -1; bring the result back."""
    voxel_size_mm, b0_direction, weights = geometry
    assert voxel_size_mm is not None and b0_direction is not None  # an image with an order has an affine
    flips = [i + 2 for i, sign in enumerate(signs) if sign < 0]
    ordered = image.permute(0, 1, *(axis + 2 for axis in axes)).flip(flips)
    b0_ordered = b0_direction[:, axes] * torch.tensor(signs).to(b0_direction)
    chi = network(ordered, voxel_size_mm[:, axes], b0_ordered, weights)
    return chi.flip(flips).permute(0, 1, *(axes.index(axis) + 2 for axis in range(3)))
