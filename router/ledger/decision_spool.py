"""Rows of the decision log that Redis does not have yet, in files for the next replica (`router.ledger.journal`).

Each row is kept behind its number, and a batch has that of its last row. Redis knows which batch it took last of
a replica, so it is known which of the rows that one left behind are still to be sent. A row that is larger than one
of the journal's files is in memory alone.
"""

import logging
import struct
from collections.abc import Iterator
from pathlib import Path

from router.ledger.claim import Claim
from router.ledger.journal import Journal, forget, left_behind

#: Rows beyond it wait in memory alone.
SPOOL_BYTES = 64 << 20
_NUMBER = struct.Struct("<Q")

log = logging.getLogger(__name__)


class DecisionSpool:
    """Of one replica, on one event loop. Without a folder nothing is kept."""

    def __init__(self, folder: Path | None, replica: str) -> None:
        self._claim = None if folder is None else Claim(folder, replica)
        self._journal = None if folder is None else Journal(_stem(folder, replica), SPOOL_BYTES)
        self._broken = False

    def keep(self, number: int, row: bytes) -> int:
        """Keeps a row; returns its place, for `done`. 0: there was no room."""
        if self._claim is None or self._journal is None or self._broken:
            return 0
        try:
            self._claim.take()
            return self._journal.last if self._journal.append(_NUMBER.pack(number) + row) else 0
        except OSError as error:
            self._broken = True
            log.warning("decision log: rows cannot be kept in files (%s); they wait in memory", error.strerror)
            return 0

    def done(self, place: int) -> None:
        """Redis has the rows up to this place."""
        if self._journal is not None:
            self._journal.done(place)

    async def sync(self) -> None:
        """Waits for the disk, where there is anything new."""
        if self._journal is not None:
            try:
                await self._journal.sync()
            except OSError as error:
                log.warning("decision log: rows that wait may not outlive the machine (%s)", error.strerror)

    def close(self) -> None:
        """What Redis does not have is left to the next replica."""
        if self._journal is not None:
            self._journal.close()
        if self._claim is not None:
            self._claim.give_up()

    def orphans(self) -> Iterator[tuple[str, list[tuple[int, bytes]]]]:
        """Replicas that are gone and their rows, each with its number; forgotten once the caller asks for the next.

        Raises `OSError`.
        """
        if self._claim is None:
            return
        for replica in self._claim.orphans():
            stem = _stem(self._claim.folder, replica)
            records = (record for _, record in left_behind(stem) if len(record) > _NUMBER.size)
            yield replica, [(_NUMBER.unpack_from(record)[0], record[_NUMBER.size :]) for record in records]
            forget(stem)


def _stem(folder: Path, replica: str) -> Path:
    return folder / f"{replica}.decisions"
