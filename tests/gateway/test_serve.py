"""The commands that serve, in processes of their own: ready, answering, ending in peace."""

import asyncio
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from processes import POINTSMAN, WRONG, Ended, Running, listens, written
from serving import HELLO, World, until
from upstream import HELLO as EVENTS
from upstream import WAIT_S, Upstream, Wire, said, sse, streams


def process(*args: str) -> Ended:
    """The same in a process of its own."""
    ended = subprocess.run([POINTSMAN, *args], capture_output=True, text=True, timeout=60, check=False)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture
def served(world: World, home: Path, redis_binary: Path) -> Iterator[Running]:
    settings = {**world.settings, "ledger": {"url": "embedded"}}
    running = Running("serve", "--config", written(home, settings), "--port", "0")
    yield running
    running.kill()


def test_serve_says_when_it_is_ready_and_answers(served: Running, small: Upstream) -> None:
    assert re.search(r"pointsman is ready on http://127\.0\.0\.1:\d+ \(policy static@[0-9a-f]{8}\)", served.text)
    answer = httpx.post(served.url + "/v1/chat/completions", json={"model": "small", "messages": HELLO})
    assert answer.json()["model"] == "small" and len(small.requests) == 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_in_peace(how: signal.Signals, served: Running) -> None:
    httpx.post(served.url + "/v1/chat/completions", json={"model": "small", "messages": HELLO})
    assert served.stop(how) == 0 and "Traceback" not in served.text


def test_serve_lets_a_stream_end_before_it_does(served: Running, small: Upstream) -> None:
    told = threading.Event()

    async def go_on(wire: Wire) -> None:
        while not told.is_set():  # noqa: ASYNC110 - it is set from another thread
            await asyncio.sleep(0.01)
        wire.writer.write(sse(EVENTS[-1]) + b"data: [DONE]\n\n")
        wire.writer.close()

    small.script(streams(*map(sse, EVENTS[:-1]), framing="", then=go_on))
    body = {"model": "small", "messages": HELLO, "stream": True}
    with httpx.stream("POST", served.url + "/v1/chat/completions", json=body, timeout=WAIT_S) as answer:
        parts = answer.iter_raw()
        data = next(parts)
        served.tell(signal.SIGTERM)
        until(lambda: not listens(served.url), "closing the door")
        told.set()
        data += b"".join(parts)
    assert said(data) == "Hello" and served.stop() == 0


def test_what_serve_counted_is_there_after_a_restart(served: Running, home: Path, world: World) -> None:
    httpx.post(served.url + "/v1/chat/completions", json={"model": "small", "messages": HELLO})
    served.stop()
    gateway = world.start(ledger={"data_dir": str(home / "pointsman")})
    assert until(lambda: gateway.service.ledger.load("small").requests) == 1


def test_a_port_in_use_is_one_clear_line(world: World, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = process("serve", "--config", written(home, world.settings), "--port", str(port))
    assert ended.returncode == WRONG and ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert f"port {port}" in line and "Address already in use" in line and "--port" in line


GOOD = {"name": "a", "kind": "simulated", "tier": "small", "price": {"input": 1, "output": 1}}


def test_a_start_that_fails_late_ends_as_cleanly(home: Path, redis_binary: Path) -> None:
    """The encoder is still loading in its thread when the expert's settings are found wrong."""
    settings = {"experts": [{**GOOD, "kind": "endpoint", "url": "http://h:x/v1"}]}
    ended = process("serve", "--config", written(home, settings))
    assert ended.returncode == WRONG and len(ended.stderr.splitlines()) == 1, ended.stderr


def test_the_demo_starts_and_answers(home: Path, redis_binary: Path) -> None:
    running = Running("demo", "--port", "0")
    try:
        client = openai.OpenAI(base_url=running.url + "/v1", api_key="demo", max_retries=0)
        answer = client.chat.completions.create(model="auto", messages=HELLO)  # type: ignore[arg-type]
        assert answer.model in ("pebble", "cobble", "boulder", "summit") and answer.choices[0].message.content
        best = client.chat.completions.create(model="auto:best", messages=HELLO)  # type: ignore[arg-type]
        cheap = client.chat.completions.create(model="auto:cheap", messages=HELLO)  # type: ignore[arg-type]
        assert best.model != cheap.model
        ready = httpx.get(running.url + "/readyz").json()
        assert ready["status"] == "ok" and ready["encoder"] and not ready["policy"].startswith("static")
    finally:
        running.stop()
        running.kill()
    assert running.url in running.text and "Traceback" not in running.text
