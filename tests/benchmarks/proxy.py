"""`make bench-proxy`: the gateway beside its peers, in one run, on one core each.

Upstream and load generator share a core, every server has the other; what is compared alternates over six rounds,
and ratios are taken within a round. Figures go to `build/bench/proxy.json`.
    python tests/benchmarks/proxy.py [--quick] [--only passthrough] [--only routed] ...
"""

import argparse
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import footprint
import native
import passthrough
import peers
import realised
import routed
import served
import servers
import streams
from bench import Bench
from native import BenchError
from report import BENCH_DIR, Figure, report

SECTIONS = ("start", "passthrough", "streams", "routed", "memory", "realised")
LOADED = {"passthrough", "streams", "routed", "memory"}
UPSTREAM_S = 1800


def main() -> None:
    words = argparse.ArgumentParser(description="Benchmarks of the gateway; see the issue's figures.")
    words.add_argument("--quick", action="store_true", help="two short rounds: whether it runs, not how fast")
    words.add_argument("--only", action="append", choices=SECTIONS, help="this section alone; may be repeated")
    chosen = words.parse_args()
    sections = set(chosen.only or SECTIONS)
    if len(os.sched_getaffinity(0)) < 2:
        print("only one core: load and gateway share it, and every figure is worse than it should be")
    work = BENCH_DIR / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    bench = Bench(native.build(), work, rounds=2 if chosen.quick else 6, brevity=0.3 if chosen.quick else 1.0)
    report("proxy", measure(bench, sections))


def measure(bench: Bench, sections: set[str]) -> list[Figure]:
    begin = time.perf_counter()
    figures = [others_busy()]
    cache_dir = bench.work / "encoder"
    with servers.upstream(bench.programs["upstream"], UPSTREAM_S) as direct:
        if "start" in sections:
            figures += section(
                "start", lambda: footprint.starts(bench, direct.port, cache_dir) + footprint.imports()
            )
        if sections & LOADED:
            bench.who["direct"] = direct
            figures += section("gateway", lambda: under_load(bench, sections, cache_dir))
    if "realised" in sections:
        figures += section("realised", lambda: realised.measure(bench.work, cache_dir))
    figures.append(Figure("the whole run", time.perf_counter() - begin, unit="s"))
    return figures


def section(name: str, measure_it: Callable[[], list[Figure]]) -> list[Figure]:
    """A section that cannot be measured does not take the others' figures with it."""
    print(f"bench-proxy: {name}", flush=True)
    try:
        return measure_it()
    except (BenchError, subprocess.SubprocessError) as error:
        print(f"bench-proxy: {name} cannot be measured: {error}", flush=True)
        return [Figure(f"{name}: all of its figures", None, goal="measured")]


def under_load(bench: Bench, sections: set[str], cache_dir: Path) -> list[Figure]:
    figures = []
    upstream_port = bench.who["direct"].port
    with ExitStack() as stack:
        place = served.Place(bench.work / "gateway", cache_dir)
        start = served.gateway("gateway", served.endpoints(upstream_port), place)
        bench.who["gateway"] = stack.enter_context(servers.running(start, bench.work))
        if sections & {"passthrough", "streams"}:
            start_peers(bench, stack, upstream_port)
        parts = {
            "passthrough": passthrough.measure,
            "streams": streams.measure,
            "routed": routed.measure,
            "memory": footprint.memory,
        }
        for name, part in parts.items():
            if name in sections:
                figures += section(name, lambda part=part: part(bench))  # type: ignore[misc]
        figures.append(bench.failures())
    return figures


def start_peers(bench: Bench, stack: ExitStack, upstream_port: int) -> None:
    """The barest peer must run; without LiteLLM its figures are left open."""
    barest = stack.enter_context(servers.running(peers.barest(upstream_port), bench.work))
    bench.who["barest"] = barest
    try:
        start = peers.litellm(upstream_port, (served.PLAIN, served.PACED), bench.work)
        bench.who["litellm"] = stack.enter_context(servers.running(start, bench.work))
    except BenchError as error:
        print(f"LiteLLM's figures are not measured: {error}", flush=True)


def others_busy() -> Figure:
    """How much of the machine other work takes before the run starts: the figures suffer from it."""
    first = _ticks()
    time.sleep(1.0)
    total, idle = (after - before for after, before in zip(_ticks(), first, strict=True))
    return Figure(
        "other work on the machine before the run", 100 * (1 - idle / max(total, 1)), unit="% of all cores"
    )


def _ticks() -> tuple[int, int]:
    numbers = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(numbers), numbers[3] + numbers[4]  # idle and waiting for the disk


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        raise SystemExit(f"bench-proxy: {error}") from None
