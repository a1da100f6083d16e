"""The two C programs: built on first use, run on the core that the gateway does not have."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from report import BENCH_DIR

SOURCES = Path(__file__).resolve().parent
LOAD_CORE, GATEWAY_CORE = 0, 1


class BenchError(Exception):
    """The benchmark cannot go on; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run of the load generator saw; see load.c."""

    requests: int
    seconds: float
    rps: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    first_p50_ms: float
    first_p99_ms: float
    chunks: int
    chunks_per_s: float
    gap_ms: float
    errors: int
    error: str
    cpu_s: float = 0.0  # of the server and its children; only what `Bench.load` measured has it

    @property
    def per_core(self) -> float:
        """Requests per second of CPU time: what a core gives that the server has to itself."""
        return self.requests / max(self.cpu_s, 1e-3)


@dataclass(frozen=True, slots=True)
class Shape:
    """How hard to press: `requests` and `seconds` both bound a run."""

    concurrency: int
    seconds: float
    requests: int = 1_000_000


def pinned(core: int) -> Callable[[], None]:
    """For `preexec_fn`: the child, and all it starts, on one core (modulo what there is)."""
    cores = sorted(os.sched_getaffinity(0))
    return lambda: os.sched_setaffinity(0, {cores[core % len(cores)]})


def build(folder: Path = BENCH_DIR) -> dict[str, Path]:
    """Compiles what is older than its source. Raises `BenchError` where there is no C compiler."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise BenchError("the benchmarks need a C compiler (Debian: apt-get install gcc libc6-dev)")
    folder.mkdir(parents=True, exist_ok=True)
    programs = {}
    for name in ("upstream", "load"):
        source, program = SOURCES / f"{name}.c", folder / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            subprocess.run([compiler, "-O2", "-o", str(program), str(source)], check=True)
        programs[name] = program
    return programs


def load(
    program: Path, port: int, shape: Shape, bodies: Path, *, headers: Sequence[str] = (), log: Path | None = None
) -> Measured:
    """One run against `port`, cycling through the lines of `bodies`."""
    command = [str(program), str(port), str(shape.concurrency), str(shape.seconds), str(shape.requests)]
    command += [str(bodies), str(log or "-"), *headers]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=shape.seconds + 30, preexec_fn=pinned(LOAD_CORE)
    )
    if run.returncode:
        raise BenchError(f"the load generator failed on port {port}: {run.stderr.strip()}")
    return Measured(**json.loads(run.stdout))


@dataclass(frozen=True, slots=True)
class Answered:
    """One line of the load generator's log. `overhead_ms` is None where the answer had no such header."""

    body: int
    latency_ms: float
    first_ms: float
    overhead_ms: float | None


def read_log(log: Path) -> list[Answered]:
    rows = [line.split() for line in log.read_text(encoding="utf-8").splitlines()]
    return [
        Answered(int(body), float(latency), float(first), None if float(overhead) < 0 else float(overhead))
        for body, latency, first, overhead in rows
    ]
