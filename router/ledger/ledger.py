"""The ledger: what every expert has cost and how it performs, shared by all replicas through Redis.

Nothing of it is on an answer's path: `record` appends to a list, `load` reads a dict. One task writes behind:
every `flush_ms` (less often on a busy loop) the new entries, summed per expert, go out as one script call, which
also brings back the figures of those experts; once a second it reads the figures of all, which doubles as the
heartbeat. Reads and writes are bounded at one second, so a hung Redis costs the event loop nothing.

Keys, all under one hash tag so that the script's step stays in one slot of a cluster:

    pointsman:{ledger}:format        the format's version; another one is an error
    pointsman:{ledger}:experts       set of the names ever written of
    pointsman:{ledger}:expert:NAME   hash: counts, and fading sums with the server's time of the last batch
    pointsman:{ledger}:replica:ID    the last batch taken from this replica; forgotten after a week of silence
    pointsman:{ledger}:accounts      hash: an account (expert, key, team, tags) -> its number
    pointsman:{ledger}:spend:DAY     hash: what the accounts spent on a UTC day; kept for `accounts_days`; both are
                                     described in `router.ledger.account` and read by `router.ledger.spending`

While Redis is away the entries are summed per account in memory and written when it is back, each exactly once: see
`router.ledger.outbox`. Every entry is also in a file (`router.ledger.spool`) from the moment it is recorded until
Redis has it, and is written by the next replica with that folder should this one be killed. A machine that fails
takes with it what was not synced: up to a second's entries.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from router.config import LedgerSettings
from router.ending import end
from router.errors import LedgerError, PointsmanError
from router.ledger.account import DAY_S, day_of
from router.ledger.embedded import EmbeddedServer, default_data_dir
from router.ledger.orphan import batches_of
from router.ledger.outbox import Outbox
from router.ledger.spool import Spool, spool_folder
from router.ledger.store import Forgotten, Store, Unreachable, answered, connect, masked
from router.types import Entry, Load

if TYPE_CHECKING:
    from redis.asyncio import Redis

HEARTBEAT_S = 1.0
RETRY_FIRST_S = 0.1
RETRY_MOST_S = 0.4
CLOSE_TIMEOUT_S = 2.0
SPOOL_S = 0.25
#: Entries that wait as objects; more are summed on the spot, so that memory stays bounded whatever the writer does.
INBOX_MOST = 256
#: Writing takes at most one part in so many of the time: on a busy loop the batches grow instead.
WRITE_SHARE = 10
WRITE_PAUSE_MOST_S = 0.1

NOTHING = Load()

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LedgerStatus:
    """For readiness and metrics. `reason` says why it is not `ok`; `owed` counts entries not yet in Redis."""

    ok: bool
    reason: str | None
    owed: int
    server: str  # `embedded` or the URL, without its secrets


class Ledger:
    """Records finished calls and knows every expert's `Load`. All methods belong to one event loop."""

    def __init__(self, settings: LedgerSettings, clock: Callable[[], float] = time.time) -> None:
        """`clock`: Unix time, which says on whose day a call ended."""
        self._settings = settings
        self._clock = clock
        self._day = day_of(clock())
        self._server = EmbeddedServer(settings.data_dir) if settings.url == "embedded" else None
        self._where = "the private Redis" if self._server else masked(settings.url)
        self._replica = uuid.uuid4().hex
        self._inbox: list[Entry] = []
        self._outbox = Outbox(settings.half_life_s)
        self._loads: dict[str, Load] = {}
        self._store: Store | None = None
        self._reason: str | None = None
        self._spool: Spool | None = None
        self._spooled_at = float("-inf")
        self._unspooled = False
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._closing = False
        self._read_at = 0.0
        self._write_s = 0.0

    async def open(self) -> None:
        """Starts the private server or connects, and begins to write behind.

        Raises `LedgerError` for what a person has to mend: no server binary, a wrong password, foreign data or
        another format; `ConfigError` for a password that cannot be read. A shared Redis that merely does not
        answer is no error: the ledger opens degraded and goes on trying, since a gateway must be able to
        restart while Redis is away.
        """
        self._spool = self._opened_spool()
        try:
            if self._server:
                await self._server.open()
            self._store = self._connect()
            await self._read()
            await self._warn()
            await self._adopt()
        except PointsmanError as error:
            if self._server or not isinstance(error, Unreachable):
                await self._let_go()
                raise
            self._failed(error)
        self._writer = asyncio.create_task(self._write_behind(), name="ledger")
        self._writer.add_done_callback(self._writer_ended)

    async def evicting(self) -> str | None:
        """What is wrong with a Redis that makes room by forgetting keys; None: nothing. Raises `LedgerError`."""
        policy = await self._opened().evicts()
        if policy is None:
            return None
        return (
            f"{self._where} forgets keys when its memory is full (maxmemory-policy {policy}): budgets, limits and "
            "accounts among them; set maxmemory-policy noeviction"
        )

    async def _warn(self) -> None:
        if (said := await self.evicting()) is not None:
            log.warning("ledger: %s", said)

    async def close(self) -> None:
        """Writes what is owed, waiting two seconds at most, and stops the private server."""
        self._closing = True
        self._wake.set()
        if self._writer:
            await asyncio.wait({self._writer}, timeout=CLOSE_TIMEOUT_S)
            await end({self._writer})
            self._writer = None
        if self.owed:
            await self._keep()
            log.warning("ledger: closed with %d entries that are not written; they are in the spool", self.owed)
        if self._spool is not None:
            self._spool.close()
        await self._let_go()

    def record(self, entry: Entry) -> None:
        """Takes one finished call. Costs microseconds, never waits, never raises."""
        if self._clock() // DAY_S != self._day:
            self._collect()
            self._day = day_of(self._clock())
        self._inbox.append(entry)
        if self._spool is not None:
            self._spool.record(entry)
        if not self._wake.is_set():
            self._wake.set()
        if len(self._inbox) >= INBOX_MOST:
            self._collect()

    def begin(self, expected: Entry) -> Callable[[], None] | None:
        """A call is under way, until what is returned is called: should this replica be killed before, the next one
        counts it as `expected`. Costs microseconds; None where nothing can be kept.
        """
        return None if self._spool is None else self._spool.begin(expected)

    def load(self, expert: str) -> Load:
        """The last known figures of an expert, of all replicas together; at most about a second old."""
        return self._loads.get(expert, NOTHING)

    @property
    def degraded(self) -> bool:
        """Redis does not answer: figures are old, entries wait in memory."""
        return self._store is None or self._reason is not None

    @property
    def owed(self) -> int:
        """Entries that are not known to be in Redis yet."""
        return len(self._inbox) + self._outbox.owed

    def status(self) -> LedgerStatus:
        server = "embedded" if self._server else self._where
        reason = "the ledger is not open" if self._store is None else self._reason
        return LedgerStatus(reason is None, reason, self.owed, server)

    async def ping(self) -> float:
        """Seconds of one round trip. Raises `LedgerError`."""
        started = time.perf_counter()
        await self._opened().ping()
        return time.perf_counter() - started

    async def snapshot(self) -> dict[str, Load]:
        """Every expert's figures, read from Redis now. Raises `LedgerError`."""
        return await self._opened().read()

    def _opened(self) -> Store:
        if self._store is None:
            raise LedgerError("the ledger is not open")
        return self._store

    def client(self) -> "Redis":
        """A new client of the ledger's Redis; nothing is sent yet, and whoever asks for it closes it."""
        settings = self._settings
        url = f"unix://{self._server.socket}" if self._server else settings.url
        password = settings.password.read("ledger.password") if settings.password else None
        sentinel = settings.sentinel_password
        asking = None if sentinel is None else (settings.sentinel_user, sentinel.read("ledger.sentinel_password"))
        return connect(url, None if self._server else password, asking)

    def _opened_spool(self) -> Spool | None:
        folder = self.spool_folder("calls")
        return None if folder is None else Spool(folder, self._replica)

    def spool_folder(self, what: str) -> Path | None:
        """Where replicas keep what they owe to this Redis; None, with a line in the log: nowhere."""
        settings = self._settings
        try:
            folder = settings.spool_dir or (settings.data_dir or default_data_dir()) / "spool"
        except LedgerError:  # a shared Redis needs no home
            log.warning(
                "ledger: %s that are owed are kept in memory only; set ledger.spool_dir to keep them in files too",
                what,
            )
            return None
        return spool_folder(folder.expanduser(), str(self._server.folder) if self._server else self._where, what)

    def _connect(self, replica: str | None = None) -> Store:
        settings = self._settings
        return Store(
            self.client(),
            self._where,
            replica or self._replica,
            settings.half_life_s,
            settings.accounts_days,
        )

    async def _let_go(self) -> None:
        if self._store:
            await self._store.close()
            self._store = None
        if self._server:
            await self._server.stop()

    async def _write_behind(self) -> None:
        """The writer's life: wait, write, and after a failure connect anew."""
        retry_s = RETRY_FIRST_S
        while not (self._closing and not self.owed):
            try:
                if self._reason is None:
                    await self._until_due()
                else:
                    await self._reconnect(retry_s)
                await self._write()
                await self._worked()
            except PointsmanError as error:
                self._failed(error)
                await self._keep()
                retry_s = min(retry_s * 2, RETRY_MOST_S)
            except Forgotten as error:
                log.warning("ledger: %s came back without the last writes; they are repeated", self._where)
                self._outbox.forgotten(error.known)
            else:
                retry_s = RETRY_FIRST_S

    async def _until_due(self) -> None:
        """Returns when a batch has gathered, at the latest when the figures must be read again."""
        if not self.owed:
            loop = asyncio.get_running_loop()
            self._wake.clear()
            if self._closing:
                return
            due = loop.call_at(self._read_at + HEARTBEAT_S, self._wake.set)
            await self._wake.wait()
            due.cancel()
        if self._inbox and not self._closing:
            busy_s = min(self._write_s * WRITE_SHARE, WRITE_PAUSE_MOST_S)
            await asyncio.sleep(max(self._settings.flush_ms / 1000, busy_s))

    async def _reconnect(self, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        self._collect()
        if self._server:
            await self._server.ensure()
        if self._store:
            await self._store.close()
        self._store = self._connect()

    async def _write(self) -> None:
        """Sends what is owed, and reads all figures when it is time to."""
        store = self._opened()
        self._collect()
        while batch := self._outbox.next():
            if self._spool is not None and self._spool.cut(batch.number, self._outbox.last):
                await self._keep(due=True)
            now = time.monotonic()
            loads = await store.write(batch, self._outbox.base, now - batch.made_at)
            self._write_s = time.monotonic() - now
            self._outbox.taken(batch, now)
            if self._spool is not None:
                self._spool.taken(batch.number)
            self._loads.update(loads)
        if asyncio.get_running_loop().time() >= self._read_at + HEARTBEAT_S:
            await self._read()

    async def _read(self) -> None:
        now = time.monotonic()
        self._loads = await self._opened().read(self._outbox.base)
        self._outbox.heard(now)
        self._read_at = asyncio.get_running_loop().time()

    def _collect(self) -> None:
        entries, self._inbox = self._inbox, []
        if entries:
            self._outbox.add(entries, time.monotonic(), self._day)
            if self._spool is not None:
                self._spool.collect()

    def _failed(self, error: PointsmanError) -> None:
        # one line when it begins, and one for whatever does not mend itself
        if self._reason is None or (str(error) != self._reason and not isinstance(error, Unreachable)):
            log.warning("ledger: %s; until that is mended, what is recorded waits in memory", error)
        self._reason = str(error)

    async def _worked(self) -> None:
        was_away, self._reason = self._reason is not None, None
        if self._spool is not None and self._spool.kept:
            await asyncio.to_thread(self._spool.clear)
        if was_away:
            log.warning("ledger: %s is back, and has what it was owed", self._where)
            await self._adopt()

    async def _keep(self, *, due: bool = False) -> None:
        """What is owed is put into the spool, at most four times a second unless it is `due`."""
        self._collect()
        owed, now = self._outbox.all_owed(), time.monotonic()
        if self._spool is None or not owed or (now < self._spooled_at + SPOOL_S and not (due or self._closing)):
            return
        self._spooled_at = now
        try:
            await self._spool.keep(owed, now)
        except OSError as error:
            if not self._unspooled:
                log.warning(
                    "ledger: what is owed cannot be kept in a file (%s); it waits in memory", error.strerror
                )
            self._unspooled = True

    async def _adopt(self) -> None:
        """Writes what replicas that are gone still owe. Raises `LedgerError`; what is left stays in the spool."""
        if self._spool is None:
            return
        try:
            for orphan in self._spool.orphans():
                store = self._connect(orphan.replica)
                try:
                    batches = batches_of(orphan, await store.known(), self._settings.half_life_s)
                    self._spool.adopt(orphan.replica, batches)
                    for batch in batches:
                        await store.write(batch, 0, max(time.time() - batch.made_at, 0.0))
                except LedgerError as error:
                    if not answered(error):
                        raise
                    # of that one alone: the others, and what this replica writes, do not wait for it
                    self._spool.leave(orphan.replica)
                    log.warning("ledger: what a replica that is gone owed stays in the spool: %s", error)
                    continue
                finally:
                    await store.close()
                if entries := sum(batch.entries for batch in batches):
                    log.warning("ledger: a replica that is gone owed %d calls; they are written", entries)
        except OSError as error:
            log.warning("ledger: the spool cannot be read: %s", error.strerror)

    def _writer_ended(self, task: asyncio.Task[None]) -> None:
        # our own bug, if at all: it must show in readiness, not only in asyncio's log
        if not task.cancelled() and task.exception():
            self._reason = f"the writer failed: {type(task.exception()).__name__}"
