"""Every case has its row: truth, estimate and their difference of both sources, in the windows of the caption."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from custom_transforms.keys import CHI_DIA, CHI_PARA
from custom_transforms.report.failure_figures import Slices, save_failures_figure
from custom_transforms.report.figures import ERROR_WINDOW_PPM, WINDOWS_PPM


def make_slices(shape: tuple[int, int], *, aspect: float) -> Slices:
    values = 0.1 * np.random.default_rng(1).random((4, *shape)).astype(np.float32)
    return Slices(values[:2], values[2:], aspect)


def test_rows_hold_the_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *args, **kw: (drawn.append(figure), save(figure, *args, **kw))
    )
    cases = {"first: NRMSE 1 / 2 %": make_slices((9, 12), aspect=1.0), "second": make_slices((5, 4), aspect=2.5)}
    save_failures_figure(tmp_path / "failures.png", cases)
    assert (tmp_path / "failures.png").read_bytes().startswith(b"\x89PNG")
    head, *rows, foot = drawn[0].subfigs
    assert [text.get_text() for text in head.texts] == [
        f"{source}: {what}" for source in (CHI_PARA, CHI_DIA) for what in ("truth", "estimate", "difference")
    ]
    window = WINDOWS_PPM[CHI_PARA]
    for row, (label, slices) in zip(rows, cases.items(), strict=True):
        assert [text.get_text() for text in row.texts] == [label]
        images = [axes.get_images()[0] for axes in row.axes]
        difference = slices.estimate - slices.truth
        expected = [part[i] for i in range(2) for part in (slices.truth, slices.estimate, difference)]
        for image, values in zip(images, expected, strict=True):
            np.testing.assert_array_equal(np.asarray(image.get_array()).T, values)
            assert image.origin == "lower" and image.axes.get_aspect() == slices.aspect
        assert [image.get_clim() for image in images] == 2 * [window, window, ERROR_WINDOW_PPM]
    (caption,) = foot.texts
    for number in (*window, *ERROR_WINDOW_PPM):
        assert f"{number:g}" in caption.get_text()
