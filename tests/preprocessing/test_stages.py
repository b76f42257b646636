import json

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from custom_transforms.keys import LOCAL_FIELD, NOTES, PHASE, TOTAL_FIELD
from custom_transforms.preprocessing.stages import Stage, StageCache, fingerprint_of


class Scaled(Transform):
    """Write the total field: the phase times a factor."""

    def __init__(self, factor):
        self.factor = factor
        self.calls = 0

    def __call__(self, data):
        type(self).total = getattr(type(self), "total", 0) + 1
        return {**data, TOTAL_FIELD: self.factor * data[PHASE], NOTES: [*data.get(NOTES, []), f"times {self.factor}"]}


@pytest.fixture
def data():
    Scaled.total = 0
    phase = MetaTensor(torch.arange(24.0).reshape(1, 2, 3, 4), affine=torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0])))
    return {PHASE: phase, "echo_times_s": (0.005, 0.011)}


def stage(factor=2.0, **options):
    return Stage(Scaled(factor), name="scale", reads=[PHASE], writes=[TOTAL_FIELD], **options)


def test_a_stage_is_left_out_without_its_input_or_with_the_users_map(data):
    assert stage().applies(data)
    assert not stage().applies({"echo_times_s": (0.005,)})
    assert not stage().applies({**data, PHASE: None})
    assert not stage().applies(data, provided=[TOTAL_FIELD])
    assert not stage(replaced_by=[LOCAL_FIELD]).applies(data, provided=[LOCAL_FIELD])
    assert stage().applies(data, provided=[LOCAL_FIELD])


def test_a_stage_that_changes_a_map_runs_on_the_users_own():
    rescaling = Stage(Scaled(1.0), name="scale", reads=[PHASE], writes=[PHASE])
    assert rescaling.applies({PHASE: torch.zeros(1)}, provided=[PHASE])


def test_results_come_from_the_folder_with_grid_and_notes(data, tmp_path):
    first, restored = StageCache(tmp_path).run(stage(), data)
    assert not restored
    second, restored = StageCache(tmp_path).run(stage(), data)
    assert restored
    assert Scaled.total == 1
    assert torch.equal(first[TOTAL_FIELD].as_tensor(), second[TOTAL_FIELD].as_tensor())
    assert torch.equal(second[TOTAL_FIELD].affine, data[PHASE].affine)
    assert second[NOTES] == first[NOTES] == ["times 2.0"]


@pytest.mark.parametrize("what", ["values", "affine", "settings"])
def test_what_has_changed_runs_again(data, tmp_path, what):
    StageCache(tmp_path).run(stage(), data)
    changed = dict(data)
    if what == "values":
        changed[PHASE] = data[PHASE] + 1e-6
    elif what == "affine":
        changed[PHASE] = MetaTensor(data[PHASE].as_tensor(), affine=2 * data[PHASE].affine)
    _, restored = StageCache(tmp_path).run(stage(3.0 if what == "settings" else 2.0), changed)
    assert not restored


def test_a_change_reaches_the_stages_behind(data, tmp_path):
    behind = Stage(Scaled(1.0), name="behind", reads=[PHASE, TOTAL_FIELD], writes=[TOTAL_FIELD])

    def run(factor):
        cache = StageCache(tmp_path)
        return cache.run(behind, cache.run(stage(factor), data)[0])[1]

    assert not run(2.0)
    assert run(2.0)
    assert not run(4.0)


def test_a_file_that_was_cut_off_is_made_again(data, tmp_path):
    StageCache(tmp_path).run(stage(), data)
    array = tmp_path / "scale_total_field.npy"
    array.write_bytes(array.read_bytes()[:100])
    result, restored = StageCache(tmp_path).run(stage(), data)
    assert not restored
    assert torch.equal(result[TOTAL_FIELD].as_tensor(), 2 * data[PHASE].as_tensor())
    assert json.loads((tmp_path / "scale.json").read_text())["writes"] == [TOTAL_FIELD]


def test_without_a_folder_nothing_is_stored(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    StageCache(None).run(stage(), data)
    assert not list(tmp_path.iterdir())


def test_fingerprints_tell_shape_type_and_numbers():
    a = torch.arange(6.0)
    values = [a, a.reshape(2, 3), a.double(), -a, (1, 2), (1, 3), None]
    assert len({fingerprint_of(value) for value in values}) == len(values)
    assert fingerprint_of(a) == fingerprint_of(a.clone())
