import numpy as np
import pytest
import torch

from custom_transforms.phantom.template import TEMPLATE_FILE, Template, build_template, load_template


def at(volume: torch.Tensor, template: Template, x: int, y: int, z: int) -> float:
    i, j, k = (round(p - o) for p, o in zip((x, y, z), template.origin_mm, strict=True))
    return float(volume[i, j, k])


def test_probabilities_add_up_to_the_mask():
    template = load_template()
    total = template.gm + template.wm + template.csf
    torch.testing.assert_close(total, template.mask.float(), rtol=0, atol=1 / 255)
    assert 1.8e6 < int(template.mask.sum()) < 2.0e6  # mm3, the intracranial part of an adult's brain


def test_symmetric_about_x_zero():
    template = load_template()
    size = template.mask.shape[0]
    assert template.origin_mm[0] == -(size // 2)
    assert size % 2 == 1
    for volume in (template.gm, template.wm, template.csf, template.mask):
        assert torch.equal(volume, volume.flip(0))


@pytest.mark.parametrize("side", [-1, 1])
def test_landmarks_have_their_tissue(side):
    template = load_template()
    assert at(template.csf, template, side * 5, 10, 10) > 0.9  # anterior horn of the lateral ventricle
    assert at(template.wm, template, side * 25, -20, 34) > 0.9  # centrum semiovale
    assert at(template.wm, template, 0, 26, 8) > 0.9  # genu of the corpus callosum
    assert at(template.gm, template, side * 13, 12, 8) > 0.5  # caudate
    assert at(template.csf, template, side * 5, 10, -10) < 0.1  # the check can fail: the axes are not flipped
    assert at(template.wm, template, 0, -26, 8) < 0.1


def test_file_is_small_and_carries_its_notice():
    assert TEMPLATE_FILE.stat().st_size < 4 * 2**20
    assert "Montreal Neurological Institute" in TEMPLATE_FILE.with_name("MNI152_NOTICE.txt").read_text()


def test_file_is_what_nilearn_gives():
    pytest.importorskip("nilearn")
    built = build_template()
    with np.load(TEMPLATE_FILE) as stored:
        assert set(stored) == set(built)
        for name, array in built.items():
            np.testing.assert_array_equal(stored[name], array)
