import pytest
import torch

from custom_transforms.keys import IMAGE, LOCAL_FIELD, MAGNITUDE, MASK, R2PRIME
from custom_transforms.transforms import StackMapsd


@pytest.fixture
def maps():
    return {key: torch.full((1, 2, 3, 4), float(i + 1)) for i, key in enumerate((LOCAL_FIELD, R2PRIME, MASK))}


def test_channels_have_their_order(maps):
    image = StackMapsd()(maps)[IMAGE]
    assert image.shape == (3, 2, 3, 4)
    assert image[:, 0, 0, 0].tolist() == [1, 2, 3]


def test_echoes_of_a_magnitude_are_one_channel(maps):
    image = StackMapsd()({**maps, MAGNITUDE: torch.full((2, 2, 3, 4), 3.0)})[IMAGE]
    assert image[:, 0, 0, 0].tolist() == pytest.approx([1, 2, 3, 18**0.5])


def test_files_that_were_not_read_are_left_out(maps):
    paths = {MAGNITUDE: "sub-01_T2starw.nii.gz", R2PRIME: "sub-01_R2primemap.nii.gz"}
    image = StackMapsd()({**maps, **paths})[IMAGE]
    assert image[:, 0, 0, 0].tolist() == [1, 0, 3]


def test_the_field_cannot_be_left_out(maps):
    del maps[LOCAL_FIELD]
    with pytest.raises(KeyError):
        StackMapsd()(maps)
