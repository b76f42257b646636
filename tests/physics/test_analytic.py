"""Analytic fields by hand, then as references of the dipole convolution.

The bodies are voxelised with partial volumes on a 4 times finer grid. What is left of the difference within 2.5 mm of a
surface is left out; elsewhere the fields agree to 8 % of the norm (measured: 0.6 % for isotropic voxels with axial
B0, 3 % oblique, 7 % with voxels of 2 mm for a radius of 7 mm), where any mistake of geometry costs at least 30 %.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from custom_transforms.physics import DipoleConvolution, cylinder_field, sphere_field

DISCRETISATION = 0.08
MISTAKE = 0.3
CHI_PPM = 0.6
RADIUS_MM = 7.0
SURFACE_MM = 2.5
FINER = 4


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def unit(*values: float) -> Tensor:
    return torch.nn.functional.normalize(vector(*values), dim=0)


def voxelise(body: Callable, shape: tuple, voxel_size_mm: Tensor, centre: Tensor, **kwargs) -> Tensor:
    """Susceptibility with partial volumes; an axis of one voxel is the direction of an infinite cylinder."""
    finer = [FINER if n > 1 else 1 for n in shape]
    fine_shape = tuple(n * k for n, k in zip(shape, finer, strict=True))
    fine_centre = (centre + 0.5) * vector(*finer) - 0.5
    _, inside = body(fine_shape, voxel_size_mm / vector(*finer), unit(0, 0, 1), centre_voxel=fine_centre, **kwargs)
    return torch.nn.functional.avg_pool3d(inside.double()[None, None], finer) * CHI_PPM


def convolved(chi: Tensor, voxel_size_mm: Tensor, b0_direction: Tensor, padding: float) -> Tensor:
    return DipoleConvolution(padding=padding)(chi, voxel_size_mm[None], b0_direction[None])[0, 0]


def relative_error(field: Tensor, expected: Tensor, region: Tensor) -> float:
    return float((field - expected)[region].norm() / expected[region].norm())


def test_sphere_by_hand():
    # Along z: 2 radii up the pole chi/3 / 8 * 2 = chi/12, 2 radii along the equator -chi/3 / 8 = -chi/24
    centre = vector(0, 0, 0)
    kwargs = {"centre_voxel": centre, "radius_mm": 2.0, "chi_ppm": CHI_PPM}
    field, inside = sphere_field((5, 5, 5), vector(1, 1, 2), unit(0, 0, 1), **kwargs)
    assert field[0, 0, 2].item() == pytest.approx(CHI_PPM / 12)
    assert field[4, 0, 0].item() == pytest.approx(-CHI_PPM / 24)
    assert field[0, 0, 0] == field[1, 1, 0] == 0
    assert inside[2, 0, 0] and inside[0, 0, 1] and not inside[3, 0, 0] and not inside[0, 0, 2]


@pytest.mark.parametrize(
    ("b0_direction", "inside_ppm", "along_x_ppm", "along_y_ppm"),
    [
        (unit(1, 0, 0), -CHI_PPM / 6, CHI_PPM / 8, -CHI_PPM / 8),
        (unit(0, 0, 1), CHI_PPM / 3, 0.0, 0.0),
        (unit(1, 0, 1), CHI_PPM / 12, CHI_PPM / 16, -CHI_PPM / 16),
    ],
)
def test_cylinder_by_hand(b0_direction: Tensor, inside_ppm: float, along_x_ppm: float, along_y_ppm: float):
    # Across the field, 2 radii away: chi/2 / 4 * cos(2 phi), phi = 0 along B0
    kwargs = {"centre_voxel": vector(0, 0, 0), "axis": unit(0, 0, 1), "radius_mm": 2.0, "chi_ppm": CHI_PPM}
    field, inside = cylinder_field((5, 5, 2), vector(1, 1, 1), b0_direction, **kwargs)
    assert inside[:, :, 0].equal(inside[:, :, 1])
    assert field[0, 0, 1].item() == pytest.approx(inside_ppm)
    assert field[4, 0, 1].item() == pytest.approx(along_x_ppm, abs=1e-15)
    assert field[0, 4, 1].item() == pytest.approx(along_y_ppm, abs=1e-15)


SPHERES = {
    "axial": ((40, 40, 40), vector(1, 1, 1), unit(0, 0, 1)),
    "oblique": ((40, 40, 40), vector(1, 1, 1), unit(0.2, -0.4, 0.9)),
    "anisotropic": ((40, 20, 34), vector(1, 2, 1.2), unit(0.2, -0.4, 0.9)),
    "odd": ((41, 27, 35), vector(1, 1.5, 1.2), unit(0.6, 0.3, -0.5)),
}


@pytest.mark.parametrize("name", SPHERES)
def test_convolution_of_a_sphere(name: str):
    shape, voxel_size_mm, b0_direction = SPHERES[name]
    centre = vector(*[(n - 1) / 2 + 0.3 for n in shape])
    chi = voxelise(sphere_field, shape, voxel_size_mm, centre, radius_mm=RADIUS_MM, chi_ppm=CHI_PPM)
    kwargs = {"centre_voxel": centre, "chi_ppm": CHI_PPM}
    expected, _ = sphere_field(shape, voxel_size_mm, b0_direction, radius_mm=RADIUS_MM, **kwargs)
    _, outer = sphere_field(shape, voxel_size_mm, b0_direction, radius_mm=RADIUS_MM + SURFACE_MM, **kwargs)
    _, core = sphere_field(shape, voxel_size_mm, b0_direction, radius_mm=RADIUS_MM - SURFACE_MM, **kwargs)

    field = convolved(chi, voxel_size_mm, b0_direction, padding=1.0)
    assert relative_error(field, expected, ~outer) < DISCRETISATION
    assert field[core].abs().max() < DISCRETISATION * expected.abs().max()  # no field within a sphere
    assert relative_error(-field, expected, ~outer) > 1.9

    if voxel_size_mm[0] != voxel_size_mm[1]:
        swapped = convolved(chi, voxel_size_mm[[1, 0, 2]], b0_direction, padding=1.0)
        assert relative_error(swapped, expected, ~outer) > MISTAKE
    if b0_direction[0] != 0:
        mirrored = convolved(chi, voxel_size_mm, b0_direction * vector(-1, 1, 1), padding=1.0)
        assert relative_error(mirrored, expected, ~outer) > MISTAKE


CYLINDERS = {
    "across B0": ((128, 128, 1), vector(1, 1, 1), unit(0, 0, 1), unit(1, 0, 0)),
    "along z": ((128, 128, 1), vector(1, 1.5, 1), unit(0, 0, 1), unit(0.6, 0.3, -0.5)),
    "along x": ((1, 128, 96), vector(1, 1, 1.5), unit(1, 0, 0), unit(0.2, -0.4, 0.9)),
    "along y": ((96, 1, 128), vector(1.5, 1, 1), unit(0, 1, 0), unit(0.6, 0.3, -0.5)),
}


@pytest.mark.parametrize("name", CYLINDERS)
def test_convolution_of_a_cylinder(name: str):
    # Circular along an axis of one voxel, so the cylinder is infinite there
    shape, voxel_size_mm, axis, b0_direction = CYLINDERS[name]
    centre = vector(*[(n - 1) / 2 for n in shape])
    body = {"axis": axis, "chi_ppm": CHI_PPM}
    chi = voxelise(cylinder_field, shape, voxel_size_mm, centre, radius_mm=RADIUS_MM, **body)
    body["centre_voxel"] = centre
    expected, _ = cylinder_field(shape, voxel_size_mm, b0_direction, radius_mm=RADIUS_MM, **body)
    _, core = cylinder_field(shape, voxel_size_mm, b0_direction, radius_mm=RADIUS_MM - SURFACE_MM, **body)
    _, surface = cylinder_field(shape, voxel_size_mm, b0_direction, radius_mm=RADIUS_MM + SURFACE_MM, **body)
    _, near = cylinder_field(shape, voxel_size_mm, b0_direction, radius_mm=3 * RADIUS_MM, **body)

    region = core | (near & ~surface)
    field = convolved(chi, voxel_size_mm, b0_direction, padding=0)
    assert relative_error(field, expected, region) < DISCRETISATION
    wrong = convolved(chi, voxel_size_mm, unit(*(b0_direction[[1, 2, 0]].tolist())), padding=0)
    assert relative_error(wrong, expected, region) > MISTAKE
