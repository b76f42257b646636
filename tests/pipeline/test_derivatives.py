import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom_transforms import keys
from custom_transforms.pipeline import derivatives


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sub-01", "sub-01/anat/sub-01_desc-para_Chimap.nii.gz"),
        ("sub-01_ses-02", "sub-01/ses-02/anat/sub-01_ses-02_desc-para_Chimap.nii.gz"),
        ("sub-01_acq-fast_run-1", "sub-01/anat/sub-01_acq-fast_run-1_desc-para_Chimap.nii.gz"),
    ],
)
def test_maps_have_the_names_of_bids(tmp_path, name, expected):
    assert derivatives.map_path(tmp_path, name, keys.CHI_PARA) == tmp_path / expected


def test_runs_of_a_subject_do_not_overwrite_each_other(tmp_path):
    names = ["sub-01", "sub-01_run-1", "sub-01_run-2", "sub-01_ses-01"]
    assert len({derivatives.scan_path(tmp_path, name, derivatives.REPORT) for name in names}) == len(names)
    assert derivatives.scan_path(tmp_path, "sub-01", derivatives.REPORT) == tmp_path / "sub-01" / "report.html"


def test_every_map_has_a_description_and_a_unit():
    assert derivatives.SUFFIXES.keys() == derivatives.TEXTS.keys()


def test_a_map_is_written_with_its_sidecar(tmp_path):
    affine = torch.tensor([[0, -2.0, 0, 5], [1.0, 0, 0, -7], [0, 0, 3.0, 1], [0, 0, 0, 1]], dtype=torch.float64)
    values = MetaTensor(torch.arange(24.0).reshape(1, 2, 3, 4), affine=affine)
    path = derivatives.write_map(tmp_path, "sub-01", keys.R2STAR, values, {"Origin": "measured"})
    image = nib.load(path)
    assert np.allclose(image.affine, affine)
    assert np.array_equal(image.get_fdata(), values[0].numpy())
    sidecar = json.loads(path.with_name("sub-01_R2starmap.json").read_text())
    assert sidecar["Units"] == "1/s"
    assert sidecar["Origin"] == "measured"


def test_masks_are_small_whole_numbers(tmp_path):
    mask = MetaTensor(torch.ones(1, 2, 2, 2), affine=torch.eye(4))
    path = derivatives.write_map(tmp_path, "sub-01", keys.MASK, mask, {})
    assert nib.load(path).get_data_dtype() == np.uint8


def test_the_description_is_written_once(tmp_path):
    derivatives.write_description(tmp_path, "raw")
    derivatives.write_description(tmp_path, "another")
    description = json.loads((tmp_path / derivatives.DESCRIPTION).read_text())
    assert description["DatasetType"] == "derivative"
    assert description["SourceDatasets"] == [{"URL": "raw"}]


def test_a_record_that_was_cut_off_is_none(tmp_path):
    path = derivatives.scan_path(tmp_path, "sub-01", derivatives.RECORD)
    assert derivatives.read_record(tmp_path, "sub-01") is None
    path.parent.mkdir()
    path.write_text('{"name": "sub')
    assert derivatives.read_record(tmp_path, "sub-01") is None
    path.write_text('{"name": "sub-01"}')
    assert derivatives.read_record(tmp_path, "sub-01") == {"name": "sub-01"}
