"""What a replica owes, in a file while Redis is away: one that is killed then leaves it to the next that starts.

A file is a replica's, `REPLICA.json`, written whole or not at all and synced; it is small, for what is owed is
summed per expert. Its batches keep the replica's name and their numbers, so whoever sends them, and however often,
they count once. The replica holds a lock as long as it lives: what can be locked is orphaned. Files are kept apart
by the Redis they are owed to.
"""

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from router.ledger.outbox import Batch

LIFE_S = 6 * 86_400  # shorter than Redis remembers which batches of a replica it has
FORMAT = 2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Orphan:
    """What a replica that is gone still owes. `made_at` of its batches is Unix time."""

    replica: str
    batches: tuple[Batch, ...]


class Spool:
    """Of one replica; blocking, and nothing is made before there is something to keep."""

    def __init__(self, folder: Path, server: str, replica: str) -> None:
        self._folder = folder / hashlib.sha256(server.encode()).hexdigest()[:16]
        self._replica = replica
        self._lock: IO[bytes] | None = None
        self._kept = False

    def keep(self, batches: Sequence[Batch], now: float) -> None:
        """These are owed; their `made_at` is on the clock that says `now`. Raises `OSError`."""
        if self._lock is None:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = self._locked(self._replica)
        late = time.time() - now
        rows = [[b.number, b.made_at + late, b.entries, b.experts, b.days, b.payload.decode()] for b in batches]
        content = orjson.dumps({"format": FORMAT, "batches": rows})
        path = self._path(self._replica)
        partial = path.with_suffix(".tmp")
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        self._kept = True

    def clear(self) -> None:
        """Nothing is owed any more."""
        if self._kept:
            self._kept = False
            with suppress(OSError):
                self._path(self._replica).unlink(missing_ok=True)

    def close(self) -> None:
        """The lock is given up; what is still kept is orphaned."""
        if self._lock is not None:
            if not self._kept:
                with suppress(OSError):
                    self._folder.joinpath(f"{self._replica}.lock").unlink(missing_ok=True)
            self._lock.close()
            self._lock = None
            with suppress(OSError):  # the last one clears up
                self._folder.rmdir()

    def orphans(self) -> Iterator[Orphan]:
        """Those of replicas that are gone, one at a time; each is removed once the caller asks for the next."""
        for path in sorted(self._folder.glob("*.json")):
            replica = path.stem
            if replica == self._replica:
                continue
            lock = self._locked(replica)
            if lock is None:
                continue
            try:
                if (batches := self._read(path)) is not None:
                    yield Orphan(replica, batches)
                path.unlink(missing_ok=True)
                self._folder.joinpath(f"{replica}.lock").unlink(missing_ok=True)
            finally:
                lock.close()

    def _read(self, path: Path) -> tuple[Batch, ...] | None:
        """None, with a line in the log, for what is no spool or too old to be told from what was written."""
        try:
            content: Any = orjson.loads(path.read_bytes())
            if content["format"] not in (1, FORMAT):
                raise ValueError(f"format {content['format']}")
            batches = tuple(_batch(row, content["format"]) for row in content["batches"])
        except FileNotFoundError:  # another took it meanwhile
            return None
        except (ValueError, TypeError, KeyError, OSError) as error:
            log.warning("ledger: the spool %s cannot be read (%s); it is left out", path.name, type(error).__name__)
            return None
        if batches and batches[0].made_at < time.time() - LIFE_S:
            log.warning("ledger: the spool %s is older than %d days; it is left out", path.name, LIFE_S // 86_400)
            return None
        return batches

    def _locked(self, replica: str) -> IO[bytes] | None:
        file = self._folder.joinpath(f"{replica}.lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
        return file

    def _path(self, replica: str) -> Path:
        return self._folder / f"{replica}.json"


def _batch(row: Any, format: int) -> Batch:
    """One batch of a file. In format 1 there were no accounts: it tells of experts alone."""
    if format == 1:
        number, at, entries, experts, payload = row
        row = number, at, entries, experts, (), f'{{"experts":{payload},"accounts":[]}}'
    number, at, entries, experts, days, payload = row
    return Batch(int(number), float(at), int(entries), tuple(experts), tuple(map(str, days)), payload.encode())
