"""The slice is the one that was meant, the errors are estimate - truth, and every variant has its panel."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from custom_transforms.keys import CHI_DIA, CHI_PARA
from custom_transforms.report.benchmark_figures import axial_slices, save_error_maps_figure, save_regression_figure
from custom_transforms.report.figures import ERROR_WINDOW_PPM, WINDOWS_PPM

TRUTH = np.stack([np.full((8, 9), 0.05), np.full((8, 9), 0.03)])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures that were saved."""
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *args, **kw: (figures.append(figure), save(figure, *args, **kw))
    )
    return figures


def panels(figure: Figure) -> list[Axes]:
    return [axes for part in figure.subfigs for axes in part.axes if axes.get_images()]


def test_slice_is_cut_through_the_mask_and_turned() -> None:
    """Voxel axes run to the back, left and top; the slice's to the right and front."""
    affine = np.array([[0, -2.0, 0, 0], [-1, 0, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]])
    volume = np.arange(7 * 6 * 5, dtype=np.float32).reshape(7, 6, 5)
    mask = np.zeros(volume.shape)
    mask[1:4, 2:6, 1:4] = 1
    slices, aspect = axial_slices(np.stack([volume, 2 * volume]), mask, affine)
    assert slices.shape == (2, 4, 3)
    assert np.array_equal(slices[0], volume[1:4, 2:6, 2].T[::-1, ::-1])
    assert np.array_equal(slices[1], 2 * slices[0])
    assert aspect == 0.5


@pytest.mark.parametrize(("count", "blocks"), [(1, 1), (4, 1), (5, 2), (16, 4)])
def test_every_variant_has_its_panels(drawn: list[Figure], tmp_path: Path, count: int, blocks: int) -> None:
    estimates = {f"v{i}": TRUTH + 0.001 * i for i in range(count)}
    save_error_maps_figure(tmp_path / "errors.png", TRUTH, estimates, aspect=1.2)
    assert (tmp_path / "errors.png").read_bytes().startswith(b"\x89PNG")
    images = panels(drawn[0])
    assert len(images) == 2 * (2 * count + blocks)
    titles = [axes.get_title(loc="left") for axes in images]
    assert [title for title in titles if title not in ("", "truth")] == list(estimates)
    assert titles.count("truth") == blocks


def test_errors_follow_their_estimates(drawn: list[Figure], tmp_path: Path) -> None:
    save_error_maps_figure(tmp_path / "errors.png", TRUTH, {"a": 0.5 * TRUTH, "b": TRUTH}, aspect=1.0)
    rows = np.array([axes.get_images()[0] for axes in panels(drawn[0])]).reshape(2, 5)
    for i, (row, name) in enumerate(zip(rows, (CHI_PARA, CHI_DIA), strict=True)):
        found = [float(np.asarray(image.get_array()).mean()) for image in row]
        assert np.allclose(found, TRUTH[i, 0, 0] * np.array([1, 0.5, -0.5, 1, 0]))
        windows = [WINDOWS_PPM[name]] * 2 + [ERROR_WINDOW_PPM, WINDOWS_PPM[name], ERROR_WINDOW_PPM]
        assert [image.get_clim() for image in row] == windows


def test_regression_shows_points_and_slopes(drawn: list[Figure], tmp_path: Path) -> None:
    x = np.array([0.01, 0.02, 0.1])
    points = {
        f"v{i}": {CHI_PARA: np.stack([x, 0.5 * x], 1), CHI_DIA: np.stack([x, 0.02 + 0.9 * x], 1)} for i in range(5)
    }
    save_regression_figure(tmp_path / "regression.png", points)
    shown = [axes for axes in drawn[0].axes if axes.collections]
    assert [axes.get_title() for axes in shown] == [f"v{i}\nslopes 0.50 and 0.90" for i in range(5)]
    para, dia = (np.asarray(collection.get_offsets()) for collection in shown[4].collections)
    assert np.allclose(para, points["v4"][CHI_PARA]) and np.allclose(dia, points["v4"][CHI_DIA])
