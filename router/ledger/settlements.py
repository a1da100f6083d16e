"""What calls under limits and budgets came to, until Redis has it: in memory, and in a journal for the next one.

Each is kept as the command that tells Redis, and counts once however often it is sent, for the script knows the
reservation (for `SETTLED_LIFE_S`). When there are too many the oldest are kept, and the others counted. Beside them
is what each reservation that is open would come to, should this process be killed before it is settled.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import hiredis
import orjson

from router.ledger.caps import Cap, reservation_key
from router.ledger.caps_script import SETTLE_SHA
from router.ledger.claim import Claim
from router.ledger.journal import Journal, forget, left_behind
from router.ledger.pipe import Pipe
from router.ledger.under_way import UnderWay, cut_off

#: A settlement that is sent again within it counts once.
SETTLED_LIFE_S = 3_600
OWED_MOST = 100_000
JOURNAL_BYTES = 64 << 20
#: Of an open reservation: room for a dozen caps.
SLOT_BYTES = 2_048
#: Redis forgets a reservation that is never settled after so long: to settle it then would charge it anew.
OPEN_LIFE_S = 86_400

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Settlement:
    id: str
    command: tuple[Any, ...]
    number: int = 0  # in the journal; 0: it is not there
    pipe: Pipe | None = None  # that it was last sent by


class Settlements:
    """Of one replica, on one event loop. Without a folder there is no journal."""

    def __init__(self, folder: Path | None, replica: str) -> None:
        self._owed: OrderedDict[str, Settlement] = OrderedDict()
        self._claim = None if folder is None else Claim(folder, replica)
        self._journal = None if folder is None else Journal(_stem(folder, replica), JOURNAL_BYTES)
        self._open = None if folder is None else UnderWay(_open_path(folder, replica), SLOT_BYTES)
        self._broken = False
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._owed)

    def begin(self, id_: str, caps: tuple[Cap, ...], amounts: tuple[int, ...]) -> int | None:
        """A reservation is open, until `end` is called with what is returned: if the process is killed before, the
        next one settles it with these amounts. None: there is no place to keep it.
        """
        if self._open is None or self._claim is None or self._broken:
            return None
        try:
            self._claim.take()
            command = script_call(SETTLE_SHA, SETTLED_LIFE_S, id_, caps, amounts)
            return self._open.begin(orjson.dumps((time.time(), command[2:])))
        except OSError as error:
            self._break(error)
            return None

    def end(self, slot: int | None) -> None:
        if slot is not None and self._open is not None:
            self._open.end(slot)

    def add(self, id_: str, caps: tuple[Cap, ...], amounts: tuple[int, ...]) -> Settlement | None:
        """From now on it is owed. None: there is no room, and it was dropped."""
        if len(self._owed) >= OWED_MOST:
            if not self.dropped:
                log.warning("limits: more than %d calls wait to be settled; later ones are dropped", OWED_MOST)
            self.dropped += 1
            return None
        settlement = Settlement(id_, script_call(SETTLE_SHA, SETTLED_LIFE_S, id_, caps, amounts))
        if self._journal is not None and self._claim is not None and not self._broken:
            try:
                self._claim.take()
                if self._journal.append(orjson.dumps(settlement.command[2:])):
                    settlement.number = self._journal.last
            except OSError as error:
                self._break(error)
        self._owed.pop(id_, None)  # so that the order is the journal's
        self._owed[id_] = settlement
        return settlement

    def _break(self, error: OSError) -> None:
        self._broken = True
        log.warning("limits: no journal can be kept (%s): what a killed replica owed is lost", error.strerror)

    def settled(self, settlement: Settlement) -> None:
        """Redis has it."""
        if self._owed.get(settlement.id) is settlement:
            del self._owed[settlement.id]
        if self._journal is not None:
            oldest = next(iter(self._owed.values())).number if self._owed else self._journal.last + 1
            self._journal.done(oldest - 1)

    def unsent(self, pipe: Pipe, most: int) -> list[Settlement]:
        """The oldest of those that were not sent by this connection."""
        return list(islice((one for one in self._owed.values() if one.pipe is not pipe), most))

    async def sync(self) -> None:
        """Waits for the disk, where there is anything new."""
        if self._journal is not None:
            try:
                await self._journal.sync()
            except OSError as error:
                log.warning("limits: what is owed may not outlive the machine (%s)", error.strerror)

    def close(self) -> None:
        """What is owed is left to the next replica."""
        if self._journal is not None:
            self._journal.close()
        if self._open is not None:
            self._open.close()
        if self._claim is not None:
            self._claim.give_up()

    def orphans(self) -> Iterator[list[tuple[Any, ...]]]:
        """What replicas that are gone still owe, as commands; each is removed once the caller asks for the next.

        Raises `OSError`.
        """
        if self._claim is None:
            return
        for replica in self._claim.orphans():
            stem = _stem(self._claim.folder, replica)
            open_ = _open_path(self._claim.folder, replica)
            owed = [_command(record) for _, record in left_behind(stem)]
            # behind those: what was settled just before the end is settled as it was, and not again
            owed += [_expected(record) for record in cut_off(open_, SLOT_BYTES)]
            yield [one for one in owed if one is not None]
            forget(stem)
            open_.unlink(missing_ok=True)


def _expected(record: bytes) -> tuple[Any, ...] | None:
    """Of a reservation that was open; None where Redis may have forgotten it."""
    try:
        made_at, command = orjson.loads(record)
        if not time.time() - OPEN_LIFE_S < made_at:
            return None
    except (ValueError, TypeError):
        command = None
    return _command(orjson.dumps(command))


def _command(record: bytes) -> tuple[Any, ...] | None:
    """None, with a line in the log, for what no replica writes."""
    try:
        given = orjson.loads(record)
        if isinstance(given, list) and all(type(one) in (str, int) for one in given):
            return "EVALSHA", SETTLE_SHA, *given
    except ValueError:
        pass
    log.warning("limits: a call that a replica owed cannot be read; it is left out")
    return None


def check_refusal(error: BaseException) -> None:
    """Raises it, unless Redis would refuse the same command each time: then all others would wait for it."""
    if not (isinstance(error, hiredis.ReplyError) and str(error).startswith(("ERR ", "WRONGTYPE "))):
        raise error
    log.warning("limits: Redis refuses a call that a replica owed; it is left out: %s", error)


def _open_path(folder: Path, replica: str) -> Path:
    return folder / f"{replica}.open"


def _stem(folder: Path, replica: str) -> Path:
    return folder / f"{replica}.settlements"


def script_call(
    script: str, life_s: int, id_: str, caps: tuple[Cap, ...], amounts: tuple[int, ...]
) -> tuple[Any, ...]:
    """The command that runs one of `caps_script`'s over these caps."""
    rows = [value for cap, amount in zip(caps, amounts, strict=True) for value in cap.arguments(amount)]
    keys = [reservation_key(id_), *(cap.key for cap in caps)]
    return ("EVALSHA", script, len(keys), *keys, life_s, id_, *rows)
