"""Voxel size and B0 direction of affines whose rotation is known, and one grid for all maps."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Flip

from custom_transforms.transforms import Geometryd, b0_direction_from_affine, voxel_size_from_affine


def oblique_affine(tilt_deg: float, voxel_size_mm: tuple[float, float, float]) -> torch.Tensor:
    """Voxel axes turned about world x: the image's y axis leans towards world +z."""
    c, s = np.cos(np.deg2rad(tilt_deg)), np.sin(np.deg2rad(tilt_deg))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.diag(voxel_size_mm)
    affine[:3, 3] = (-10, 20, 5)
    return torch.from_numpy(affine)


def test_tilted_slices() -> None:
    affine = oblique_affine(30, (0.7, 1.1, 2.5))
    assert torch.allclose(voxel_size_from_affine(affine), torch.tensor([0.7, 1.1, 2.5]))
    assert torch.allclose(b0_direction_from_affine(affine), torch.tensor([0.0, 0.5, 3**0.5 / 2]))
    transposed = affine[2, :3] @ torch.linalg.inv(affine[:3, :3]).T  # the usual mistake: R' in place of R
    assert not torch.allclose(b0_direction_from_affine(affine), transposed.float(), atol=0.1)


def test_a_flip_of_storage_flips_the_component() -> None:
    image = MetaTensor(torch.zeros(1, 4, 5, 6), affine=oblique_affine(30, (1.0, 1.0, 2.0)))
    flipped = Flip(spatial_axis=1)(image)
    sign = torch.tensor([1.0, -1.0, 1.0])
    assert torch.allclose(b0_direction_from_affine(flipped.affine), sign * b0_direction_from_affine(image.affine))


def test_b0_along_another_axis_of_the_world() -> None:
    affine = oblique_affine(30, (1.0, 2.0, 3.0))
    assert torch.allclose(b0_direction_from_affine(affine, (2.0, 0.0, 0.0)), torch.tensor([1.0, 0.0, 0.0]))


def test_shear_is_refused() -> None:
    affine = torch.eye(4)
    affine[0, 2] = 0.2
    with pytest.raises(ValueError, match=r"sheared: the cosine between two voxel axes is 0.196"):
        b0_direction_from_affine(affine)
    with pytest.raises(ValueError, match="three voxel axes"):
        voxel_size_from_affine(torch.zeros(4, 4))


def test_dictionary_form() -> None:
    affine = oblique_affine(20, (0.8, 0.9, 1.3))
    data = {key: MetaTensor(torch.zeros(1, 4, 5, 6), affine=affine.clone()) for key in ("local_field", "mask")}
    result = Geometryd(["local_field", "mask"])(data)
    assert torch.allclose(result["voxel_size_mm"], torch.tensor([0.8, 0.9, 1.3]))
    assert torch.allclose(result["b0_direction"], b0_direction_from_affine(affine))
    given = Geometryd("local_field", voxel_size_mm=(1, 1, 2), b0_direction=(0, 3, 4))(data)
    assert torch.equal(given["voxel_size_mm"], torch.tensor([1.0, 1.0, 2.0]))
    assert torch.allclose(given["b0_direction"], torch.tensor([0.0, 0.6, 0.8]))


def test_maps_on_different_grids() -> None:
    reference = MetaTensor(torch.zeros(1, 40, 5, 6), affine=torch.eye(4).double())
    turned = torch.eye(4).double()
    turned[1, 0] = 0.01  # 0.4 mm at the far end of 40 voxels
    data = {"f": reference, "r": MetaTensor(torch.zeros(1, 40, 5, 6), affine=turned)}
    with pytest.raises(ValueError, match=r"r is not on the grid of f: it has an affine that lies up to 0.4 mm away"):
        Geometryd(["f", "r"])(data)
    data["r"] = torch.zeros(1, 39, 5, 6)
    with pytest.raises(ValueError, match=r"it has shape \(39, 5, 6\), not \(40, 5, 6\)"):
        Geometryd(["f", "r"])(data)


def test_no_affine_no_guess() -> None:
    with pytest.raises(ValueError, match="f has no affine"):
        Geometryd("f")({"f": torch.zeros(1, 2, 2, 2)})
    with pytest.raises(ValueError, match="none of the maps f is there"):
        Geometryd("f", allow_missing_keys=True)({})
