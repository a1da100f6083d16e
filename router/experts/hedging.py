"""When a second attempt beside the first is worth its price: where the first is slower than nearly all before."""

import math
from collections import deque

KEPT = 200  # of the last answers
FEWEST = 20  # below it the slowest percent are not known


class Patience:
    """How long an expert's answers have taken to begin, of one kind (streams, or whole answers)."""

    __slots__ = ("_bound_s", "_last", "_since", "share")

    def __init__(self, share: float) -> None:
        """`share`: of the answers that came in time; above it, a second attempt is made."""
        self.share = share
        self._last: deque[float] = deque(maxlen=KEPT)
        self._bound_s: float | None = None
        self._since = 0

    def add(self, seconds: float) -> None:
        self._last.append(seconds)
        self._since += 1
        if len(self._last) >= FEWEST and (self._bound_s is None or self._since >= FEWEST):
            self._since = 0
            ordered = sorted(self._last)
            self._bound_s = ordered[min(math.ceil(self.share * len(ordered)), len(ordered)) - 1]

    def bound_s(self) -> float | None:
        """The time that the given share of answers took at most; None until enough are known."""
        return self._bound_s
