"""A named expert, no streaming: how many requests one core passes through, and how long the slowest wait.

Per CPU second means of the server and its children: what is left of the figures where other work has the core too.
"""

import prompts
from bench import Bench
from native import Shape
from report import Figure
from rounds import alternate, over_rounds, ratio_of
from served import PLAIN


def measure(bench: Bench) -> list[Figure]:
    bodies = bench.bodies("plain", [prompts.body(PLAIN, prompts.unseen(1, seed=1)[0])])
    everyone = ("direct", "barest", "litellm", "gateway")
    at_16 = alternate(bench.rounds, bench.contenders(everyone, Shape(16, 2.5), bodies))
    rps = {name: [run.rps for run in runs] for name, runs in at_16.items()}
    per_core = {name: [run.per_core for run in runs] for name, runs in at_16.items()}
    at_64 = alternate(bench.rounds, bench.contenders(("barest", "gateway"), Shape(64, 2.5), bodies))
    p99 = {name: [run.p99_ms for run in runs] for name, runs in at_64.items()}
    ours = rps.get("gateway", [])
    return [
        ratio_of("pass-through, 16 concurrent: against LiteLLM's proxy", ours, rps.get("litellm", []), ">= 30"),
        ratio_of("pass-through, 16 concurrent: against the barest FastAPI + aiohttp", ours, rps["barest"], ">= 1"),
        over_rounds("pass-through, 16 concurrent: gateway", ours, "requests/s"),
        over_rounds("pass-through, 16 concurrent: LiteLLM's proxy", rps.get("litellm", []), "requests/s"),
        over_rounds("pass-through, 16 concurrent: barest FastAPI + aiohttp", rps["barest"], "requests/s"),
        ratio_of(
            "pass-through, 16 concurrent, per CPU second: against LiteLLM's proxy",
            per_core.get("gateway", []),
            per_core.get("litellm", []),
        ),
        ratio_of(
            "pass-through, 16 concurrent, per CPU second: against the barest",
            per_core.get("gateway", []),
            per_core["barest"],
        ),
        over_rounds(
            "pass-through, 16 concurrent, per CPU second: gateway", per_core.get("gateway", []), "requests"
        ),
        over_rounds(
            "pass-through, 16 concurrent, per CPU second: LiteLLM", per_core.get("litellm", []), "requests"
        ),
        over_rounds("pass-through, 16 concurrent, per CPU second: barest", per_core["barest"], "requests"),
        over_rounds("pass-through, 16 concurrent: upstream itself", rps["direct"], "requests/s"),
        over_rounds("pass-through, 64 concurrent: p99 of the gateway", p99.get("gateway", []), "ms", "< 30"),
        over_rounds("pass-through, 64 concurrent: p99 of the barest", p99["barest"], "ms"),
    ]
