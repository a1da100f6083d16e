"""Shared by all tests: a real Redis of their own, on a unix socket, and the fixtures of a real gateway."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.errors import LedgerError
from router.ledger.embedded import TETHER, find_server

pytest_plugins = ["serving"]


class RedisProcess:
    """A redis-server that tests may stop, kill, freeze and start again on the same data."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.url = f"unix://{folder}/redis.sock"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        tethered = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), str(find_server())]
        options = ["--port", "0", "--unixsocket", "redis.sock", "--dir", "./", "--save", ""]
        with (self.folder / "redis.log").open("ab") as log:
            # tethered, so that it is gone even after a test run that was killed
            self._process = subprocess.Popen(
                [*tethered, *options, "--appendonly", "yes", *self._options],
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 20
        while self.command("PING") not in (b"+PONG\r\n", b"-NOAUTH Authentication required.\r\n"):
            assert self._process.poll() is None, (self.folder / "redis.log").read_text()
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.01)

    def command(self, line: str) -> bytes:
        """The first line of the answer; empty if nobody answers."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            try:
                client.connect(f"{self.folder}/redis.sock")
                client.sendall(line.encode() + b"\r\n")
                return client.makefile("rb").readline()
            except OSError:
                return b""

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="session")
def redis_binary() -> Path:
    """A server to test with: without one the tests skip on a laptop, and fail in CI."""
    try:
        return find_server()
    except LedgerError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room in the 108 bytes of a socket address; pytest's own may not."""
    folder = Path(tempfile.mkdtemp(prefix="pointsman-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def redis_process(redis_binary: Path, short_folder: Path, request: pytest.FixtureRequest) -> Iterator[RedisProcess]:
    """A running server that is this test's alone; `parametrize` it indirectly with more options."""
    server = RedisProcess(Path(tempfile.mkdtemp(dir=short_folder)), *getattr(request, "param", ()))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def redis_url(redis_binary: Path, short_folder: Path) -> Iterator[str]:
    """One server for all tests that only need some Redis; its data is shared by them."""
    server = RedisProcess(Path(tempfile.mkdtemp(dir=short_folder)))
    server.start()
    yield server.url
    server.kill()
