import math

import pytest
import torch

from custom_transforms.phantom import tissue
from custom_transforms.phantom.regions import label_regions
from custom_transforms.phantom.structures import REGIONS
from custom_transforms.phantom.template import load_template
from custom_transforms.phantom.tissue import TISSUES, add_texture, blend, draw_tissue_table, paint_tissue, tissue_table


@pytest.fixture(scope="module")
def maps():
    return paint_tissue(load_template(), label_regions(), tissue_table())


def test_every_region_has_a_tissue():
    assert set(TISSUES) == set(REGIONS)
    para, dia, r2, m0 = tissue_table()[REGIONS["pallidum_internal"]].tolist()
    assert math.isclose(para, 0.1319, rel_tol=1e-6)
    assert math.isclose(dia, 0.0126, rel_tol=1e-6)
    assert math.isclose(r2, 1 / 0.064, rel_tol=1e-6)
    assert m0 < 1
    assert math.isclose(float(tissue_table()[REGIONS["cerebrospinal_fluid"], 2]), 1 / 1.6, rel_tol=1e-6)


def test_subjects_vary_around_the_population():
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([draw_tissue_table(generator) for _ in range(4000)])
    putamen = draws[:, REGIONS["putamen"]]
    torch.testing.assert_close(putamen.mean(0), tissue_table()[REGIONS["putamen"]], rtol=0.03, atol=0)
    assert float(putamen[:, 0].std() / putamen[:, 0].mean()) > 0.35
    assert abs(float(putamen[:, 1].log().std()) - tissue.CHI_SUBJECT_SD) < 0.02
    regions = draws[:, [REGIONS["putamen"], REGIONS["caudate"]], 0].T.log()
    assert abs(float(torch.corrcoef(regions)[0, 1])) < 0.06
    veins = draws[:, REGIONS["vein"], 0]
    assert float(veins.min()) >= 0.1 - 1e-6
    assert float(veins.max()) <= 0.45 + 1e-6


def test_pure_tissue_has_the_values_of_the_table(maps):
    template, regions, table = load_template(), label_regions(), tissue_table()
    for name, probability in (("grey_matter", template.gm), ("cerebrospinal_fluid", template.csf)):
        pure = (regions == REGIONS[name]) & (probability > 0.99)
        torch.testing.assert_close(maps[:, pure].median(1).values, table[REGIONS[name]], rtol=0.02, atol=2e-4)
    i, j, k = (round(p - o) for p, o in zip((25, 2, 0), template.origin_mm, strict=True))
    torch.testing.assert_close(maps[:, i, j, k], table[REGIONS["putamen"]], rtol=1e-3, atol=0)
    assert float((maps[0, i, j, k] - table[REGIONS["grey_matter"], 0]).abs()) > 0.04  # the check can fail


def test_partial_volume_mixes_by_probability(maps):
    template, regions, table = load_template(), label_regions(), tissue_table()
    x, y, z = (round(p - o) for p, o in zip((20, -70, 45), template.origin_mm, strict=True))
    cortex = (slice(x, x + 20), slice(y, y + 15), slice(z, z + 10))  # parietal: no tract or nucleus nearby
    assert int(regions[cortex].max()) == REGIONS["white_matter"]
    names = ("grey_matter", "white_matter", "cerebrospinal_fluid")
    shares = torch.stack([template.gm[cortex], template.wm[cortex], template.csf[cortex]])
    mixed = torch.einsum("rc,rxyz->cxyz", table[[REGIONS[name] for name in names]], shares)
    torch.testing.assert_close(maps[(slice(None), *cortex)], mixed, rtol=1e-4, atol=1e-5)


def test_nothing_outside_the_mask_or_below_zero(maps):
    assert maps[:, ~load_template().mask].abs().max() == 0
    assert maps.min() >= 0


def test_texture_has_the_documented_sd_and_length():
    flat = torch.ones(4, 90, 90, 90)
    textured = add_texture(flat, generator=torch.Generator().manual_seed(3))
    log_chi = textured[:2].log()
    fine = log_chi - torch.nn.functional.avg_pool3d(log_chi, 15, stride=1, padding=7, count_include_pad=False)
    assert abs(float(fine.std()) / tissue.TEXTURE_SD - 1) < 0.15
    assert abs(float(fine.std()) / (2 * tissue.TEXTURE_SD) - 1) > 0.3  # the check can fail
    lag = 2
    correlation = float((fine[:, lag:] * fine[:, :-lag]).mean() / fine.square().mean())
    assert abs(correlation - math.exp(-((lag / tissue.TEXTURE_LENGTH_MM) ** 2))) < 0.1
    assert abs(float(torch.corrcoef(fine.flatten(1))[0, 1])) < 0.1  # the two sources vary independently
    torch.testing.assert_close(textured[2], 1 + tissue.R2_PER_IRON * (textured[0] - 1))
    assert torch.equal(textured[3], flat[3])


def test_blend_replaces_where_covered():
    values = torch.tensor([1.0, 2, 3, 4])
    coverage = torch.tensor([0.0, 0.25, 1.0]).view(3, 1, 1)
    blended = blend(torch.zeros(4, 3, 1, 1), values, coverage)
    torch.testing.assert_close(blended.flatten(1), torch.outer(values, torch.tensor([0.0, 0.25, 1.0])))
