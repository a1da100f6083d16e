"""`auto`: what routing adds to a request, for prompts never seen and for cached ones.

One at a time, each prompt goes to a named expert and then to `auto`, so both kinds interleave; what routing adds
is the difference of their medians.
"""

from pathlib import Path
from statistics import median

import prompts
from bench import Bench
from native import Answered, Measured, Shape, read_log
from report import Figure
from rounds import over_rounds
from served import PLAIN

Added = tuple[float, float | None]  # ms that routing adds; what the gateway itself says it spends


def measure(bench: Bench) -> list[Figure]:
    goal = "< 5.5" if has_amx() else "< 9"
    unseen = [_unseen(bench, number) for number in range(bench.rounds)]
    cached = _cached(bench)
    full = [_full(bench, number) for number in range(bench.rounds)]
    said = [own for _, own in unseen if own is not None]
    return [
        over_rounds("auto, unseen 64-token prompts: routing adds", [added for added, _ in unseen], "ms", goal),
        over_rounds("auto, unseen 64-token prompts: x-pointsman-overhead-ms", said, "ms"),
        over_rounds("auto, prompts in the cache: routing adds", [added for added, _ in cached], "ms", "< 0.5"),
        over_rounds("auto, unseen prompts, 16 concurrent", [run.rps for run in full], "requests/s", ">= 200"),
        over_rounds(
            "auto, unseen prompts, 16 concurrent, per CPU second", [run.per_core for run in full], "requests"
        ),
    ]


def has_amx() -> bool:
    """Whether the CPU multiplies bfloat16 matrices, which decides which bound the issue sets."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "amx_bf16" in cpuinfo.read_text(encoding="utf-8")


def _unseen(bench: Bench, number: int) -> Added:
    fresh = prompts.unseen(400, seed=1000 + number)
    bodies = bench.bodies(f"unseen-{number}", prompts.in_turn(fresh, PLAIN, "auto"))
    log = bench.work / f"unseen-{number}.log"
    bench.load("gateway", Shape(1, 4.0, 2 * len(fresh)), bodies, log)
    return _added(read_log(log))


def _cached(bench: Bench) -> list[Added]:
    known = prompts.unseen(20, seed=3)
    bodies = bench.bodies("cached", prompts.in_turn(known, PLAIN, "auto"))
    bench.load("gateway", Shape(1, 5.0, 2 * len(known)), bodies)  # fills the cache
    added = []
    for number in range(bench.rounds):
        log = bench.work / f"cached-{number}.log"
        bench.load("gateway", Shape(1, 1.5, 2000), bodies, log)
        added.append(_added(read_log(log)))
    return added


def _added(answers: list[Answered]) -> Added:
    named = [a.latency_ms for a in answers if a.body % 2 == 0]
    auto = [a for a in answers if a.body % 2 == 1]
    own = [a.overhead_ms for a in auto if a.overhead_ms is not None]
    return median(a.latency_ms for a in auto) - median(named), median(own) if own else None


def _full(bench: Bench, number: int) -> Measured:
    seconds = 3.0
    fresh = prompts.unseen(int(seconds * 1500), seed=2000 + number)
    bodies = bench.bodies(f"routed-{number}", (prompts.body("auto", prompt) for prompt in fresh))
    return bench.load("gateway", Shape(16, seconds, len(fresh)), bodies)
