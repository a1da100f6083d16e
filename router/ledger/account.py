"""What an account adds up, and by which names Redis keeps it.

An account is an expert, a key, a team and tags, as they were when a call ended. Its sums of one UTC day are
fields of that day's hash, `NUMBER:LETTER`, where NUMBER stands for the account in the index of accounts: so a field
is some eight bytes long however the key and its tags are called. Only what is not zero is kept.
"""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson

from router.types import PLAIN, Entry, Parts, Payer

DAY_S = 86_400

#: What is counted of an expert as well, in the order of its hash. A call that failed and cost nothing is one, too.
COUNTED = ("requests", "errors", "input_tokens", "cached_tokens", "output_tokens", "cost_nano")
#: All that an account sums: integers.
#: `estimated` calls, of which no expert told what they took, and what they are taken to have cost.
AMOUNTS = (*COUNTED, "estimated", "estimated_nano", *Parts._fields)
LETTERS = dict(zip("reicongvwhamspt", AMOUNTS, strict=True))

#: Whose spend it is where one batch has more accounts than a batch may have.
OTHERS = Payer(key="(others)")

Account = tuple[str, Payer]  # an expert's name, and who pays
Sums = list[int]  # in the order of AMOUNTS

_EPOCH = date(1970, 1, 1)
_PARTS_AT = len(AMOUNTS) - len(Parts._fields)


def nothing() -> Sums:
    return [0] * len(AMOUNTS)


def add(sums: Sums, entry: Entry) -> None:
    usage = entry.usage
    sums[0] += 1
    if not entry.ok:
        sums[1] += 1
    sums[2] += usage.input_tokens
    sums[3] += usage.cached_tokens
    sums[4] += usage.output_tokens
    sums[5] += entry.cost_nano
    if usage.estimated:
        sums[6] += 1
        sums[7] += entry.cost_nano
    if usage.parts is not PLAIN:
        for i, tokens in enumerate(usage.parts, _PARTS_AT):
            sums[i] += tokens


def row(account: Account, sums: Sums) -> list[str]:
    """As a batch carries it: the account, then letters and amounts in turn; as text: Lua counts in doubles."""
    written = [named(account)]
    for letter, amount in zip(LETTERS, sums, strict=True):
        if amount:
            written += (letter, str(amount))
    return written


def named(account: Account) -> str:
    expert, payer = account
    return orjson.dumps([expert, *payer]).decode()


def account_of(name: bytes) -> Account:
    """The account by its name in the index. Raises `ValueError` for what is none."""
    found: Any = orjson.loads(name)
    if not isinstance(found, list) or len(found) != 4 or not isinstance(found[3], list):
        raise ValueError("no account")
    expert, key, team, tags = found
    return expert, Payer(key, team, tuple(tags))


def day_of(unix_s: float) -> int:
    """The UTC day as the number of days since 1970-01-01."""
    return int(unix_s // DAY_S)


def day_name(day: int) -> str:
    return (_EPOCH + timedelta(days=day)).isoformat()


def today() -> date:
    return datetime.now(UTC).date()


def day_number(day: str) -> int:
    return (date.fromisoformat(day) - _EPOCH).days
