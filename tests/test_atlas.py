"""Regions found in simulated heads against the true ones; what does not fit is noticed."""

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from custom_transforms import elastix, keys
from custom_transforms.atlas import Atlas, register_atlas
from custom_transforms.classical import TKDSusceptibility
from custom_transforms.phantom import Acquisition, AnatomicalBrain
from custom_transforms.phantom.brain import AFFINE
from custom_transforms.phantom.structures import REGIONS
from custom_transforms.phantom.warp import rotation_matrix
from custom_transforms.report.normative import region_table

LARGE = ("caudate", "putamen", "thalamus", "pulvinar", "hippocampus")
NUCLEI = (*LARGE, "pallidum_external", "pallidum_internal", "red_nucleus", "substantia_nigra", "dentate_nucleus")
TRACTS = ("corona_radiata", "anterior_limb_internal_capsule", "posterior_limb_internal_capsule", "corpus_callosum_genu")


def dice(found: Tensor, truth: Tensor, region: str) -> float:
    a, b = found == REGIONS[region], truth == REGIONS[region]
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def register_briefly(images: dict[str, Tensor], mask: Tensor, *, affine: Tensor | None = None) -> Atlas:
    """Fewer iterations than usual, enough for large voxels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elastix, "_STAGES", [stage._replace(iterations=30) for stage in elastix._STAGES])
        patch.setattr(elastix, "_SAMPLES", 1500)
        return register_atlas(images, mask, affine=affine)


@pytest.fixture(scope="module")
def head() -> dict[str, Tensor]:
    """A tilted head of anisotropic voxels: its true maps, as images with an affine."""
    subject = Acquisition().exact(AnatomicalBrain(voxel_size_mm=(3.0, 3.5, 4.0), tilt_deg=20.0)(3))
    subject[keys.CHI_TOTAL] = subject[keys.CHI_PARA] - subject[keys.CHI_DIA]
    names = (keys.CHI_PARA, keys.CHI_DIA, keys.CHI_TOTAL, keys.R2STAR, keys.MASK, keys.REGIONS)
    return {name: MetaTensor(subject[name], affine=subject[AFFINE]) for name in names}


@pytest.fixture(scope="module")
def atlas(head: dict[str, Tensor]) -> Atlas:
    return register_briefly(head, head[keys.MASK])


def test_labels_are_near_the_true_ones(head: dict[str, Tensor], atlas: Atlas) -> None:
    truth = head[keys.REGIONS].as_tensor()
    assert atlas.labels.dtype == torch.uint8
    assert atlas.labels.shape == truth.shape
    assert torch.equal(atlas.labels.affine, head[keys.MASK].affine)
    assert not atlas.labels[head[keys.MASK] == 0].any()
    assert atlas.fits
    assert min(dice(atlas.labels.as_tensor(), truth, region) for region in LARGE) > 0.65
    assert dice(atlas.labels.as_tensor(), truth.roll(4, dims=2), "putamen") < 0.5  # Dice that misses by 14 mm


def test_order_and_direction_of_axes_do_not_matter(head: dict[str, Tensor]) -> None:
    """A grid stored as I, L, P instead of R, A, S, by the images without their affine."""
    affine, size = head[keys.MASK].affine, head[keys.MASK].shape
    turned = {name: image.as_tensor().flip((1, 2, 3)).permute(0, 3, 1, 2) for name, image in head.items()}
    grid = affine.clone()
    grid[:3, :3] = -affine[:3, [2, 0, 1]]
    grid[:3, 3] += affine[:3, :3] @ (torch.tensor(size[1:]) - 1).double()
    found = register_briefly({keys.R2STAR: turned[keys.R2STAR]}, turned[keys.MASK], affine=grid)
    assert found.fits
    assert min(dice(found.labels, turned[keys.REGIONS], region) for region in LARGE) > 0.6


def test_head_upside_down_does_not_fit(head: dict[str, Tensor]) -> None:
    half_turn = torch.eye(4, dtype=torch.float64)
    half_turn[:3, :3] = rotation_matrix(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), 180.0)
    wrong = half_turn @ head[keys.MASK].affine
    data = {name: MetaTensor(head[name].as_tensor(), affine=wrong) for name in (keys.R2STAR, keys.MASK)}
    assert not register_briefly({keys.R2STAR: data[keys.R2STAR]}, data[keys.MASK]).fits


def test_what_cannot_be_registered_is_refused(head: dict[str, Tensor]) -> None:
    mask, r2star = head[keys.MASK], head[keys.R2STAR]
    with pytest.raises(ValueError, match="expected one of r2star, r2prime, magnitude to register, got chi_total"):
        register_atlas({keys.CHI_TOTAL: head[keys.CHI_TOTAL]}, mask)
    with pytest.raises(ValueError, match="with an affine, or affine, got neither"):
        register_atlas({keys.R2STAR: r2star}, mask.as_tensor())
    with pytest.raises(ValueError, match="r2star is constant, NaN or infinite inside the mask"):
        register_atlas({keys.R2STAR: torch.full_like(r2star, 3.0)}, mask)
    with pytest.raises(ValueError, match="chi_total is constant, NaN or infinite inside the mask"):
        register_atlas({keys.R2STAR: r2star, keys.CHI_TOTAL: r2star.log() - r2star.log()}, mask)
    with pytest.raises(ValueError, match="r2star is not on the grid of mask"):
        register_atlas({keys.R2STAR: r2star[:, 1:]}, mask)


def test_a_small_piece_of_brain_is_not_tried(head: dict[str, Tensor]) -> None:
    piece = torch.zeros_like(head[keys.MASK])
    piece[:, 20:30, 20:30, 20:30] = 1
    with pytest.raises(ValueError, match="the mask holds 42 ml of brain; regions are found in 150 or more"):
        register_atlas({keys.R2STAR: head[keys.R2STAR]}, piece)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11, 12])
def test_regional_means_are_those_of_the_true_regions(seed: int) -> None:
    """SNR 100, 2 mm, 20 degrees, chi_total by truncated division; the means are of the true maps."""
    tissue = AnatomicalBrain(voxel_size_mm=(2.0, 2.0, 2.0), tilt_deg=20.0)(seed)
    maps = Acquisition()(tissue, snr=100.0, generator=torch.Generator().manual_seed(seed))
    image = torch.cat([maps[keys.LOCAL_FIELD], maps[keys.R2PRIME], maps[keys.MASK]])[None]
    chi_total = TKDSusceptibility()(image, maps[keys.VOXEL_SIZE_MM][None], maps[keys.B0_DIRECTION][None])[0]
    images = {keys.CHI_TOTAL: chi_total, keys.R2STAR: maps[keys.R2STAR]}
    atlas = register_atlas(images, maps[keys.MASK], affine=tissue[AFFINE])
    truth = tissue[keys.REGIONS]
    assert atlas.fits
    assert min(dice(atlas.labels, truth, region) for region in LARGE) > 0.85
    assert min(dice(atlas.labels, truth, region) for region in (*NUCLEI, *TRACTS)) > 0.6
    vein = truth == REGIONS["vein"]  # the template has none, so that they would be what tells the two means apart
    means = [
        {(row.region, row.quantity): row.mean for row in region_table(maps, labels, voxel_size_mm=(2.0, 2.0, 2.0))}
        for labels in (torch.where(vein, 0, atlas.labels), torch.where(vein, 0, truth))
    ]
    for region in (*LARGE, "globus_pallidus", "all_white_matter"):
        assert means[0][region, keys.CHI_PARA] == pytest.approx(means[1][region, keys.CHI_PARA], rel=0.1)
    for region in ("globus_pallidus", "all_white_matter", *TRACTS):
        assert means[0][region, keys.CHI_DIA] == pytest.approx(means[1][region, keys.CHI_DIA], rel=0.1)
