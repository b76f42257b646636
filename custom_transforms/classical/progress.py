"""Progress of an iterative method, for whoever watches."""

from tqdm import tqdm

from .admm import Residual


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
