"""The real gateway for tests: its application under the real server, on a free port, in a thread of its own."""

import asyncio
import contextlib
import http.client
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvloop
import yaml
from upstream import WAIT_S, Upstream

from gateway.app import create_app
from gateway.configuration import Source
from gateway.server import bind, http_server
from gateway.service import Service
from policies.static import Static
from router.artifact import pack, save
from router.config import parse_settings
from router.types import Outcomes, Queries

HELLO = [{"role": "user", "content": "Say hello."}]
Loop = asyncio.AbstractEventLoop


def on(loop: Loop, work: Any) -> Any:
    """Runs a coroutine on the other thread's loop and waits for its result."""
    return asyncio.run_coroutine_threadsafe(work, loop).result(WAIT_S)


def until(condition: Callable[[], Any], what: str = "it") -> Any:
    """Polls until the condition holds, and returns its value."""
    deadline = time.monotonic() + WAIT_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen in {WAIT_S:g} s"
        time.sleep(0.002)
    return value


class Gateway:
    """A running gateway, its client and what is inside."""

    def __init__(self, loop: Loop, settings: dict[str, Any], file: Path | None = None) -> None:
        """`file`: where the settings are written, and read anew."""
        self._loop = loop
        self._file = file
        self._open = contextlib.AsyncExitStack()
        if file is not None:
            file.write_text(yaml.safe_dump(settings))
        on(loop, self._start(settings))
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=WAIT_S, trust_env=False, verify=False)

    async def _start(self, settings: dict[str, Any]) -> None:
        bound = bind("127.0.0.1", 0)
        self.port: int = bound.getsockname()[1]
        source = None if self._file is None else Source(self._file)
        self.app = app = create_app(parse_settings(settings), source)
        await self._open.enter_async_context(app.router.lifespan_context(app))
        self._server = http_server(app)
        self._task = asyncio.create_task(self._server.serve(sockets=[bound]))
        bound.listen()

    def reload(self, settings: dict[str, Any] | str) -> bool:
        """Writes its file and has it read. Raises what it is refused for."""
        assert self._file is not None
        self._file.write_text(settings if isinstance(settings, str) else yaml.safe_dump(settings))
        return bool(on(self._loop, self.app.state.configuration.reload("test")))

    @property
    def service(self) -> Service:
        """The one at work."""
        return self.app.service

    def stop(self) -> None:
        async def end() -> None:
            # the server's own way out sleeps a fifth of a second, too long for every test
            self._task.cancel()
            await asyncio.wait({self._task})
            for server in self._server.servers:
                server.close()
            state = self._server.server_state
            for connection in list(state.connections):
                connection.transport.abort()
            if state.tasks:
                await asyncio.wait(state.tasks, timeout=WAIT_S)
            await self._open.aclose()

        self.client.close()
        on(self._loop, end())

    def post(self, path: str = "/v1/chat/completions", *, headers: Any = None, **body: Any) -> httpx.Response:
        return self.client.post(path, json=body, headers=headers)

    def chat(self, model: str = "auto", *, headers: Any = None, **body: Any) -> httpx.Response:
        return self.post(headers=headers, **{"model": model, "messages": HELLO, **body})

    def send(self, data: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
        """A chat request with any bytes for a body."""
        return self.client.post("/v1/chat/completions", content=data, headers=headers)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples whose labels include these."""
        from prometheus_client.parser import text_string_to_metric_families

        text = self.client.get("/metrics").text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def busy(self) -> int:
        """Requests that the server has begun to pass on and not ended."""
        return len(self._server.server_state.tasks)

    def connect(self) -> socket.socket:
        """A bare connection, for clients that no library would write."""
        client = socket.create_connection(("127.0.0.1", self.port), WAIT_S)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def still_works(self) -> None:
        assert self.chat().status_code == 200


def request_bytes(body: bytes, *headers: str, path: str = "/v1/chat/completions") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def answer_on(client: socket.socket) -> tuple[int, bytes]:
    """The next answer on a bare connection."""
    response = http.client.HTTPResponse(client)
    response.begin()
    return response.status, response.read()


def save_artifact(folder: Path, seen: int = 40) -> Path:
    """A static policy: the large expert is right nine times in ten, the small one half the time."""
    experts = ("tier:small", "tier:large")
    # shorter than any request of the tests, so that `cheap` cannot afford the large expert for them
    queries = Queries(embeddings=np.zeros((seen, 0), np.float32), input_tokens=np.ones(seen, np.float32))
    right = np.arange(seen)[:, None] % 10 < np.array([5, 9])
    policy = Static().fit(
        Outcomes(
            queries=queries,
            experts=experts,
            quality=right.astype(float),
            cost_usd=np.full((seen, 2), 1e-4),
            output_tokens=np.full((seen, 2), 50.0),
        )
    )
    save(pack(policy, queries, encoder=None, data_digest="test", metrics={}), folder)
    return folder


@dataclass
class World:
    """Two experts at upstreams of their own; `auto:best` asks the large one first, `auto:cheap` the small one."""

    loop: Loop
    settings: dict[str, Any]
    small: Upstream
    large: Upstream
    running: list[Gateway] = field(default_factory=list)

    def start(self, expert: dict[str, Any] | None = None, *, file: Path | None = None, **changes: Any) -> Gateway:
        """A gateway; `expert` changes every expert's settings, the rest are top-level keys."""
        gateway = Gateway(self.loop, self.having(expert, **changes), file)
        self.running.append(gateway)
        return gateway

    def having(self, expert: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        """The settings of `start`."""
        settings = {**self.settings, **changes}
        # what fails shall fail: only the tests of retries want them
        settings["limits"] = {"retries": 0, **settings.get("limits", {})}
        settings["experts"] = [{**one, **(expert or {})} for one in settings["experts"]]
        return settings


def expert(name: str, url: str, **settings: Any) -> dict[str, Any]:
    tier = settings.pop("tier", name)
    price = {"input": 1.0, "output": 2.0} if tier == "small" else {"input": 10.0, "output": 30.0}
    fields = {"name": name, "kind": "endpoint", "url": url, "model": "up-model", "tier": tier, "price": price}
    return {**fields, **settings}


@pytest.fixture(scope="session")
def other_loop() -> Iterator[Loop]:
    """A uvloop in a thread of its own, as in production: gateways and upstreams run on it."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(WAIT_S)
    loop.close()


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_artifact(tmp_path_factory.mktemp("policies") / "static")


@pytest.fixture
def upstream(other_loop: Loop) -> Iterator[Upstream]:
    """One without a gateway."""
    upstream = Upstream(other_loop)
    yield upstream
    upstream.stop()


@contextlib.contextmanager
def new_world(loop: Loop, artifact: Path, redis_url: str) -> Iterator[World]:
    small, large = Upstream(loop), Upstream(loop)
    settings = {
        "experts": [expert("small", small.url), expert("large", large.url)],
        "policy": {"artifact": str(artifact)},
        "ledger": {"url": redis_url},
    }
    world = World(loop, settings, small, large)
    yield world
    for gateway in world.running:
        gateway.stop()
    for upstream in (small, large):
        upstream.stop()


@pytest.fixture
def world(other_loop: Loop, artifact: Path, redis_url: str) -> Iterator[World]:
    with new_world(other_loop, artifact, redis_url) as world:
        yield world


@pytest.fixture(scope="session")
def one_for_all(other_loop: Loop, artifact: Path, redis_url: str) -> Iterator[World]:
    with new_world(other_loop, artifact, redis_url) as world:
        world.start()
        yield world


@pytest.fixture
def steady(one_for_all: World) -> World:
    """A running world that many tests share: for those that count nothing and let no expert fail."""
    one_for_all.small.forget()
    one_for_all.large.forget()
    return one_for_all


@pytest.fixture
def gateway(world: World) -> Gateway:
    return world.start()


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Every line of whatever log, tracebacks included: the server's logger does not hand its lines on."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(handler.format(record))  # type: ignore[method-assign]
    handler.addFilter(lambda record: record.name != "httpx")  # the tests' own client
    loggers = {name: logging.getLogger(name) for name in ("", "uvicorn")}
    levels = {name: logger.level for name, logger in loggers.items()}
    for logger in loggers.values():
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    yield lines
    for name, logger in loggers.items():
        logger.removeHandler(handler)
        logger.setLevel(levels[name])


@pytest.fixture
def small(world: World) -> Upstream:
    return world.small


@pytest.fixture
def large(world: World) -> Upstream:
    return world.large
