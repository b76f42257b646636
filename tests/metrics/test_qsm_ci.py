"""Agreement with the scorer of QSM-CI, where it is installed: pip install -e .[qsm-ci]"""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from custom_transforms.metrics import deep_grey_linearity, hfen_percent, nrmse_percent, xsim

scorer = pytest.importorskip("qsm_ci.qsm_eval", reason="needs the extra qsm-ci")

Maps = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
PAIRS = {
    "xsim": (xsim, scorer.xsim),
    "nrmse": (lambda *maps: nrmse_percent(*maps, demean=True), lambda *maps: scorer.nrmse_challenge(*maps)[0]),
    "hfen": (hfen_percent, scorer.hfen),
}


@pytest.mark.parametrize("name", PAIRS)
def test_scores_agree(maps: Maps, by_volume: Callable, name: str) -> None:
    ours, theirs = PAIRS[name]
    expected = by_volume(theirs, maps)
    np.testing.assert_allclose(ours(*maps), expected, rtol=1e-6, atol=0)
    assert np.abs(ours(maps[0].flip(1), *maps[1:]).numpy() - expected).min() > 1e-3


def test_linearity_agrees(maps: Maps) -> None:
    pred, truth, _ = maps
    regions = torch.randint(0, 9, (3, 1, 9, 8, 11), generator=torch.Generator().manual_seed(1))
    found = deep_grey_linearity(pred, truth, regions, labels=range(1, 7))
    for b, c in np.ndindex(3, 2):
        expected = scorer.dgm_linearity(
            pred[b, c].double().numpy(), truth[b, c].double().numpy(), regions[b, 0].numpy()
        )
        assert float(found[b, c]) == pytest.approx(expected, rel=1e-6)
