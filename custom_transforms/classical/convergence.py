"""How iterative methods tell where they are, and when they stop."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from tqdm import tqdm


class Residual(NamedTuple):
    """How far an iteration was from the solution.

    Attributes:
        iteration: its number, from 1.
        primal: relative primal residual, the largest of the batch.
        dual: relative dual residual, the largest of the batch.
    """

    iteration: int
    primal: float
    dual: float


Progress = Callable[[Residual], None]
"""Is called with each residual."""


@dataclass(frozen=True)
class StoppingRule:
    """When to stop.

    Attributes:
        tolerance: of both relative residuals.
        iterations: at most.
    """

    tolerance: float = 1e-3
    iterations: int = 200

    def __post_init__(self) -> None:
        """Raise ValueError for values that cannot be reached."""
        if not (self.tolerance > 0 and self.iterations > 0):
            raise ValueError(
                f"tolerance and iterations must be positive, got {self.tolerance} and {self.iterations}; "
                "1e-3 and 200 are usual"
            )

    def is_met(self, residual: Residual) -> bool:
        """Say whether both residuals are below the tolerance."""
        return max(residual.primal, residual.dual) < self.tolerance


class ResidualBar:
    """Count iterations on standard error, with the residuals beside; nothing is shown where nobody watches."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def __call__(self, residual: Residual) -> None:
        """Show a residual; an iteration that is not later than the last one begins anew."""
        if self._bar is None or residual.iteration <= self._bar.n:
            self._bar = tqdm(desc="iterating", unit="it", disable=None, leave=False)
            self._bar.n = 0
        self._bar.set_postfix_str(f"residuals {residual.primal:.1e}, {residual.dual:.1e}", refresh=False)
        self._bar.update(residual.iteration - self._bar.n)
