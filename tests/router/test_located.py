"""A ledger whose Redis moves: a Sentinel promotes another master, a cluster's slot goes to another node."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot
from redis.exceptions import RedisError
from redis_process import RedisProcess

from router.config import LedgerSettings, parse_settings
from router.config_base import Secret
from router.errors import ConfigError, LedgerError
from router.ledger.admission import Admission
from router.ledger.caps import Caps
from router.ledger.embedded import TETHER, find_server
from router.ledger.ledger import Ledger
from router.ledger.located import place_of
from router.ledger.store import connect
from router.types import Entry, Usage

ENTRY = Entry("a", True, Usage(10, 5), cost_nano=1_000_003)
WAIT_S = 30.0


def free_port() -> int:
    """Whose neighbour 10,000 above is a port too: a cluster's nodes speak to each other there."""
    while True:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port: int = taken.getsockname()[1]
        if port < 55_000:
            return port


def server(folder: Path, *options: str) -> tuple[RedisProcess, int]:
    folder.mkdir()
    port = free_port()
    process = RedisProcess(folder, "--port", str(port), "--bind", "127.0.0.1", *options)
    process.start()
    return process, port


async def eventually(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_S
    while True:
        if asyncio.iscoroutine(found := condition()):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.05)


async def recorded(ledger: Ledger) -> int:
    try:
        found = (await ledger.snapshot()).get("a")
    except LedgerError:
        return 0
    return found.requests if found else 0


@pytest.fixture
def folder(short_folder: Path, request: pytest.FixtureRequest) -> Path:
    folder = short_folder / f"located-{abs(hash(request.node.name))}"
    folder.mkdir()
    return folder


def refused(password: str) -> str:
    """What a Sentinel is told so that it asks for a password, or a user's."""
    return f"requirepass {password}\nuser pointsman on >{password} +@all ~*\n" if password else ""


@pytest.fixture
def watched(folder: Path, request: pytest.FixtureRequest) -> Iterator[tuple[RedisProcess, str]]:
    """A master, its replica and a Sentinel of both; the master and the URL. Parameter: the Sentinel's password."""
    master, master_port = server(folder / "one")
    replica, _ = server(folder / "two", "--replicaof", f"127.0.0.1 {master_port}")
    port, config = free_port(), folder / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {master_port} 1\n"
        "sentinel down-after-milliseconds main 300\nsentinel failover-timeout main 2000\n"
        + refused(getattr(request, "param", ""))
    )
    sentinel = subprocess.Popen(
        [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), str(find_server()), str(config), "--sentinel"],
        stdout=subprocess.DEVNULL,
    )
    yield master, f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{port}/main"
    sentinel.kill()
    sentinel.wait()
    for process in (master, replica):
        process.kill()


async def test_a_ledger_goes_on_with_the_master_that_sentinels_promote(
    watched: tuple[RedisProcess, str], tmp_path: Path
) -> None:
    master, url = watched
    await eventually(lambda: knows_the_replica(url), "the Sentinel never knew the replica")
    ledger = Ledger(LedgerSettings(url=url, spool_dir=tmp_path))
    await ledger.open()
    try:
        for _ in range(100):
            ledger.record(ENTRY)
        await eventually(lambda: not ledger.owed, "never written")
        master.kill()
        for _ in range(50):
            ledger.record(ENTRY)
        # what the old master took and had not handed on is repeated
        await eventually(lambda: not ledger.owed and not ledger.degraded, "no new master was found")
        assert await recorded(ledger) == 150
    finally:
        await ledger.close()


@pytest.mark.parametrize("watched", ["sentinel-marker"], indirect=True)
@pytest.mark.parametrize("user", [None, "pointsman"])
async def test_sentinels_are_asked_with_their_own_password(
    user: str | None, watched: tuple[RedisProcess, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url = watched
    monkeypatch.setenv("SENTINEL", "sentinel-marker")
    place = {"env": "SENTINEL"}
    settings = LedgerSettings(url=url, spool_dir=tmp_path, sentinel_user=user, sentinel_password=Secret(**place))
    await eventually(lambda: names_the_master(url), "the Sentinel never answered")
    ledger = Ledger(settings)
    await ledger.open()
    try:
        ledger.record(ENTRY)
        await eventually(lambda: not ledger.owed, "never written")
        assert await recorded(ledger) == 1
    finally:
        await ledger.close()


async def names_the_master(url: str) -> bool:
    place = place_of(url)
    assert place is not None
    host, port = place.hosts[-1]
    client: Any = connect(f"redis://{host}:{port}", "sentinel-marker")
    try:
        (state,) = (await client.sentinel_masters()).values()
    except (ValueError, RedisError):
        return False
    finally:
        await client.aclose()
    return bool(state["is_master"])


@pytest.mark.parametrize("watched", ["sentinel-marker"], indirect=True)
@pytest.mark.parametrize("password", [None, "wrong-marker"])
async def test_sentinels_that_refuse_the_password_say_which_one(
    password: str | None, watched: tuple[RedisProcess, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url = watched
    await eventually(lambda: names_the_master(url), "the Sentinel never answered")
    monkeypatch.setenv("SENTINEL", password or "")
    place = Secret(env="SENTINEL") if password else None
    ledger = Ledger(LedgerSettings(url=url, spool_dir=tmp_path, sentinel_password=place))
    with pytest.raises(
        LedgerError, match=r"the Sentinel 127\.0\.0\.1:\d+: .*see ledger\.sentinel_password"
    ) as caught:
        await ledger.open()
    assert "marker" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sentinel_password": {"env": "X"}}, "ledger: sentinel_password: the url names no Sentinels"),
        ({"url": "redis+sentinel://h:1/main", "sentinel_user": "u"}, "sentinel_user: give `sentinel_password` too"),
    ],
)
def test_a_password_of_no_sentinel_is_refused_at_the_start(settings: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_settings({"experts": [], "ledger": settings})


async def knows_the_replica(url: str) -> bool:
    place = place_of(url)
    assert place is not None
    host, port = place.hosts[-1]
    client: Any = connect(f"redis://{host}:{port}", None)
    try:
        (known,) = await client.execute_command("SENTINEL REPLICAS", place.service)
    except (ValueError, RedisError):
        return False
    finally:
        await client.aclose()
    return "disconnected" not in str(known)


@pytest.fixture
def cluster(folder: Path) -> Iterator[list[tuple[RedisProcess, int]]]:
    """Two nodes, of which the second has the upper slots."""
    nodes = [server(folder / str(n), "--cluster-enabled", "yes", "--appendonly", "no") for n in range(2)]
    (first, _), (second, port) = nodes
    half = 8192
    for node, slots in ((first, range(half)), (second, range(half, 16384))):
        assert node.command("CLUSTER ADDSLOTS " + " ".join(map(str, slots))) == b"+OK\r\n"
    assert second.command("CLUSTER SET-CONFIG-EPOCH 2") == b"+OK\r\n"
    assert first.command(f"CLUSTER MEET 127.0.0.1 {port}") == b"+OK\r\n"
    yield nodes
    for node, _ in nodes:
        node.kill()


async def test_a_ledger_finds_the_node_that_keeps_it_and_goes_with_its_slot(
    cluster: list[tuple[RedisProcess, int]], tmp_path: Path
) -> None:
    slot = key_slot(b"ledger")
    keeper, other = cluster if slot < 8192 else cluster[::-1]
    clients: list[Any] = [connect(f"redis://127.0.0.1:{port}", None) for _, port in (keeper, other)]
    for client in clients:
        await eventually(lambda client=client: healthy(client), "the cluster never came up")
    # the host that is asked keeps nothing
    ledger = Ledger(LedgerSettings(url=f"redis+cluster://127.0.0.1:{other[1]}", spool_dir=tmp_path))
    limited = {"requests_per_minute": 100}
    expert = {"name": "a", "kind": "simulated", "tier": "small", "price": {"input": 1, "output": 1}}
    admission = Admission(Caps(parse_settings({"experts": [expert], "limits": limited})), ledger.client, 1.0)
    await ledger.open()
    await admission.open()
    try:
        ledger.record(ENTRY)
        assert await used(admission, "one") == 1
        await eventually(lambda: not ledger.owed, "never written")
        assert await clients[0].exists("pointsman:{ledger}:experts")
        await move(slot, clients, other[1])
        ledger.record(ENTRY)
        await eventually(lambda: not ledger.owed and not ledger.degraded, "it never followed the slot")
        assert await recorded(ledger) == 2
        assert await clients[1].exists("pointsman:{ledger}:experts")
        await used(admission, "two")  # by its own share, or late: it hears that the slot is gone
        await eventually(lambda: not (admission.degraded or admission.owed), "limits never followed the slot")
        assert await used(admission, "three") >= 2
    finally:
        await admission.close()
        await ledger.close()
        for client in clients:
            await client.aclose()


async def used(admission: Admission, name: str) -> int:
    """Requests of this minute, with this one."""
    reservation = admission.reservation(name, "caller", "a", 10, 10)
    await admission.admit(reservation)
    admission.settle(reservation, 10, 10)
    return reservation.used[0] if reservation.used else 0


async def healthy(client: Any) -> bool:
    found = await client.execute_command("CLUSTER INFO")
    return "cluster_state:ok" in str(found) or found.get("cluster_state") == "ok"


async def move(slot: int, clients: list[Any], port: int) -> None:
    """Moves a slot with its keys to the second client's node."""
    source, target = [str((await client.execute_command("CLUSTER MYID")).decode()) for client in clients]
    await clients[1].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", source)
    await clients[0].execute_command("CLUSTER SETSLOT", slot, "MIGRATING", target)
    while keys := await clients[0].execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
        await clients[0].execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *keys)
    for client in clients[::-1]:
        await client.execute_command("CLUSTER SETSLOT", slot, "NODE", target)


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://host:1",  # no service
        "redis+sentinel://host/main",  # no port
        "redis+cluster://host:1/main",
        "redis+cluster://host:one",
        "redis+sentinel://user:secret@host:1/main/two",
    ],
)
def test_a_url_that_says_too_little_or_too_much_is_refused_with_the_forms_there_are(url: str) -> None:
    with pytest.raises(LedgerError, match=r"redis\+cluster://host:6379") as caught:
        connect(url, None)
    assert "secret" not in str(caught.value)


def test_a_form_that_is_none_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match=r"ledger\.url"):
        parse_settings({"experts": [], "ledger": {"url": "redis+ring://host:1"}})
