"""What a replica owes, in files: one that is killed leaves it to the next that starts.

Every call is in the replica's journal (`router.ledger.journal`) before its answer ends, and so is which calls each
batch was cut from; until then it is kept as what it is expected to take (`router.ledger.under_way`). While Redis is
away what is owed is also kept summed, in `REPLICA.json`, written whole or not at all and synced: it is small, and
says up to which record of the journal it reaches. Batches keep the replica's name and their numbers, so whoever
sends them, and however often, they count once. Files are kept apart by the Redis they are owed to.
"""

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import orjson

from router.ledger.account import COUNTED, LETTERS, account_of, day_name, day_number, day_of
from router.ledger.claim import Claim
from router.ledger.journal import Journal, forget, left_behind
from router.ledger.outbox import FADING, Batch
from router.ledger.under_way import UnderWay, cut_off
from router.types import PLAIN, Entry, Parts, Payer, Usage

#: The journal's room. It is needed while Redis does not answer, until what is owed is summed in the other file.
JOURNAL_BYTES = 16 << 20
LIFE_S = 6 * 86_400  # shorter than Redis remembers which batches of a replica it has
FORMAT = 2
_CALL, _CUT = "call", "cut"
_ALL = (1 << 53) - 1
_SUM_MOST = (1 << 63) - 1  # Redis'
#: What a file that was damaged, or is another's, may raise where it is taken for ours.
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, OverflowError)
# a dataclass costs orjson five times as much as a tuple
_ENTRY = tuple(field.name for field in fields(Entry) if field.name not in ("usage", "payer"))
_entry_values = attrgetter(*_ENTRY)
_USAGE = tuple(field.name for field in fields(Usage) if field.name != "parts")
_usage_values = attrgetter(*_USAGE)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Orphan:
    """What a replica that is gone still owes. `made_at` of its batches, and the calls' times, are Unix time."""

    replica: str
    batches: tuple[Batch, ...]
    #: The first and the last batch that it was cut into (0: none), when, what: those that no batch here has.
    calls: tuple[tuple[tuple[int, int], float, Entry], ...]


class Spool:
    """Of one replica. Nothing is made before there is something to keep."""

    def __init__(self, folder: Path, replica: str) -> None:
        self._folder = folder
        self._claim = Claim(self._folder, replica)
        self._journal = Journal(self._folder / f"{replica}.calls", JOURNAL_BYTES)
        self._under_way = UnderWay(self._folder / f"{replica}.under_way")
        self.collected = 0  # the last record of the journal that is among what the outbox has
        self._cut = 0  # the last batch that was cut
        self._cuts: dict[int, int] = {}  # a batch's number -> the last record that is done when it is taken
        self.kept = False  # something is in the file that is not the journal
        self._left: set[str] = set()
        self._broken = False

    def record(self, entry: Entry) -> None:
        """Puts a call into the journal: microseconds."""
        self._append((_CALL, time.time(), _values(entry)))

    def begin(self, expected: Entry) -> Callable[[], None] | None:
        """A call is under way, which counts as `expected` if the process is killed before the end is told."""
        slot = None
        if not self._broken:
            try:
                self._claim.take()
                slot = self._under_way.begin(orjson.dumps((time.time(), _values(expected))))
            except OSError as error:
                self._break(error)
        return None if slot is None else partial(self._under_way.end, slot)

    def collect(self) -> None:
        """All that was recorded is among what is owed."""
        self.collected = self._journal.last

    def cut(self, number: int, last: int) -> bool:
        """What was collected is in batches up to `last`; `number` is about to be sent, perhaps again.

        True: it was cut into several, of which one may be taken without the next: all are to be kept before.
        """
        if last <= self._cut:
            return False
        self._cut = last
        through, all_of_them = self.collected, self.collected == self._journal.last
        self._append((_CUT, (number, last), through))
        self._cuts[last] = self._journal.last if all_of_them else through
        return last > number

    def taken(self, number: int) -> None:
        """Redis has the batch."""
        self._journal.done(self._cuts.pop(number, 0))

    def _append(self, record: tuple[Any, ...]) -> None:
        if self._broken:
            return
        try:
            if not self._claim.taken:
                self._claim.take()
            self._journal.append(orjson.dumps(record))
        except OSError as error:
            self._break(error)

    def _break(self, error: OSError) -> None:
        self._broken = True
        log.warning("ledger: no journal can be kept (%s): what a killed replica owed is lost", error.strerror)

    async def keep(self, batches: Sequence[Batch], now: float) -> None:
        """These are all that was collected and is owed; `made_at` is on the clock that says `now`.

        Raises `OSError`.
        """
        through, late = self.collected, time.time() - now
        self._claim.take()
        self.kept = True
        await asyncio.to_thread(self._write, self._claim.name, batches, late, through)
        self._journal.done(through)

    def clear(self) -> None:
        """Nothing is owed any more but what the journal has. Blocks."""
        self.kept = False
        with suppress(OSError):
            self._path(self._claim.name).unlink(missing_ok=True)

    def close(self) -> None:
        """What is still kept is orphaned."""
        self._journal.close()
        self._under_way.close()
        self._claim.give_up()

    def orphans(self) -> Iterator[Orphan]:
        """Those of replicas that are gone, one at a time; each is removed once the caller asks for the next."""
        for replica in self._claim.orphans():
            batches, through = self._read(self._path(replica)) or ((), 0)
            yield Orphan(replica, batches, tuple(self._calls(replica, through)))
            if replica in self._left:
                self._left.discard(replica)
                continue
            self._path(replica).unlink(missing_ok=True)
            self._forget(replica)

    def leave(self, replica: str) -> None:
        """The files of this orphan stay when the caller asks for the next."""
        self._left.add(replica)

    def adopt(self, replica: str, batches: Sequence[Batch]) -> None:
        """These alone an orphan owes: should this one fail too, the next is to send the same. Raises `OSError`."""
        self._write(replica, batches, 0.0, _ALL)
        self._forget(replica)

    def _forget(self, replica: str) -> None:
        forget(self._stem(replica))
        self._folder.joinpath(f"{replica}.under_way").unlink(missing_ok=True)

    def _write(self, replica: str, batches: Sequence[Batch], late: float, through: int) -> None:
        rows = [[b.number, b.made_at + late, b.entries, b.experts, b.days, b.payload.decode()] for b in batches]
        content = orjson.dumps({"format": FORMAT, "through": through, "batches": rows})
        path = self._path(replica)
        partial = path.with_suffix(".tmp")
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def _calls(self, replica: str, through: int) -> Iterator[tuple[tuple[int, int], float, Entry]]:
        if through == _ALL:
            return
        calls: list[tuple[int, float, Entry]] = []
        cuts: list[tuple[int, tuple[int, int]]] = []
        try:
            for at, record in left_behind(self._stem(replica)):
                kind, first, second = orjson.loads(record)
                if kind == _CUT:
                    cuts.append((_count(second), (_count(first[0]), _count(first[1]))))
                elif at > through and first > time.time() - LIFE_S:
                    calls.append((at, _moment(first), _entry(second)))
            for record in cut_off(self._folder / f"{replica}.under_way"):
                made_at, expected = orjson.loads(record)
                calls.append((_ALL, _moment(made_at), _entry(expected)))
        except _UNREADABLE as error:  # of another version
            log.warning("ledger: a journal cannot be read on from a place (%s)", type(error).__name__)
        for at, made_at, entry in calls:
            yield next((cut for last, cut in cuts if at <= last), (0, 0)), made_at, entry

    def _read(self, path: Path) -> tuple[tuple[Batch, ...], int] | None:
        """None, with a line in the log, for what is no spool or too old to be told from what was written."""
        try:
            content: Any = orjson.loads(path.read_bytes())
            if content["format"] not in (1, FORMAT):
                raise ValueError(f"format {content['format']}")
            batches = tuple(_batch(row, content["format"]) for row in content["batches"])
            through = int(content.get("through", 0))
        except FileNotFoundError:
            return None
        except (*_UNREADABLE, OSError) as error:
            log.warning("ledger: the spool %s cannot be read (%s); it is left out", path.name, type(error).__name__)
            return None
        if batches and batches[0].made_at < time.time() - LIFE_S:
            log.warning("ledger: the spool %s is older than %d days; it is left out", path.name, LIFE_S // 86_400)
            return None
        return batches, through

    def _path(self, replica: str) -> Path:
        return self._folder / f"{replica}.json"

    def _stem(self, replica: str) -> Path:
        return self._folder / f"{replica}.calls"


def _batch(row: Any, format: int) -> Batch:
    """One batch of a file. In format 1 there were no accounts: it tells of experts alone."""
    if format == 1:
        number, at, entries, experts, payload = row
        row = number, at, entries, experts, (), f'{{"experts":{payload},"accounts":[]}}'
    number, at, entries, experts, days, payload = row
    for day in days:
        day_number(day)
    _check_payload(orjson.loads(payload), len(days))
    names = tuple(map(_text, experts))
    return Batch(_count(number), _moment(at), _count(entries), names, tuple(days), payload.encode())


def _check_payload(payload: Any, days: int) -> None:
    """Redis would take half of one that is damaged, each time it is sent. Raises what `_UNREADABLE` has."""
    for name, *values in payload["experts"]:
        _text(name)
        for value in values[: len(COUNTED)]:
            _count(value, _SUM_MOST)
        if len(values) != len(COUNTED) + len(FADING) or not all(type(one) in (int, float) for one in values):
            raise ValueError("no sums of an expert")
    for day, name, *sums in payload["accounts"]:
        account_of(name)
        amounts = dict(zip(sums[::2], sums[1::2], strict=True))
        if not 1 <= day <= days or not amounts.keys() <= LETTERS.keys():
            raise ValueError("no sums of an account")
        for amount in amounts.values():
            _count(int(amount), _SUM_MOST)


def spool_folder(folder: Path, server: str, what: str) -> Path:
    """Where replicas keep what they owe to this server; the calls of earlier versions are there too."""
    name = hashlib.sha256(server.encode()).hexdigest()[:16]
    return folder / (name if what == "calls" else f"{name}-{what}")


def _values(entry: Entry) -> tuple[Any, ...]:
    usage = entry.usage
    parts = () if usage.parts is PLAIN else tuple(usage.parts)
    return _entry_values(entry), _usage_values(usage), parts, tuple(entry.payer)


def _entry(values: Any) -> Entry:
    entry, usage, parts, (key, team, tags) = values
    found = Entry(
        **dict(zip(_ENTRY, entry, strict=True)),
        usage=Usage(**dict(zip(_USAGE, usage, strict=True)), parts=Parts(*parts) if parts else PLAIN),
        payer=Payer(_text(key), _text(team), tuple(map(_text, tags))),
    )
    _text(found.expert)
    for count in (found.cost_nano, *_usage_values(found.usage), *found.usage.parts):
        _count(int(count) if isinstance(count, bool) else count)
    for seconds in (found.ttft_s, found.token_s):
        if seconds is not None and not 0 <= seconds < LIFE_S:
            raise ValueError("no time that a call takes")
    return found


def _count(value: Any, most: int = _ALL) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError("no number of anything")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("no name")
    return value


def _moment(value: Any) -> float:
    """Unix time, of a day that has a name."""
    day_name(day_of(value))
    return float(value)
