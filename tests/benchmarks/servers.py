"""Servers under the bench's hand: started pinned, waited for, measured, and stopped by their own process."""

import http.client
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from native import GATEWAY_CORE, LOAD_CORE, BenchError, pinned

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Server:
    name: str
    port: int
    pid: int
    ready_s: float  # from the start of the process to the first 200


@dataclass(frozen=True, slots=True)
class Start:
    """How to start a server and know that it is ready: `path` answers 200."""

    name: str
    command: Sequence[str]
    port: int
    path: str
    env: Mapping[str, str]
    bound_s: float = 120.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(start: Start, logs: Path) -> Iterator[Server]:
    """The server on the gateway's core, its output in `logs`. Raises `BenchError` with the log's end."""
    log = logs / f"{start.name}.log"
    begin = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(start.command),
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **start.env},
            preexec_fn=pinned(GATEWAY_CORE),
        )
    try:
        _wait_ready(start, process, log)
        yield Server(start.name, start.port, process.pid, time.perf_counter() - begin)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def upstream(program: Path, seconds: float) -> Iterator[Server]:
    """The C upstream, beside the load generator; it would end by itself after `seconds`."""
    command = [str(program), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=pinned(LOAD_CORE)) as process:
        assert process.stdout is not None
        try:
            yield Server("direct", int(process.stdout.readline()), process.pid, 0.0)
        finally:
            process.terminate()


def _wait_ready(start: Start, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.perf_counter() + start.bound_s
    while _status(start.port, start.path) != 200:
        ended = process.poll() is not None
        if ended or time.perf_counter() > end:
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            what = "ended before it was ready" if ended else f"was not ready within {start.bound_s:g} s"
            raise BenchError(f"{start.name} {what}; the end of {log}:\n{tail}")
        time.sleep(0.01)


def _status(port: int, path: str) -> int | None:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one process, in MiB; `pss_mib` shares out what several processes map."""

    command: str
    rss_mib: float
    pss_mib: float


def memory(pid: int) -> list[Memory]:
    """The process and all its descendants, largest first: the serving process leads, its Redis follows."""
    found = []
    for one in _family(pid):
        status = _fields(Path(f"/proc/{one}/status"))
        rollup = _fields(Path(f"/proc/{one}/smaps_rollup"))
        if "VmRSS" in status:
            found.append(Memory(status["Name"], _mib(status["VmRSS"]), _mib(rollup.get("Pss", "0 kB"))))
    return sorted(found, key=lambda m: -m.rss_mib)


def cpu_s(pid: int) -> float:
    """CPU seconds that the process and its descendants have used."""
    ticks = 0
    for one in _family(pid):
        parts = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        ticks += int(parts[11]) + int(parts[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _family(pid: int) -> list[int]:
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it ended while we looked
    family = [pid]
    for one in family:
        family += [child for child, parent in parents.items() if parent == one]
    return family


def _fields(path: Path) -> dict[str, str]:
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return {name: value.strip() for name, _, value in lines}


def _mib(kilobytes: str) -> float:
    return int(kilobytes.split()[0]) / 1024
