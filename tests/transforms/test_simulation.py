"""The simulated field is that of a sphere, of either sign, on an oblique anisotropic grid."""

import pytest
import torch
from monai.data import MetaTensor
from torch.nn.functional import max_pool3d

from custom_transforms.physics import sphere_field
from custom_transforms.transforms import (
    SimulateLocalFieldd,
    b0_direction_from_affine,
    voxel_size_from_affine,
)

SHAPE = (40, 36, 30)


@pytest.fixture
def affine() -> torch.Tensor:
    """Voxels of 0.8 x 0.9 x 1.1 mm, turned about two axes of the world."""
    q, r = torch.linalg.qr(torch.tensor([[1.0, 0.1, 0.2], [0.0, 1.0, 0.4], [-0.3, -0.4, 1.0]]).double())
    affine = torch.eye(4).double()
    affine[:3, :3] = q * r.diag().sign() * torch.tensor([0.8, 0.9, 1.1]).double()
    return affine


def sphere(affine: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    field, inside = sphere_field(
        SHAPE,
        voxel_size_from_affine(affine),
        b0_direction_from_affine(affine),
        centre_voxel=torch.tensor([19.5, 17.5, 14.5]),
        radius_mm=6.0,
        chi_ppm=1.0,
    )
    return field[None].float(), inside[None].float()


@pytest.mark.parametrize("source", ["chi_para", "chi_dia"])
def test_field_of_a_sphere(affine: torch.Tensor, source: str) -> None:
    expected, inside = sphere(affine)
    data = {key: MetaTensor(torch.zeros(1, *SHAPE), affine=affine) for key in ("chi_para", "chi_dia")}
    data[source] = MetaTensor(inside, affine=affine)
    data["mask"] = 1 - max_pool3d(inside, 3, 1, 1)  # the surface is made of voxels
    data["mask"][:, :2] = 0
    field = SimulateLocalFieldd()(data)["local_field"]
    sign = 1 if source == "chi_para" else -1
    expected = sign * expected * data["mask"]
    assert (field.as_tensor() - expected).norm() < 0.1 * expected.norm()  # 5 % is discretisation
    assert (field.as_tensor() + expected).norm() > 1.8 * expected.norm()
    assert torch.equal(field.affine, affine)
    assert field[:, :2].abs().max() == 0


def test_the_dictionary_overrules_the_affine(affine: torch.Tensor) -> None:
    _, inside = sphere(affine)
    data = {"chi_para": MetaTensor(inside, affine=torch.eye(4)), "chi_dia": torch.zeros(1, *SHAPE)}
    simulate = SimulateLocalFieldd(mask_key=None)
    geometry = {"voxel_size_mm": voxel_size_from_affine(affine), "b0_direction": b0_direction_from_affine(affine)}
    explicit = simulate(data | geometry)["local_field"]
    data["chi_para"] = MetaTensor(inside, affine=affine)
    assert torch.allclose(simulate(data)["local_field"], explicit)
    data["chi_para"] = MetaTensor(inside, affine=torch.eye(4))
    assert not torch.allclose(simulate(data)["local_field"], explicit, atol=0.01)


def test_no_geometry_no_guess() -> None:
    zero = torch.zeros(1, 4, 4, 4)
    with pytest.raises(ValueError, match="chi_para has no affine"):
        SimulateLocalFieldd(mask_key=None)({"chi_para": zero, "chi_dia": zero})
