"""Streaming: how much later the first chunk comes, how many chunks pass, and whether paced streams stall.

Unpaced, the upstream writes a stream of 50 chunks in one go, so that the chunk rate is the gateway's. Paced, a
chunk comes every 20 ms; a stall is a gap of more than that and 50 ms between two arrivals in one stream.
"""

import prompts
from bench import Bench
from native import Shape
from report import Figure
from rounds import alternate, difference_of, over_rounds
from served import CHUNKS, PACE_MS, PACED, PLAIN

STALL_MS = PACE_MS + 50


def measure(bench: Bench) -> list[Figure]:
    prompt = prompts.unseen(1, seed=2)[0]
    plain = bench.bodies("stream", [prompts.body(PLAIN, prompt, stream=True)])
    paced = bench.bodies("paced", [prompts.body(PACED, prompt, stream=True)])
    everyone = ("direct", "barest", "litellm", "gateway")
    one = alternate(bench.rounds, bench.contenders(everyone, Shape(1, 1.0), plain))
    first = {name: [run.first_p50_ms for run in runs] for name, runs in one.items()}
    many = alternate(bench.rounds, bench.contenders(everyone, Shape(16, 2.0), plain))
    rate = {name: [run.chunks_per_s for run in runs] for name, runs in many.items()}
    per_core = [run.per_core * CHUNKS for run in many.get("gateway", [])]
    slow = alternate(bench.rounds, bench.contenders(("direct", "gateway"), Shape(64, 2.0), paced))
    gaps = {name: [run.gap_ms for run in runs] for name, runs in slow.items()}
    lost = sum(run.requests * CHUNKS - run.chunks for runs in (*one.values(), *many.values()) for run in runs)
    first_direct, ours = first["direct"], "gateway"
    return [
        difference_of(
            "first chunk, one stream: gateway over direct", first.get(ours, []), first_direct, "ms", "<= 1.5"
        ),
        difference_of("first chunk, one stream: barest over direct", first["barest"], first_direct, "ms"),
        difference_of("first chunk, one stream: LiteLLM over direct", first.get("litellm", []), first_direct, "ms"),
        over_rounds("16 streams: gateway", rate.get(ours, []), "chunks/s", ">= 80000"),
        over_rounds("16 streams, per CPU second: gateway", per_core, "chunks"),
        over_rounds("16 streams: barest FastAPI + aiohttp", rate["barest"], "chunks/s"),
        over_rounds("16 streams: LiteLLM's proxy", rate.get("litellm", []), "chunks/s"),
        Figure("16 streams: chunks missing, all servers", lost, goal="<= 0", holds=lost <= 0),
        longest("64 paced streams: longest gap, gateway", gaps.get(ours, []), f"< {STALL_MS}"),
        longest("64 paced streams: longest gap, upstream itself", gaps["direct"]),
    ]


def longest(name: str, gaps: list[float], goal: str | None = None) -> Figure:
    """The longest of all rounds: a stall in one of them is a stall."""
    if not gaps:
        return Figure(name, None, unit="ms", goal=goal)
    holds = None if goal is None else max(gaps) < STALL_MS
    return Figure(name, max(gaps), min(gaps), max(gaps), "ms", goal, holds)
