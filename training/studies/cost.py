"""What a policy itself costs: time and memory of training, time and size in serving."""

import ctypes
import gc
import os
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from router.policy import Policy
from router.types import Queries
from training.kept_fits import afresh
from training.studies.base import Setup

SERVED = 200  # queries timed one by one
PAUSE_S = 0.01  # between two looks at the memory
MEMORY = Path("/proc/self/statm")


@dataclass(frozen=True)
class TrainingCost:
    """`peak_mb` is the most memory above what was held before; None where the system does not tell."""

    prompts: int
    seconds: float
    peak_mb: float | None


@dataclass(frozen=True)
class ServingCost:
    """Of one query at a time, beyond its vector: the median and the 99th percentile; `size_mb` of learned state."""

    median_ms: float
    p99_ms: float
    size_mb: float


def training_cost(setup: Setup) -> tuple[Policy, TrainingCost]:
    """Trains once, whatever is kept of fits before, and gives the policy too."""
    setup = replace(setup, fitted=afresh)
    watch = _Peak()
    with watch:
        began = time.perf_counter()
        policy = setup.trained(setup.train)
        seconds = time.perf_counter() - began
    return policy, TrainingCost(len(setup.train), seconds, watch.megabytes)


def serving_cost(policy: Policy, queries: Queries) -> ServingCost:
    """Of at most `SERVED` of the queries."""
    times = []
    for row in range(min(SERVED, len(queries))):
        one = _one(queries, row)
        began = time.perf_counter()
        policy.predict(one)
        times.append(1e3 * (time.perf_counter() - began))
    size = sum(array.nbytes for array in policy.state().values()) / 1e6
    return ServingCost(float(np.median(times)), float(np.quantile(times, 0.99)), size)


def _one(queries: Queries, row: int) -> Queries:
    place = slice(row, row + 1)
    return Queries(
        embeddings=queries.embeddings[place],
        input_tokens=queries.input_tokens[place],
        prompts=None if queries.prompts is None else queries.prompts[place],
        features=None if queries.features is None else queries.features[place],
    )


class _Peak:
    """Looks at the process's memory every few milliseconds while a block runs."""

    megabytes: float | None = None

    def __enter__(self) -> None:
        gc.collect()
        _give_back()
        self._done = threading.Event()
        self._before = self._most = _resident()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()
        if self._before is not None and self._most is not None:
            self.megabytes = (self._most - self._before) / 1e6

    def _watch(self) -> None:
        while not self._done.wait(PAUSE_S):
            now = _resident()
            if now is not None and self._most is not None:
                self._most = max(self._most, now)


def _give_back() -> None:
    """Hands freed memory to the system, where the C library can: else what is used again would not show."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _resident() -> int | None:
    try:
        return int(MEMORY.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
