"""What is owed to Redis: entries summed per account, cut into numbered batches, kept until they are safe.

Memory is bounded by the number of accounts (experts times keys, per day), not of requests: while Redis is away at
most one batch is on its way and everything later is summed into the next. Batches never change once they are
numbered, so one that was sent twice can be told from its number. Those that Redis has taken are kept a few seconds
longer, because a Redis that dies may come back without what it took last (it writes behind, and a replica that is
promoted lags): it then names the last batch it knows, and the later ones are sent again.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields

import orjson

from router.ledger.account import COUNTED, OTHERS, Account, Sums, add, day_name, nothing, row
from router.types import Entry

#: An append-only file that is fsynced every second may lack the last two; replicas lag less.
KEEP_S = 3.0


#: Accounts of one batch: Redis answers nobody else while it applies one, for milliseconds that grow with them. What
#: more has gathered while Redis was away is cut into several.
BATCH_MOST = 500
#: Accounts that wait; the spend of further ones is that of `OTHERS`.
WAITING_MOST = 16_384


@dataclass(slots=True)
class Tally:
    """Sums over entries of one expert, faded to one moment."""

    calls: float = 0.0
    failures: float = 0.0
    ttft_weight: float = 0.0
    ttft_sum_s: float = 0.0
    token_weight: float = 0.0
    token_sum_s: float = 0.0

    def add(self, entry: Entry) -> None:
        self.calls += 1.0
        if not entry.ok:
            self.failures += 1.0
        # one NaN would stay in the shared sums for ever
        if entry.ttft_s is not None and math.isfinite(entry.ttft_s):
            self.ttft_weight += 1.0
            self.ttft_sum_s += entry.ttft_s
        if entry.token_s is not None and math.isfinite(entry.token_s):
            self.token_weight += 1.0
            self.token_sum_s += entry.token_s

    def fade(self, factor: float) -> None:
        for name in FADING:
            setattr(self, name, getattr(self, name) * factor)


FADING = tuple(column.name for column in fields(Tally))
COLUMNS = (*COUNTED, *FADING)


@dataclass(frozen=True, slots=True)
class Batch:
    """One numbered step. `payload` is a JSON object: `experts` has a row [expert, *COLUMNS] per expert, `accounts`
    a row [place of the day in `days`, from 1, *account.row] per account and day.
    """

    number: int
    made_at: float  # on the caller's monotonic clock; the fading sums are of that moment
    entries: int
    experts: tuple[str, ...]
    days: tuple[str, ...]  # YYYY-MM-DD
    payload: bytes


class Outbox:
    """Numbers, keeps and repeats batches. Times are seconds on one monotonic clock, given by the caller."""

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._tallies: dict[str, Tally] = {}
        self._accounts: dict[int, dict[Account, tuple[Tally, Sums]]] = {}  # by UTC day, beside its expert's tally
        self._opened = 0  # accounts in all of them
        self._tallied_at = 0.0
        self._tallied = 0
        self._batches: deque[Batch] = deque()  # by number: those taken in the last KEEP_S, then those owed
        self._taken_at: dict[int, float] = {}
        self.last = 0  # the highest number given
        self._taken = 0  # the highest number that Redis is known to have
        self.base = 0  # the number that Redis must at least know: if it does not, it forgot

    @property
    def owed(self) -> int:
        """Entries that Redis is not known to have."""
        return self._tallied + sum(batch.entries for batch in self._owed_batches())

    def add(self, entries: list[Entry], now: float, day: int = 0) -> None:
        """`day`: the UTC day on which they ended, in days since 1970-01-01."""
        if self._tallies and now > self._tallied_at:
            factor = 0.5 ** ((now - self._tallied_at) / self._half_life_s)
            for tally in self._tallies.values():
                tally.fade(factor)
        self._tallied_at = now
        self._tallied += len(entries)
        accounts = self._accounts.setdefault(day, {})
        for entry in entries:
            account = (entry.expert, entry.payer)
            tally, sums = accounts.get(account) or self._open(accounts, account)
            tally.add(entry)
            add(sums, entry)

    def next(self) -> Batch | None:
        """The batch to send, the oldest first; the same one until it is taken. None: nothing is owed."""
        owed = list(self._owed_batches())
        if owed:
            return owed[-1]
        return self._cut() if self._tallies else None

    def all_owed(self) -> list[Batch]:
        """Oldest first; what is not yet cut as the batch that it would be now."""
        owed = list(self._owed_batches())[::-1]
        return [*owed, *self._as_batches()] if self._tallies else owed

    def taken(self, batch: Batch, now: float) -> None:
        """Redis has this batch; what it took more than KEEP_S ago is now safe."""
        self._taken = self.base = batch.number
        self._taken_at[batch.number] = now
        self.heard(now)

    def heard(self, now: float) -> None:
        """Redis, not having forgotten anything, answered: what it took more than KEEP_S ago is safe."""
        while self._batches and self._batches[0].number <= self._taken:
            oldest = self._batches[0].number
            if now - self._taken_at.setdefault(oldest, now) <= KEEP_S:
                return
            self._batches.popleft()
            self._taken_at.pop(oldest, None)
        if not self._batches:
            self.base = 0

    def forgotten(self, known: int) -> None:
        """Redis came back and knows batches up to `known` only: all later ones that are kept are owed again."""
        oldest = self._batches[0].number if self._batches else self.last + 1
        self._taken = max(known, oldest - 1)
        self.base = known

    def _owed_batches(self) -> Iterator[Batch]:
        """Newest first."""
        for batch in reversed(self._batches):
            if batch.number <= self._taken:
                return
            yield batch

    def _cut(self) -> Batch:
        batches = self._as_batches()
        self.last = batches[-1].number
        self._batches.extend(batches)
        self._tallies, self._accounts = {}, {}
        self._tallied = self._opened = 0
        return batches[0]

    def _open(self, accounts: dict[Account, tuple[Tally, Sums]], account: Account) -> tuple[Tally, Sums]:
        expert = account[0]
        if self._opened >= WAITING_MOST:
            account = (expert, OTHERS)
        if account not in accounts:
            accounts[account] = (self._tallies.setdefault(expert, Tally()), nothing())
            self._opened += 1
        return accounts[account]

    def _as_batches(self) -> list[Batch]:
        rows = [
            (day_name(day), account, tally, sums)
            for day, accounts in self._accounts.items()
            for account, (tally, sums) in accounts.items()
        ]
        starts = range(0, len(rows), BATCH_MOST)
        told: set[str] = set()  # experts whose fading sums are in a batch already
        return [
            self._as_batch(number, rows[start : start + BATCH_MOST], told)
            for number, start in enumerate(starts, self.last + 1)
        ]

    def _as_batch(self, number: int, rows: list[tuple[str, Account, Tally, Sums]], told: set[str]) -> Batch:
        days = list(dict.fromkeys(day for day, *_ in rows))
        experts: dict[str, tuple[list[int], Tally]] = {}
        for _, (expert, _), tally, sums in rows:
            if expert not in experts:
                experts[expert] = [0] * len(COUNTED), Tally() if expert in told else tally
            counts = experts[expert][0]
            for i in range(len(COUNTED)):
                counts[i] += sums[i]
        told.update(experts)
        payload = {
            "experts": [
                [expert, *counts, *(getattr(tally, column) for column in FADING)]
                for expert, (counts, tally) in experts.items()
            ],
            "accounts": [[days.index(day) + 1, *row(account, sums)] for day, account, _, sums in rows],
        }
        entries = sum(sums[0] for *_, sums in rows)
        return Batch(number, self._tallied_at, entries, tuple(experts), tuple(days), orjson.dumps(payload))
