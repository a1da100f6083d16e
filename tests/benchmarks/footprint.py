"""What a gateway takes: memory under load, the time until it is ready, the time its import takes."""

import statistics
import subprocess
import sys
from pathlib import Path

import prompts
import served
import servers
from bench import Bench
from native import GATEWAY_CORE, Shape, pinned
from report import Figure, judged
from rounds import over_rounds
from served import PLAIN, Place

STARTS = 5


def memory(bench: Bench) -> list[Figure]:
    """After a last mixed load, so that the encoder has run and every cache holds what it will."""
    fresh = prompts.unseen(500, seed=4)
    bodies = bench.bodies("mixed", prompts.in_turn(fresh, PLAIN, "auto"))
    bench.load("gateway", Shape(16, 5.0, 2 * len(fresh)), bodies)
    family = servers.memory(bench.who["gateway"].pid)
    serving, others = family[0], family[1:]
    return [
        judged(
            Figure("memory of the serving process after the load: RSS", serving.rss_mib, unit="MiB", goal="< 300")
        ),
        Figure("memory of the serving process after the load: PSS", serving.pss_mib, unit="MiB"),
        Figure("memory of its children (the embedded Redis): RSS", sum(m.rss_mib for m in others), unit="MiB"),
    ]


def starts(bench: Bench, upstream_port: int, cache_dir: Path) -> list[Figure]:
    """`cache_dir` must not hold a graph yet: the first start exports it, the others find it."""
    experts = served.endpoints(upstream_port)
    ready = []
    for number in range(STARTS + 1):
        place = Place(bench.work / f"start-{number}", cache_dir)
        with servers.running(served.gateway(f"start-{number}", experts, place), bench.work) as server:
            ready.append(server.ready_s)
    return [
        over_rounds("start of the process to ready, graph exported before", ready[1:], "s", "< 3"),
        Figure("the first start ever, with the export", ready[0], unit="s"),
    ]


def imports() -> list[Figure]:
    """In fresh processes with the files in the page cache and the bytecode written."""
    script = "import time; t = time.perf_counter(); import gateway.app; print(time.perf_counter() - t)"

    def once() -> float:
        run = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            preexec_fn=pinned(GATEWAY_CORE),
        )
        return float(run.stdout)

    once()
    taken = [once() for _ in range(STARTS)]
    name = "import gateway.app (fresh process, warm file cache)"
    return [judged(Figure(name, statistics.median(taken), min(taken), max(taken), "s", "< 0.7"))]
