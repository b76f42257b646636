"""Which stage runs, and how long it still takes: a bar for people who watch, lines for logs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TextIO

from tqdm import tqdm

TYPICAL_SECONDS = {
    "reading": 6,
    "mask": 6,
    "phase_offset": 12,
    "unwrapping": 25,
    "background": 50,
    "spin_echo_alignment": 25,
    "separation": 15,
    "background_again": 50,
    "separation_again": 15,
    "regions": 50,
    "report": 15,
}
"""Of a 1 mm head on two cores: the share of each stage in the bar. A stage that is not here counts as 3 s."""

_OTHER_SECONDS = 3


class Progress:
    """The progress of one scan.

    Args:
        name: of the scan.
        stages: names of all that may run, in their order.
        verbose: write a line for each stage, with its time, even if nobody watches.
        bar: draw a bar if somebody watches; several scans at once must not.
        stream: where to write; standard error if None.
    """

    def __init__(
        self,
        name: str,
        stages: Sequence[str],
        *,
        verbose: bool = False,
        bar: bool = True,
        stream: TextIO | None = None,
    ) -> None:
        self.name, self.verbose = name, verbose
        self.stream = sys.stderr if stream is None else stream
        self._seconds = {stage: TYPICAL_SECONDS.get(stage, _OTHER_SECONDS) for stage in stages}
        self._current, self._started = "", time.monotonic()
        self._bar = tqdm(
            total=sum(self._seconds.values()),
            desc=name,
            file=self.stream,
            disable=None if bar and not verbose else True,  # None: only where it is a terminal
            bar_format="{desc}: {percentage:3.0f}% |{bar:30}| {postfix}, {elapsed} so far, {remaining} left",
        )

    def begin(self, stage: str) -> None:
        """Say that a stage begins; the one before is done."""
        self.end()
        self._current, self._started = stage, time.monotonic()
        self._bar.set_postfix_str(stage.replace("_", " "))

    def end(self, how: str = "") -> None:
        """Say that the present stage is done.

        Args:
            how: what to add in a line of the log, such as "from the cache".
        """
        if not self._current:
            return
        self._bar.update(self._seconds.get(self._current, 0))
        if self.verbose:
            took = f"{time.monotonic() - self._started:.1f} s"
            print(f"{self.name}: {self._current} {how or took}", file=self.stream, flush=True)
        self._current = ""

    def close(self) -> None:
        """Take the bar away."""
        self.end()
        self._bar.close()
