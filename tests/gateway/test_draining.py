"""A gateway that is told to stop: nobody who asks it, or a replica beside it, sees a request fail."""

import asyncio
import contextlib
import itertools
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import Running, listens, written
from redis_process import RedisProcess
from serving import HELLO, Gateway, World, until
from upstream import WAIT_S, Upstream, Wire, answers, hang, said, streams

CALLERS = 6


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


Start = Callable[..., Running]


@pytest.fixture
def start(world: World, tmp_path: Path) -> Iterator[Start]:
    started: list[Running] = []

    def serve(port: int = 0, **limits: Any) -> Running:
        config = written(tmp_path, {**world.settings, "limits": limits})
        running = Running("serve", "--config", config, "--port", str(port))
        started.append(running)
        return running

    yield serve
    for running in started:
        running.kill()


async def slow(wire: Wire) -> None:
    """An answer that takes long enough to be under way when a replica is told to stop."""
    if wire.request.json().get("stream"):
        await streams(pause_s=0.01)(wire)
    else:
        await asyncio.sleep(0.03)
        await answers()(wire)


class Caller(threading.Thread):
    """Asks one replica for as long as it lives, and the other where connecting is refused."""

    def __init__(self, ports: list[int], first: int, over: threading.Event) -> None:
        super().__init__()
        self.ports, self.at, self.over = ports, first, over
        self.answered = 0
        self.failed: list[str] = []

    def run(self) -> None:
        with httpx.Client(timeout=WAIT_S, trust_env=False) as client:
            for i in itertools.count(self.at):
                if self.over.is_set():
                    return
                try:
                    self.ask(client, stream=bool(i % 2))
                except Exception as error:  # whatever it is, no caller may see it
                    self.failed.append(repr(error))

    def ask(self, client: httpx.Client, *, stream: bool) -> None:
        body = {"model": "small", "messages": HELLO, "stream": stream}
        for _ in self.ports:
            try:
                answer = client.post(f"http://127.0.0.1:{self.ports[self.at]}/v1/chat/completions", json=body)
            except httpx.ConnectError:
                self.at = (self.at + 1) % len(self.ports)
                continue
            assert answer.status_code == 200, answer.text
            text = said(answer.content) if stream else answer.json()["choices"][0]["message"]["content"]
            assert text == "Hello", answer.text
            self.answered += 1
            return
        raise AssertionError("no replica takes connections")


def test_a_rolling_restart_under_load_fails_no_request_and_loses_no_count(
    start: Start, world: World, gateway: Gateway
) -> None:
    ledger = gateway.service.ledger
    counted = ledger.load("small").requests
    world.small.always = slow
    ports = [free_port(), free_port()]
    replicas = [start(port) for port in ports]
    over = threading.Event()
    callers = [Caller(ports, i % 2, over) for i in range(CALLERS)]
    for caller in callers:
        caller.start()
    try:
        for i, port in enumerate(ports):
            before = sum(caller.answered for caller in callers)
            until(lambda before=before: sum(caller.answered for caller in callers) > before + 50)
            assert replicas[i].stop() == 0, replicas[i].text
            replicas[i] = start(port)
    finally:
        over.set()
        for caller in callers:
            caller.join()
    assert not [failure for caller in callers for failure in caller.failed]
    answered = sum(caller.answered for caller in callers)
    for replica in replicas:
        assert replica.stop() == 0
    assert answered == len(world.small.requests)
    until(lambda: ledger.load("small").requests - counted == answered, "counting them all, once")


def test_a_gateway_told_to_stop_says_so_on_the_connections_that_it_keeps(start: Start, small: Upstream) -> None:
    running = start()
    small.script(hang)
    with httpx.Client(base_url=running.url, timeout=WAIT_S, trust_env=False) as client:
        assert client.get("/readyz").status_code == 200
        caller = threading.Thread(target=lambda: gone(running.url))
        caller.start()
        small.wait_for(1)
        running.tell(signal.SIGTERM)
        until(lambda: not listens(running.url), "closing the door")
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "stopping")
        assert answer.headers["connection"] == "close"
    running.kill()
    caller.join()


def test_what_outlasts_the_drain_is_told_and_counted(start: Start, small: Upstream, gateway: Gateway) -> None:
    ledger = gateway.service.ledger
    counted = ledger.load("small").requests
    running = start(drain_s=1)
    small.script(hang)
    answers: list[httpx.Response] = []
    caller = threading.Thread(target=lambda: answers.append(post(running.url)))
    caller.start()
    small.wait_for(1)
    assert running.stop() == 0
    caller.join()
    assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (503, "stopping")
    assert "SIGTERM: stopping; requests under way: 1, for 1 s at most" in running.text
    assert running.text.endswith("stopped; still owed to Redis: nothing\n")
    assert (answers[0].headers["retry-after"], answers[0].headers["retry-after-ms"]) == ("1", "1000")
    until(lambda: ledger.load("small").requests == counted + 1, "counting it")


def test_what_is_owed_at_the_end_is_told(world: World, tmp_path: Path, redis_binary: Path, small: Upstream) -> None:
    redis = RedisProcess(tmp_path / "redis")
    redis.folder.mkdir()
    redis.start()
    spool = str(tmp_path / "spool")
    settings = {**world.settings, "ledger": {"url": redis.url, "spool_dir": spool}, "limits": {"concurrency": 9}}
    running = Running("serve", "--config", written(tmp_path, settings), "--port", "0")
    try:
        redis.kill()
        post(running.url)
        assert running.stop() == 0
    finally:
        running.kill()
        redis.kill()
    assert running.text.endswith("stopped; still owed to Redis: 1 calls, 1 settlements\n"), running.text


def post(url: str) -> httpx.Response:
    body = {"model": "small", "messages": HELLO}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=WAIT_S, trust_env=False)


def gone(url: str) -> None:
    with contextlib.suppress(httpx.HTTPError):
        post(url)
