"""What was spent, read back: the sums of the accounts over days, by day, expert, key, team or tag.

Read from Redis when it is asked for, a part at a time; nothing of it is kept. What replicas have not written yet
(milliseconds' worth while Redis answers) is not in it.
"""

from collections.abc import Callable, Iterable, Sequence
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
READ_AT_ONCE = 2000

_PLACE = {letter.encode(): i for i, letter in enumerate(LETTERS)}


@dataclass(frozen=True, slots=True)
class Spend:
    """The sums, in the order of `AMOUNTS`, of what has `group` in common: a value for each dimension asked for."""

    group: tuple[str, ...]
    sums: Sums

    def amounts(self) -> dict[str, int]:
        return dict(zip(AMOUNTS, self.sums, strict=True))


async def spending(
    connect: Callable[[], "Redis"], where: str, first: date, last: date, by: Sequence[str], key: str | None = None
) -> tuple[list[Spend], Spend]:
    """What was spent from `first` to `last`, both counted, by each of `by`, ordered by that; and all of it.

    `key`: what that key spent alone. A call whose key has several tags counts for each of them, so sums by tag may
    come to more than all. "" stands for calls without a team, a tag or a key. Raises `LedgerError`, and
    `InvalidRequest` where so much was asked for that the answer would be too long.
    """
    found: dict[tuple[str, ...], Sums] = {}
    total = nothing()
    async with AsyncExitStack() as open_:
        client: Any = connect()
        open_.push_async_callback(let_go, client)
        accounts = await _accounts(client, where, key)
        for day in (first + timedelta(days=n) for n in range((last - first).days + 1)):
            for account, sums in (
                await _day(client, where, day.isoformat(), accounts, only=key is not None)
            ).items():
                _add(total, sums)
                for group in _groups(day.isoformat(), account, by):
                    _add(found.setdefault(group, nothing()), sums)
            if len(found) > ROWS_MOST:
                raise InvalidRequest(
                    f"by: more than {ROWS_MOST} rows by {', '.join(by)} from {first} to {last}; ask for fewer days",
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


async def _accounts(client: Any, where: str, key: str | None) -> dict[bytes, Account]:
    """All accounts, or those of one key, by their numbers."""
    found: dict[bytes, Account] = {}
    try:
        for name, number in (await _whole(client, where, ACCOUNTS_KEY)).items():
            account = account_of(name)
            if key is None or account[1].key == key:
                found[number] = account
    except ValueError:
        raise LedgerError(foreign(where, f"the key {ACCOUNTS_KEY!r}")) from None
    return found


async def _day(
    client: Any, where: str, day: str, accounts: dict[bytes, Account], *, only: bool
) -> dict[Account, Sums]:
    """`only`: of these accounts alone, which are few."""
    place = spend_key(day)
    if only:
        fields = [b"%s:%s" % (number, letter) for number in accounts for letter in _PLACE]
        amounts: dict[bytes, bytes] = {}
        for start in range(0, len(fields), READ_AT_ONCE):
            part = fields[start : start + READ_AT_ONCE]
            async with answering(where):
                values = await client.hmget(place, part)
            amounts |= {field: value for field, value in zip(part, values, strict=True) if value is not None}
    else:
        amounts = await _whole(client, where, place)
    found: dict[Account, Sums] = {}
    try:
        for field, value in amounts.items():
            number, _, letter = field.partition(b":")
            # one that another replica opened since the index was read is left out whole
            if number in accounts:
                found.setdefault(accounts[number], nothing())[_PLACE[letter]] = int(value)
    except (ValueError, KeyError):
        raise LedgerError(foreign(where, f"the key {place!r}")) from None
    return found


async def _whole(client: Any, where: str, key: str) -> dict[bytes, bytes]:
    """A hash, some fields at a time, so that reading one of many thousands holds Redis up for nobody."""
    found: dict[bytes, bytes] = {}
    cursor = 0
    while True:
        async with answering(where):
            cursor, part = await client.hscan(key, cursor, count=READ_AT_ONCE)
        found |= part
        if not cursor:
            return found
