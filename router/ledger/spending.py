"""What was spent, read back: the sums of the accounts over days, by day, expert, key, team or tag.

Read from Redis when it is asked for, a part at a time, in a thread and an event loop of its own, for there may be
hundreds of thousands of sums to add up; nothing of it is kept. What replicas have not written yet (milliseconds'
worth while Redis answers) is not in it.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from router.errors import InvalidRequest, LedgerError
from router.ledger.account import AMOUNTS, LETTERS, Account, Sums, account_of, nothing
from router.ledger.store import ACCOUNTS_KEY, answering, foreign, let_go, spend_key

if TYPE_CHECKING:
    from redis.asyncio import Redis

DIMENSIONS = ("day", "expert", "key", "team", "tag")
ROWS_MOST = 50_000
SUMS_MOST = 2_000_000  # read for one answer: some ten seconds' work
READ_AT_ONCE = 2000

_PLACE = {letter.encode(): i for i, letter in enumerate(LETTERS)}


@dataclass(frozen=True, slots=True)
class Spend:
    """The sums, in the order of `AMOUNTS`, of what has `group` in common: a value for each dimension asked for."""

    group: tuple[str, ...]
    sums: Sums

    def amounts(self) -> dict[str, int]:
        """By name. `calls` are those of experts, one that failed too: a request that moved on is several."""
        return dict(zip(("calls", *AMOUNTS[1:]), self.sums, strict=True))


class Spending:
    """Reads what was spent, for one asker at a time. `where` is how messages call the Redis."""

    def __init__(self, connect: Callable[[], "Redis"], where: str) -> None:
        self._connect = connect
        self._where = where
        self._turn = asyncio.Lock()

    async def read(
        self, first: date, last: date, by: Sequence[str], key: str | None = None
    ) -> tuple[list[Spend], Spend]:
        """What was spent from `first` to `last`, both counted, by each of `by`, ordered by that; and all of it.

        `key`: what that key spent alone. A call whose key has several tags counts for each of them, so sums by tag
        may come to more than all. "" stands for calls without a team, a tag or a key. Raises `LedgerError`, and
        `InvalidRequest` where so much was asked for that it would take too long.
        """
        async with self._turn:
            return await asyncio.to_thread(asyncio.run, self._read(first, last, by, key))

    async def _read(self, first: date, last: date, by: Sequence[str], key: str | None) -> tuple[list[Spend], Spend]:
        found: dict[tuple[str, ...], Sums] = {}
        total = nothing()
        days = [(first + timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]
        async with AsyncExitStack() as opened:
            client: Any = self._connect()
            opened.push_async_callback(let_go, client)
            reader = _Reader(client, self._where)
            accounts = await reader.accounts(key)
            sizes = await reader.sizes(days)
            if key is None and sum(sizes.values()) > SUMS_MOST:
                raise InvalidRequest(
                    f"from: {sum(sizes.values()):,} sums are kept from {first} to {last}, at most {SUMS_MOST:,} "
                    "can be asked for; ask for fewer days",
                    param="from",
                )
            for day in sizes:
                for account, sums in await reader.day(day, accounts, only=key is not None):
                    _add(total, sums)
                    for group in _groups(day, account, by):
                        _add(found.setdefault(group, nothing()), sums)
                if len(found) > ROWS_MOST:
                    raise InvalidRequest(
                        f"by: more than {ROWS_MOST:,} rows by {', '.join(by)} from {first} to {last}; ask for "
                        "fewer days",
                        param="by",
                    )
        return [Spend(group, found[group]) for group in sorted(found)], Spend((), total)


def _add(into: Sums, sums: Iterable[int]) -> None:
    for i, amount in enumerate(sums):
        into[i] += amount


def _groups(day: str, account: Account, by: Sequence[str]) -> list[tuple[str, ...]]:
    expert, payer = account
    groups: list[tuple[str, ...]] = [()]
    said = {
        "day": (day,),
        "expert": (expert,),
        "key": (payer.key,),
        "team": (payer.team,),
        "tag": payer.tags or ("",),
    }
    for dimension in by:
        groups = [(*group, value) for group in groups for value in said[dimension]]
    return groups


class _Reader:
    def __init__(self, client: Any, where: str) -> None:
        self._client = client
        self._where = where

    async def accounts(self, key: str | None) -> dict[bytes, Account]:
        """All accounts, or those of one key, by their numbers."""
        found: dict[bytes, Account] = {}
        try:
            for name, number in (await self._whole(ACCOUNTS_KEY)).items():
                account = account_of(name)
                if key is None or account[1].key == key:
                    found[number] = account
        except ValueError:
            raise LedgerError(foreign(self._where, f"the key {ACCOUNTS_KEY!r}")) from None
        return found

    async def sizes(self, days: Sequence[str]) -> dict[str, int]:
        """How many sums are kept of each of these days of which any are."""
        async with answering(self._where):
            pipeline = self._client.pipeline(transaction=False)
            for day in days:
                pipeline.hlen(spend_key(day))
            found = await pipeline.execute()
        return {day: size for day, size in zip(days, found, strict=True) if size}

    async def day(
        self, day: str, accounts: Mapping[bytes, Account], *, only: bool
    ) -> Iterable[tuple[Account, Sums]]:
        """`only`: of these accounts alone, which are few. One opened since the index was read is left out whole."""
        place = spend_key(day)
        amounts = await (self._some(place, accounts) if only else self._whole(place))
        found: dict[bytes, Sums] = {}
        try:
            for field, value in amounts.items():
                number, _, letter = field.partition(b":")
                sums = found.get(number)
                if sums is None:
                    sums = found[number] = nothing()
                sums[_PLACE[letter]] = int(value)
        except (ValueError, KeyError):
            raise LedgerError(foreign(self._where, f"the key {place!r}")) from None
        return [(accounts[number], sums) for number, sums in found.items() if number in accounts]

    async def _some(self, key: str, numbers: Iterable[bytes]) -> dict[bytes, bytes]:
        fields = [b"%s:%s" % (number, letter) for number in numbers for letter in _PLACE]
        found: dict[bytes, bytes] = {}
        for start in range(0, len(fields), READ_AT_ONCE):
            part = fields[start : start + READ_AT_ONCE]
            async with answering(self._where):
                values = await self._client.hmget(key, part)
            found |= {field: value for field, value in zip(part, values, strict=True) if value is not None}
        return found

    async def _whole(self, key: str) -> dict[bytes, bytes]:
        """A hash, some fields at a time, so that reading one of many thousands holds Redis up for nobody."""
        found: dict[bytes, bytes] = {}
        cursor = 0
        while True:
            async with answering(self._where):
                cursor, part = await self._client.hscan(key, cursor, count=READ_AT_ONCE)
            found |= part
            if not cursor:
                return found
