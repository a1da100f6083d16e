"""A real Redis for tests, on a unix socket."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from router.ledger.embedded import TETHER, find_server


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
