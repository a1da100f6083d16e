"""Reservations made ahead: where there is ample room a request finds one and waits for nothing.

A spare is a reservation as any other, made in Redis behind one request for the caller's next to the same expert,
for twice what they lately took. So nothing is admitted that Redis has not admitted. One is made only for who asked
within the last second, and only while every cap has room for a hundred such besides; one that nobody took in a
second is given back. In a sliding window a request may thus count up to a second before it came: one a replica,
caller and expert.
"""

import time
from dataclasses import dataclass, field

from router.ledger.caps import Cap
from router.ledger.reservation import Reservation

LIFE_S = 1.0
#: So many times a spare must fit into what is left of a cap: what it holds is to keep nobody out.
ROOM = 100
#: A spare holds so many times the tokens and the cost that were expected lately.
WIDTH = 2
#: Callers with their experts that are remembered; those that have no spare are forgotten beyond.
PAIRS_MOST = 4_096


@dataclass(slots=True)
class _Pair:
    """A caller's requests to one expert. Times are seconds on the monotonic clock."""

    asked_at: float = float("-inf")
    most: tuple[int, ...] = ()  # of each cap's amounts, fading
    spare: Reservation | None = None
    made_at: float = 0.0
    under_way: Reservation | None = None  # Redis is being asked for it


@dataclass(slots=True)
class Spares:
    """Of one replica, on one event loop. Who asks Redis for them, and gives them back, is `Admission`."""

    name: str  # of the replica: reservations are told apart by it
    _of: dict[tuple[str, str], _Pair] = field(default_factory=dict)
    _count: int = 0

    def take(self, wanted: Reservation) -> Reservation | None:
        """The spare that has room for what is wanted; it is the request's from now on."""
        pair = self._of.get((wanted.caller, wanted.expert))
        if pair is None or (spare := pair.spare) is None or time.monotonic() > pair.made_at + LIFE_S:
            return None
        if spare.caps != wanted.caps or any(map(int.__lt__, spare.amounts, wanted.amounts)):
            return None
        pair.spare = None
        return spare

    def next(self, admitted: Reservation) -> Reservation | None:
        """The spare to ask for behind a request that was admitted, if there is to be one."""
        name, now = (admitted.caller, admitted.expert), time.monotonic()
        if (pair := self._of.get(name)) is None:
            if len(self._of) >= PAIRS_MOST:
                self._of = {one: pair for one, pair in self._of.items() if pair.spare or pair.under_way}
            pair = self._of[name] = _Pair()
        recently = now - pair.asked_at < LIFE_S
        pair.asked_at = now
        if len(pair.most) != len(admitted.amounts):
            pair.most = admitted.amounts
        pair.most = tuple(max(new, old - old // 8) for new, old in zip(admitted.amounts, pair.most, strict=True))
        if not recently or pair.under_way is not None or pair.spare is not None:
            return None
        amounts = tuple(map(_wide, admitted.caps, pair.most))
        caps = zip(admitted.caps, amounts, admitted.used, strict=True)
        if any(used + ROOM * amount > cap.limit for cap, amount, used in caps):
            return None
        self._count += 1
        id_ = f"spare:{self.name}:{self._count}"
        pair.under_way = Reservation(id_, *name, admitted.caps, amounts)
        return pair.under_way

    def made(self, spare: Reservation) -> bool:
        """Redis has reserved it. False: it was dropped meanwhile."""
        pair = self._of.get((spare.caller, spare.expert), _NOBODY)
        if pair.under_way is not spare:
            return False
        pair.spare, pair.made_at, pair.under_way = spare, time.monotonic(), None
        return True

    def drop(self, spare: Reservation) -> bool:
        """It is no spare any more. False: it was none already, but a request's, or dropped."""
        pair = self._of.get((spare.caller, spare.expert), _NOBODY)
        if spare is pair.spare:
            pair.spare = None
        elif spare is pair.under_way:
            pair.under_way = None
        else:
            return False
        return True

    def all(self) -> list[Reservation]:
        """Those that no request has taken."""
        pairs = self._of.values()
        return [one for pair in pairs for one in (pair.spare, pair.under_way) if one is not None]


_NOBODY = _Pair()


def _wide(cap: Cap, amount: int) -> int:
    return amount * WIDTH if cap.what in ("tokens", "usd") else amount
