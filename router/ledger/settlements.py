"""What calls under limits and budgets came to, until Redis has it: in memory, and in a journal for the next one.

Each is kept as the command that tells Redis, and counts once however often it is sent, for the script knows the
reservation (for `SETTLED_LIFE_S`). When there are too many the oldest are kept, and the others counted.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from router.ledger.caps import Cap, reservation_key
from router.ledger.caps_script import SETTLE_SHA
from router.ledger.claim import Claim
from router.ledger.journal import Journal, forget, left_behind
from router.ledger.pipe import Pipe

#: A settlement that is sent again within it counts once.
SETTLED_LIFE_S = 3_600
OWED_MOST = 100_000
JOURNAL_BYTES = 64 << 20

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
        self._synced = 0
        self._broken = False
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._owed)

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
                self._broken = True
                log.warning(
                    "limits: no journal can be kept (%s): what a killed replica owed is lost", error.strerror
                )
        self._owed.pop(id_, None)  # so that the order is the journal's
        self._owed[id_] = settlement
        return settlement

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
        if self._journal is not None and self._synced < self._journal.last:
            self._synced = self._journal.last
            try:
                await asyncio.to_thread(self._journal.sync)
            except OSError as error:
                log.warning("limits: what is owed may not outlive the machine (%s)", error.strerror)

    def close(self) -> None:
        """What is owed is left to the next replica."""
        if self._journal is not None:
            self._journal.close()
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
            yield [one for _, record in left_behind(stem) if (one := _command(record)) is not None]
            forget(stem)


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


def _stem(folder: Path, replica: str) -> Path:
    return folder / f"{replica}.settlements"


def script_call(
    script: str, life_s: int, id_: str, caps: tuple[Cap, ...], amounts: tuple[int, ...]
) -> tuple[Any, ...]:
    """The command that runs one of `caps_script`'s over these caps."""
    rows = [value for cap, amount in zip(caps, amounts, strict=True) for value in cap.arguments(amount)]
    keys = [reservation_key(id_), *(cap.key for cap in caps)]
    return ("EVALSHA", script, len(keys), *keys, life_s, id_, *rows)
