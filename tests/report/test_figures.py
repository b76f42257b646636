"""The figures show the right slice, the right way round, in the window that their colour bar claims."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from custom_transforms.report import save_comparison_figure, save_maps_figure
from custom_transforms.report.figures import WINDOWS_PPM

AFFINE_LPS = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures that were saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: object, **kwargs: object) -> None:
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def head() -> np.ndarray:
    """A block, brighter at the patient's right front; voxel axes run to the left, back and top."""
    volume = np.zeros((12, 10, 8), np.float32)
    volume[2:10, 2:8, 1:7] = 0.04
    volume[2:4, 2:4, 1:7] = 0.08
    return volume


def shown(axes: Axes) -> np.ndarray:
    return np.asarray(axes.get_images()[0].get_array())


def test_maps_figure(drawn: list[Figure], tmp_path: Path) -> None:
    save_maps_figure(tmp_path / "maps.png", {"chi_para": head(), "chi_total": -head()}, AFFINE_LPS)
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")
    images = [axes for axes in drawn[0].axes if axes.get_images()]
    maps = [axes for axes in images if len(shown(axes).shape) == 2][:6]
    sagittal, coronal, axial = (shown(axes) for axes in maps[:3])
    assert (sagittal.shape, coronal.shape, axial.shape) == ((8, 10), (8, 12), (10, 12))
    # rows run from the back to the front, columns from the patient's left to the right
    assert np.argwhere(axial == axial.max()).min(axis=0).tolist() == [6, 8]
    assert [axes.get_aspect() for axes in maps[:3]] == [2.0, 2.0, 1.0]
    assert [axes.get_images()[0].get_clim() for axes in maps] == [WINDOWS_PPM["chi_para"]] * 3 + [
        WINDOWS_PPM["chi_total"]
    ] * 3
    assert sum(axes.get_ylabel() == "ppm" for axes in drawn[0].axes) == 2


def test_note_is_beneath_the_maps(drawn: list[Figure], tmp_path: Path) -> None:
    for note in ("", "R2' is predicted"):
        save_maps_figure(tmp_path / "maps.png", {"chi_para": head()}, AFFINE_LPS, note=note)
    assert [figure.get_supxlabel() for figure in drawn] == ["", "R2' is predicted"]


def test_comparison_figure_shows_the_error(drawn: list[Figure], tmp_path: Path) -> None:
    truth = {"chi_para": head(), "chi_dia": head() / 2}
    wrong = {"chi_para": head() + 0.01 * (head() > 0), "chi_dia": head() / 2}
    save_comparison_figure(tmp_path / "comparison.png", truth, {"method": wrong}, AFFINE_LPS)
    panels = {axes.get_title(): axes for axes in drawn[0].axes if axes.get_title()}
    assert list(panels) == ["truth", "method", "method: error"]
    error = shown(panels["method: error"])
    assert np.allclose(error[error != 0], 0.01)
    assert np.allclose(shown(panels["method"]) - shown(panels["truth"]), error)


def test_empty_maps_are_drawn(tmp_path: Path) -> None:
    save_maps_figure(tmp_path / "empty.png", {"chi_dia": np.zeros((5, 4, 3))}, np.eye(4))
    assert (tmp_path / "empty.png").is_file()
