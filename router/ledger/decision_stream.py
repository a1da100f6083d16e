"""The decision log's stream in Redis: rows in, ranges of them out, each step one script in one slot.

pointsman:{ledger}:decisions:stream       the rows as JSON, oldest first, at most so many: later ones are dropped
pointsman:{ledger}:decisions:dropped      how many were
pointsman:{ledger}:decisions:replica:ID   the last batch taken from this replica; forgotten after a week of silence
pointsman:{ledger}:decisions:fence        counts the writers that there have been
pointsman:{ledger}:decisions:known:ID     whose the decision is, for as long as it may be rated
pointsman:{ledger}:decisions:lease        the number of the one that may write now
pointsman:{ledger}:decisions:range        `FIRST LAST COUNT`: what is being written; until it is acknowledged no
                                   other range is, so that a crash in between writes the same file again
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from router.errors import LedgerError
from router.ledger.store import MARKER_LIFE_S, answering, foreign, let_go

if TYPE_CHECKING:
    from redis.asyncio import Redis

PREFIX = "pointsman:{ledger}:decisions:"
STREAM, DROPPED, FENCE, LEASE, RANGE = (PREFIX + name for name in ("stream", "dropped", "fence", "lease", "range"))
LEASE_MS = 10_000
#: Rows read by one command: Redis serves nobody else meanwhile.
PAGE = 500

_ADD = """
if tonumber(ARGV[1]) <= tonumber(redis.call('GET', KEYS[2]) or '0') then return 0 end
local room, dropped = tonumber(ARGV[3]) - redis.call('XLEN', KEYS[1]), 0
for i = 4, #ARGV do
  if room > 0 then
    redis.call('XADD', KEYS[1], '*', 'row', ARGV[i])
    room = room - 1
  else
    dropped = dropped + 1
  end
end
if dropped > 0 then redis.call('INCRBY', KEYS[3], dropped) end
redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
return dropped
"""
_TAKE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
local fence = holder or redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[1], fence, 'PX', ARGV[2])
return tonumber(fence)
"""
_FIX = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local first = redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', 1)[1]
if redis.call('EXISTS', KEYS[2]) == 1 or not first or first[1] ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[2], ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4])
return 1
"""
_DONE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] or redis.call('GET', KEYS[2]) ~= ARGV[2] then return 0 end
redis.call('XTRIM', KEYS[3], 'MINID', ARGV[3])
redis.call('DEL', KEYS[2])
return 1
"""


@dataclass(frozen=True, slots=True)
class Span:
    """A range of stream ids, both ends in it, and how many rows it has."""

    first: str
    last: str
    rows: int

    def __str__(self) -> str:
        return f"{self.first} {self.last} {self.rows}"


class DecisionStream:
    """One client of the stream. Every method raises `LedgerError` where Redis does not answer."""

    def __init__(self, client: "Redis", where: str) -> None:
        self._client: Any = client  # its stubs do not know that replies are bytes
        self._where = where
        self._scripts = {text: client.register_script(text) for text in (_ADD, _TAKE, _FIX, _DONE)}

    async def add(self, replica: str, number: int, rows: Sequence[bytes], most: int) -> int:
        """Appends a batch once, however often it is sent; returns how many rows found no room."""
        keys = [STREAM, f"{PREFIX}replica:{replica}", DROPPED]
        return int(await self._run(_ADD, keys, [number, MARKER_LIFE_S, most, *rows]))

    async def taken(self, replica: str) -> int:
        """The number of the last batch that was taken from a replica; 0: none."""
        async with answering(self._where):
            found = await self._client.get(f"{PREFIX}replica:{replica}") or b"0"
        if not found.isdigit():
            raise LedgerError(foreign(self._where, f"the key '{PREFIX}replica:{replica}'"))
        return int(found)

    async def remember(self, owners: Mapping[str, str], for_s: float) -> None:
        """Whose the decisions are; may be repeated."""
        pipe = self._client.pipeline(transaction=False)
        for decision, owner in owners.items():
            pipe.set(f"{PREFIX}known:{decision}", owner, px=int(for_s * 1000))
        async with answering(self._where):
            await pipe.execute()

    async def owner(self, decision: str) -> str | None:
        async with answering(self._where):
            found = await self._client.get(f"{PREFIX}known:{decision}")
        return None if found is None else str(found.decode())

    async def take(self, fence: int) -> int:
        """Becomes or stays the writer: its number, 0 while another one is. `fence`: its last number, or 0."""
        return int(await self._run(_TAKE, [LEASE, FENCE], [fence, LEASE_MS]))

    async def fixed(self) -> Span | None:
        """The range that was begun and not acknowledged."""
        async with answering(self._where):
            found = await self._client.get(RANGE)
        if found is None:
            return None
        first, last, rows = found.decode().split()
        return Span(first, last, int(rows))

    async def waiting(self) -> tuple[int, float]:
        """Rows in the stream, and the age of the oldest in seconds by the server's clock."""
        async with answering(self._where):
            rows = await self._client.xlen(STREAM)
            oldest = await self._client.xrange(STREAM, count=1)
            seconds, micros = await self._client.time()
        if not oldest:
            return 0, 0.0
        return rows, seconds + micros / 1e6 - int(oldest[0][0].split(b"-")[0]) / 1e3

    async def read(self, last: str, most: int) -> list[tuple[str, bytes]]:
        """The oldest rows with their ids, up to and with `last` (`+`: all) and at most `most`."""
        found: list[tuple[str, bytes]] = []
        while len(found) < most:
            after = f"({found[-1][0]}" if found else "-"
            async with answering(self._where):
                page = await self._client.xrange(STREAM, after, last, count=min(PAGE, most - len(found)))
            found += [(name.decode(), fields[b"row"]) for name, fields in page]
            if not page:
                break
        return found

    async def fix(self, fence: int, span: Span) -> bool:
        """Names the oldest rows as the range that is written next; False for who is not the writer any more."""
        return bool(await self._run(_FIX, [LEASE, RANGE, STREAM], [fence, span.first, span.last, span.rows]))

    async def done(self, fence: int, span: Span) -> bool:
        """The range is safe in files: takes it out of the stream; False for who is not the writer any more."""
        milliseconds, _, number = span.last.partition("-")
        arguments = [fence, str(span), f"{milliseconds}-{int(number) + 1}"]
        return bool(await self._run(_DONE, [LEASE, RANGE, STREAM], arguments))

    async def close(self) -> None:
        await let_go(self._client)

    async def _run(self, script: str, keys: list[str], arguments: list[Any]) -> Any:
        async with answering(self._where):
            return await self._scripts[script](keys=keys, args=arguments)
