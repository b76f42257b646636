"""SimulatedBatches: a function of seed and epoch alone, and true to the physics of its labels."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from custom_transforms import keys
from custom_transforms.phantom import Acquisition, AnatomicalBrain, RandomShapes, SimulatedBatches, SimulatedSubjects
from custom_transforms.phantom.steps import ideal_simulation
from custom_transforms.physics import combine_sources

NOISELESS = (1e9, 1e9)


def batches(**options: Any) -> SimulatedBatches:
    phantom = options.pop("phantom", RandomShapes(shape=(16, 14, 12), lesions=None))
    measured = {name: options.pop(name) for name in ("snr", "relaxivity_split") if name in options}
    return SimulatedBatches(
        phantom=phantom,
        simulation=ideal_simulation(**measured),
        **{"batch_size": 2, "length": 2, "seed": 0, **options},
    )


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[key], second[key]) for key in first)


def test_a_function_of_seed_and_epoch() -> None:
    dataset = batches()
    assert len(dataset) == 2
    first, second = list(dataset)
    assert not torch.equal(first["image"], second["image"])
    assert all(map(same, dataset, batches()))
    dataset.set_epoch(1)
    assert not torch.equal(next(iter(dataset))["image"], first["image"])
    dataset.set_epoch(0)
    assert same(next(iter(dataset)), first)
    assert not torch.equal(next(iter(batches(seed=1)))["image"], first["image"])


def test_form() -> None:
    batch = next(iter(batches()))
    assert batch.keys() == {"image", "label", "mask", *keys.GEOMETRY}
    assert batch["image"].shape == (2, 3, 16, 14, 12) and batch["label"].shape == (2, 2, 16, 14, 12)
    assert torch.equal(batch["image"][:, 2:3], batch["mask"])
    for name in (keys.IMAGE, keys.LABEL):
        assert not batch[name][(batch["mask"] == 0).expand_as(batch[name])].any()
    assert bool((batch["image"][:, 1] >= 0).all())


@pytest.fixture(scope="module")
def noiseless() -> dict[str, Tensor]:
    return next(iter(batches(snr=NOISELESS, batch_size=8)))


def test_r2prime_is_that_of_the_sources(noiseless: dict[str, Tensor]) -> None:
    weights = noiseless["relaxivity_weights"]
    _, expected = combine_sources(noiseless["label"], weights)
    torch.testing.assert_close(noiseless["image"][:, 1:2], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(weights.sum(dim=1), torch.full((8,), 2.0))
    _, single = combine_sources(noiseless["label"])
    split = (weights[:, 0] - 1).abs() > 0.01
    assert bool(split.any())
    assert (noiseless["image"][:, 1:2] - single)[split].abs().max() > 1e-3


def field_by_numpy(chi: np.ndarray, voxel_size_mm: np.ndarray, b0: np.ndarray, margin: int) -> np.ndarray:
    """The field of a volume in air: complex FFT in float64, a grid ``margin`` times as long."""
    shape = [margin * n for n in chi.shape]
    k = np.meshgrid(*(np.fft.fftfreq(n, d) for n, d in zip(shape, voxel_size_mm, strict=True)), indexing="ij")
    k2 = sum(x**2 for x in k)
    k2[0, 0, 0] = 1
    dipole = 1 / 3 - sum(x * b for x, b in zip(k, b0, strict=True)) ** 2 / k2
    dipole[0, 0, 0] = 0
    field = np.fft.ifftn(np.fft.fftn(chi, s=shape, axes=(0, 1, 2)) * dipole, axes=(0, 1, 2)).real
    return field[: chi.shape[0], : chi.shape[1], : chi.shape[2]]


def test_field_is_that_of_the_sources(noiseless: dict[str, Tensor]) -> None:
    q, _ = combine_sources(noiseless["label"])
    for i in range(8):
        size, b0 = (noiseless[name][i].double().numpy() for name in (keys.VOXEL_SIZE_MM, keys.B0_DIRECTION))
        mask, found = noiseless["mask"][i, 0].numpy(), noiseless["image"][i, 0].numpy()
        expected = mask * field_by_numpy(q[i, 0].double().numpy(), size, b0, 2)
        scale = np.linalg.norm(expected)
        assert np.linalg.norm(found - expected) / scale < 0.03  # the two padded grids differ in length
        assert np.linalg.norm(found + expected) / scale > 1
        swapped = mask * field_by_numpy(q[i, 0].double().numpy(), size, b0[[1, 2, 0]], 2)
        assert np.linalg.norm(found - swapped) / scale > 0.1


def test_noise_has_the_snr_asked_for() -> None:
    clean, noisy, noisier = (next(iter(batches(snr=(snr, snr)))) for snr in (1e9, 200.0, 50.0))
    assert torch.equal(clean["label"], noisy["label"])
    sd = [float((x["image"][:, 0] - clean["image"][:, 0])[x["mask"][:, 0] > 0].std()) for x in (noisy, noisier)]
    assert sd[1] / sd[0] == pytest.approx(4, rel=0.3)
    assert 1e-4 < sd[0] < 2e-3


def test_half_of_the_volumes_have_one_relaxivity() -> None:
    weights = torch.cat(
        [b["relaxivity_weights"] for b in batches(batch_size=16, phantom=RandomShapes(shape=(8, 8, 8)))]
    )
    assert 6 < int((weights[:, 0] == 1).sum()) < 26
    assert float((weights - 1).abs().max()) <= 0.2
    single = next(iter(batches(relaxivity_split=0.0)))["relaxivity_weights"]
    assert torch.equal(single, torch.ones(2, 2))


def test_subjects_repeat_differ_and_obey_the_model() -> None:
    brain = AnatomicalBrain(voxel_size_mm=(4.0, 4.0, 5.0), tilt_deg=20.0)
    acquisition = Acquisition(relaxivity_para_per_s_ppm=137.0, relaxivity_dia_per_s_ppm=110.0)
    subjects = SimulatedSubjects(brain=brain, length=2, seed=3, snr=None, acquisition=acquisition)
    first, second = subjects[0], subjects[1]
    assert same(first, subjects[0])
    assert first["label"].shape != second["label"].shape or not torch.equal(first["label"], second["label"])
    _, r2prime = combine_sources(first["label"][None], first["relaxivity_weights"][None])
    torch.testing.assert_close(first["image"][None, 1:2], r2prime, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(first["image"][None, 1:2], first["label"].sum(0)[None, None], rtol=1e-2, atol=0)
    assert float(first["b0_direction"].norm()) == pytest.approx(1.0) and float(first["b0_direction"][2]) < 0.95
    with pytest.raises(IndexError, match="from 0 to 1"):
        subjects[2]
