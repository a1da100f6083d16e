"""What the ledger's benchmarks run: replicas on one Redis, upstreams that count, callers and what they saw.

All are processes of their own on loopback, and end with the rig.
"""

import asyncio
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import redis
import yaml
from counting_upstream import INPUT_TOKENS, counted
from servers import LOOPBACK, free_port

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from redis_process import RedisProcess

from router.ledger.account import LETTERS

PRICE = {"input": 100.0, "output": 200.0}  # USD per million tokens: an answer costs .0012 to .021
ASK = {"messages": [{"role": "user", "content": "How far is it from Ulm to Basel, by train and by foot?"}]}
UPSTREAM = Path(__file__).with_name("counting_upstream.py")
READY_S = 60.0


def nano(answers: int, tokens: int) -> int:
    return round((answers * INPUT_TOKENS * PRICE["input"] + tokens * PRICE["output"]) * 1e3)


class Upstreams:
    """Two experts' servers, each a process that may be killed and started again on its port and its count."""

    def __init__(self, folder: Path, wait_ms: float) -> None:
        self.names = ("one", "two")
        self.ports = {name: free_port() for name in self.names}
        self._files = {name: folder / f"{name}.count" for name in self.names}
        self._wait_ms = wait_ms
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        command = [sys.executable, str(UPSTREAM), str(self.ports[name]), str(self._files[name]), str(self._wait_ms)]
        self._processes[name] = subprocess.Popen(command)

    def kill(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()

    def billed(self) -> Counter[int]:
        """Nano-dollars of what both answered, by the request's `user`."""
        billed: Counter[int] = Counter()
        for path in self._files.values():
            for user, tokens in counted(path):
                billed[user] += nano(1, tokens)
        return billed


@dataclass
class Rig:
    """Replicas on one Redis, in front of two experts; everything ends with the rig."""

    folder: Path
    upstreams: Upstreams
    redis: RedisProcess
    tree: Path | None = None  # another checkout, whose gateway it is to be
    urls: list[str] = field(default_factory=list)
    _configs: list[Path] = field(default_factory=list)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def configure(self, count: int, settings: dict[str, Any]) -> None:
        experts = [
            {
                "name": name,
                "kind": "endpoint",
                "url": f"http://{LOOPBACK}:{port}/v1",
                "tier": "medium",
                "price": PRICE,
            }
            for name, port in self.upstreams.ports.items()
        ]
        for number in range(count):
            port = free_port()
            config = self.folder / f"replica{number}.yaml"
            whole = {
                "host": LOOPBACK,
                "port": port,
                "experts": experts,
                "ledger": {"url": self.redis.url, "spool_dir": str(self.folder / "spool")},
                **settings,
            }
            config.write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")
            self._configs.append(config)
            self.urls.append(f"http://{LOOPBACK}:{port}")

    def start(self, number: int) -> None:
        command = [
            str(Path(sys.executable).with_name("pointsman")),
            "serve",
            "--config",
            str(self._configs[number]),
        ]
        log = (self.folder / f"replica{number}.log").open("ab")
        environment = {**os.environ, "PYTHONPATH": str(self.tree)} if self.tree else None
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        log.close()
        if number < len(self._processes):
            self._processes[number] = process
        else:
            self._processes.append(process)

    def kill(self, number: int) -> None:
        self._processes[number].kill()
        self._processes[number].wait()

    def pid(self, number: int) -> int:
        return self._processes[number].pid

    async def ready(self) -> None:
        end = time.monotonic() + READY_S
        async with httpx.AsyncClient() as client:
            for url in self.urls:
                while True:
                    with contextlib.suppress(httpx.TransportError):
                        if (await client.get(f"{url}/readyz")).status_code == 200:
                            break
                    if time.monotonic() > end:
                        raise SystemExit(f"{url} was never ready; see {self.folder}")
                    await asyncio.sleep(0.05)

    def ledger_nano(self) -> tuple[int, int]:
        """Nano-dollars of all calls, and of those whose cost is estimated."""
        client = redis.Redis(unix_socket_path=self.redis.url.removeprefix("unix://"))
        with contextlib.closing(client):
            keys = [f"pointsman:{{ledger}}:expert:{name}" for name in self.upstreams.names]
            cost = sum(int(client.hget(key, "cost_nano") or 0) for key in keys)  # type: ignore[arg-type]
            sums: dict[bytes, bytes] = {}
            for number, key in enumerate(client.scan_iter("pointsman:{ledger}:spend:*")):
                day: Any = client.hgetall(key)
                sums |= {b"%d:%s" % (number, field): value for field, value in day.items()}
        letter = next(letter for letter, name in LETTERS.items() if name == "estimated_nano").encode()
        return cost, sum(int(value) for field, value in sums.items() if field.endswith(b":" + letter))

    def stop(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes = []
        for name in self.upstreams.names:
            self.upstreams.kill(name)


@contextlib.asynccontextmanager
async def rig(
    replicas: int, *, wait_ms: float = 5.0, tree: Path | None = None, **settings: Any
) -> AsyncIterator[Rig]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "redis").mkdir()
        server = RedisProcess(folder / "redis")
        server.start()
        made = Rig(folder, Upstreams(folder, wait_ms), server, tree)
        try:
            for name in made.upstreams.names:
                made.upstreams.start(name)
            made.configure(replicas, settings)
            for number in range(replicas):
                made.start(number)
            await made.ready()
            yield made
        finally:
            made.stop()
            server.thaw()
            server.kill()


@dataclass
class Tally:
    """What callers saw."""

    answered: int = 0
    nano: int = 0
    refused: int = 0
    failed: list[str] = field(default_factory=list)
    took_ms: list[float] = field(default_factory=list)
    answered_at: list[float] = field(default_factory=list)

    def count(self, answer: httpx.Response, took_s: float) -> None:
        if answer.status_code == 200:
            self.answered += 1
            usage = answer.json()["usage"]
            self.nano += nano(1, usage["completion_tokens"])
            self.took_ms.append(took_s * 1e3)
            self.answered_at.append(time.monotonic())
        elif answer.status_code == 429:
            self.refused += 1
        else:
            self.failed.append(f"{answer.status_code} {answer.text[:200]}")


async def ask(client: httpx.AsyncClient, url: str, tally: Tally, model: str, user: int = -1) -> None:
    began = time.perf_counter()
    body = {"model": model, "user": str(user), **ASK}
    answer = await client.post(f"{url}/v1/chat/completions", json=body)
    tally.count(answer, time.perf_counter() - began)


async def callers(
    count: int,
    urls: Sequence[str],
    tally: Tally,
    on: Callable[[], bool],
    *,
    pause_s: float = 0.0,
    model: str = "one",
) -> None:
    """So many at once, each asking the replicas in turn while `on`."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)

    async def one(number: int) -> None:
        asked = number
        async with httpx.AsyncClient(timeout=60.0, limits=limits) as client:
            while on():
                await ask(client, urls[asked % len(urls)], tally, model)
                asked += 1
                if pause_s:
                    await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))

    await asyncio.gather(*(one(number) for number in range(count)))


def until(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end
