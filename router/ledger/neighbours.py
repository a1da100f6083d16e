"""Which kept answers have a question close to this one: vectors in the ledger's Redis, for the semantic cache.

    pointsman:{ledger}:alike:GROUP    stream, one entry for each answer kept: `v`, the answer's digest and
                                      the question's vector in float16, and `w`, its words as 16-bit
                                      hashes in their order; at most `entries`, the newest, for as long
                                      as answers

A group holds the questions that may be compared at all. Redis searches nothing: every replica has a copy of the
groups that it was asked of lately, reads what is new in one bounded step, and compares there. No text is kept.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

from router.ledger.answers import Answers, Command, KeptAnswer
from router.ledger.store import PREFIX
from router.sameness import reordered
from router.types import Floats

COPIED_MOST = 20_000  # vectors in memory; the group that was longest not asked of goes first
DIGEST_BYTES = 32
_BEGIN = (0, 0)


@dataclass(slots=True)
class _Copy:
    """A group's entries, oldest first; `vectors` is [n, d]."""

    vectors: Floats
    last: tuple[int, int] = _BEGIN  # of the entries that were read
    digests: list[str] = field(default_factory=list)
    words: list[tuple[int, ...]] = field(default_factory=list)


class Neighbours:
    """One replica's view of all groups."""

    def __init__(self, answers: Answers, *, entries: int) -> None:
        self._answers = answers
        self._entries = entries
        self._copies: OrderedDict[str, _Copy] = OrderedDict()
        self._copied = 0

    def entry(self, group: str, digest: str, vector: Floats, words: tuple[int, ...]) -> tuple[Command, ...]:
        """What writes the question down beside its answer; `words` is its `router.sameness.order`."""
        key = PREFIX + "alike:" + group
        value = bytes.fromhex(digest) + vector.astype("<f2").tobytes()
        return (
            ("XADD", key, "MAXLEN", self._entries, "*", "v", value, "w", np.array(words, "<u2").tobytes()),
            ("PEXPIRE", key, self._answers.ttl_ms),
        )

    async def nearest(
        self, group: str, vector: Floats, words: tuple[int, ...], least: float, max_age_s: float | None = None
    ) -> KeptAnswer | None:
        """The answer to the closest question with its words in the same order, if its cosine is at least `least`.

        None, too, where that answer is as old as `max_age_s`, and where Redis does not say in time what is new.
        """
        known = self._copies.get(group)
        since = _BEGIN if known is None else known.last
        start = b"(%d-%d" % since
        key = PREFIX + "alike:" + group
        replies = await self._answers.ask(("XRANGE", key, start, "+", "COUNT", self._entries))
        if replies is None:
            return None
        copy = self._copies.get(group)
        if copy is None:
            if since != _BEGIN:  # let go of meanwhile
                return None
            copy = _Copy(np.empty((0, len(vector)), np.float32))
        self._take(group, copy, replies[0])
        if not copy.digests:
            return None
        cosine = copy.vectors @ vector
        close = [int(i) for i in np.argsort(-cosine) if cosine[i] >= least]
        best = next((i for i in close if not reordered(words, copy.words[i])), None)
        if best is None:
            return None
        found = await self._answers.find(copy.digests[best], max_age_s)
        if found is None and max_age_s is None and not self._answers.resting:
            # its time is over, and so is that of those before it
            self._forget(group, copy, copy.digests[best])
        return found

    def _take(self, group: str, copy: _Copy, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
        """Puts what is new into the copy, and keeps all copies within their bound."""
        before, d = len(copy.digests), copy.vectors.shape[1]
        fresh = []
        for name, fields in entries:
            at, _, number = name.partition(b"-")
            place, value = (int(at), int(number)), fields.get(b"v", b"")
            if place <= copy.last:
                continue  # another request has read it meanwhile
            copy.last = place
            if len(value) == DIGEST_BYTES + 2 * d:  # else it is none that `entry` writes
                copy.digests.append(value[:DIGEST_BYTES].hex())
                copy.words.append(_hashes(fields.get(b"w", b"")))
                fresh.append(np.frombuffer(value, "<f2", offset=DIGEST_BYTES).astype(np.float32))
        if fresh:
            copy.vectors = np.concatenate([copy.vectors, np.stack(fresh)])[-self._entries :]
            copy.digests = copy.digests[-self._entries :]
            copy.words = copy.words[-self._entries :]
        if not copy.digests:
            return
        self._copied += len(copy.digests) - before
        self._copies[group] = copy
        self._copies.move_to_end(group)
        while self._copied > COPIED_MOST and len(self._copies) > 1:
            _, gone = self._copies.popitem(last=False)
            self._copied -= len(gone.digests)

    def _forget(self, group: str, copy: _Copy, digest: str) -> None:
        if self._copies.get(group) is not copy or digest not in copy.digests:
            return
        gone = copy.digests.index(digest) + 1
        copy.digests, copy.vectors, copy.words = copy.digests[gone:], copy.vectors[gone:], copy.words[gone:]
        self._copied -= gone


def _hashes(value: bytes) -> tuple[int, ...]:
    return tuple(np.frombuffer(value[: len(value) // 2 * 2], "<u2").tolist())
