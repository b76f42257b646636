"""Verdicts on claim (h) of Kim 2023: simulated haemorrhage and calcification.

Each is the line through the means of all lesions of a kind; a difference of slopes is real if it exceeds two standard
errors.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from custom_transforms.reproduce.thesis_results import Recovery
from custom_transforms.reproduce.thesis_runs import OURS
from custom_transforms.reproduce.thesis_verdicts import FAILS, HOLDS, OPEN, STANDARD_ERRORS, Outcome, Verdict

UNBIASED_SLOPE = (0.97, 1.03)


def _compare_slopes(lower: Mapping[str, Recovery], higher: Mapping[str, Recovery]) -> Outcome:
    gaps = [
        (higher[kind].slope - lower[kind].slope, np.hypot(higher[kind].slope_error, lower[kind].slope_error))
        for kind in lower
    ]
    if all(gap > STANDARD_ERRORS * error for gap, error in gaps):
        return HOLDS
    return FAILS if any(-gap > STANDARD_ERRORS * error for gap, error in gaps) else OPEN


def _slopes(fits: Mapping[str, Recovery]) -> str:
    return ", ".join(f"{kind} {fit.slope:.2f} ± {fit.slope_error:.2f}" for kind, fit in fits.items())


def lesions_underestimated(fits: Mapping[str, Recovery]) -> Verdict:
    """Judge the first part of claim (h) by the unrolled network's recovery of either kind."""
    below = [(1 - fit.slope, STANDARD_ERRORS * fit.slope_error) for fit in fits.values()]
    outcome = HOLDS if all(a > b for a, b in below) else FAILS if any(-a > b for a, b in below) else OPEN
    return Verdict(
        "h.1",
        "haemorrhage and calcification are underestimated",
        "holds if the slopes of both kinds are really below 1; not, if one is really above",
        outcome,
        f"slopes: {_slopes(fits)}",
    )


def worse_than_baseline(unrolled: Mapping[str, Recovery], baseline: Mapping[str, Recovery]) -> Verdict:
    """Judge the second part of claim (h)."""
    return Verdict(
        "h.2",
        "more than by the baseline",
        "holds if the slopes of both kinds are really lower than the baseline's; not, if one is really higher",
        _compare_slopes(unrolled, baseline),
        f"slopes: unrolled {_slopes(unrolled)}; baseline {_slopes(baseline)}",
    )


def worse_with_iterations(fits: Mapping[int, Mapping[str, Recovery]]) -> Verdict:
    """Judge the third part of claim (h) by networks with other numbers of iterations."""
    counts = sorted(fits)
    rows = [f"{n} iterations: {_slopes(fits[n])}" for n in counts]
    return Verdict(
        "h.3",
        "and more with more iterations",
        "holds if the slopes of both kinds are really lower with the most iterations than with the fewest; not, if one "
        "is really higher",
        _compare_slopes(fits[counts[-1]], fits[counts[0]]) if len(counts) > 1 else OPEN,
        "; ".join(rows),
    )


def solved(fits: Mapping[str, Recovery]) -> Verdict:
    """Judge whether a network solves claim (h)."""
    low, high = UNBIASED_SLOPE
    return Verdict(
        "h.4",
        f"solved: the network `{OURS}` recovers both kinds with a slope of {low} to {high}",
        "holds if both slopes lie there; not, if one does not",
        HOLDS if all(low <= round(fit.slope, 2) <= high for fit in fits.values()) else FAILS,
        f"slopes: {_slopes(fits)}",
    )
