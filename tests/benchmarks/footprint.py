"""What a gateway takes: memory under load, the time until it is ready, the time its import takes."""

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
    ready, used = [], []
    for number in range(STARTS + 1):
        place = Place(bench.work / f"start-{number}", cache_dir)
        with servers.running(served.gateway(f"start-{number}", experts, place), bench.work) as server:
            ready.append(server.ready_s)
            used.append(servers.cpu_s(server.pid))
    return [
        over_rounds("start of the process to ready, graph exported before", ready[1:], "s", "< 3"),
        over_rounds("start of the process to ready: CPU time", used[1:], "s"),
        Figure("the first start ever, with the export", ready[0], unit="s"),
    ]


def imports() -> list[Figure]:
    """In fresh processes with the files in the page cache and the bytecode written."""
    clock = "time.perf_counter(), time.process_time()"
    script = f"import time; a = {clock}; import gateway.app; b = {clock}; print(b[0] - a[0], b[1] - a[1])"

    def once() -> tuple[float, float]:
        run = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            preexec_fn=pinned(GATEWAY_CORE),
        )
        wall_s, cpu_s = run.stdout.split()
        return float(wall_s), float(cpu_s)

    once()
    taken = [once() for _ in range(STARTS)]
    return [
        over_rounds(
            "import gateway.app (fresh process, warm file cache)", [wall for wall, _ in taken], "s", "< 0.7"
        ),
        over_rounds("import gateway.app: CPU time", [cpu for _, cpu in taken], "s"),
    ]
