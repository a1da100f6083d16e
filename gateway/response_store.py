"""Stored responses in the ledger's Redis, each under the name of the key that asked for it.

    pointsman:{ledger}:response:CALLER:ID    hash, which lives `responses.ttl_s`
        input      the items of its own request, JSON
        response   the response as it was answered, JSON
        chain      the ids of the responses before it in its conversation, oldest first, JSON
        size       bytes of all input and responses of the conversation up to it

CALLER is part of the key, so another key's response is not there at all. Each turn of a conversation is stored
once, and lives as long again whenever the conversation goes on. Prompts are in here: an operator turns it off with
`responses.store: false`. No other request waits for any of this, and each wait is bounded.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from gateway.chat_request import check_values
from gateway.errors import NotStored, StoreAway
from router.config import ResponseSettings
from router.errors import InvalidRequest
from router.ledger.store import PREFIX, let_go

if TYPE_CHECKING:
    from redis.asyncio import Redis

KEEP_TIMEOUT_S = 0.25  # an answer waits for it
READ_TIMEOUT_S = 1.0
MAX_CHAIN = 500
#: Of one shape, so that no id can reach into the keys of a caller whose name begins as another's.
_ID = re.compile(r"resp_[0-9a-f]{48}")
#: An item's id names its response and its place there: see `Asked.item` in `gateway.responses_answer`.
_ITEM = re.compile(r"([a-z]+)_([0-9a-f]{48})_([0-9]{1,5})")

log = logging.getLogger("pointsman")


@dataclass(frozen=True, slots=True)
class Conversation:
    """What came before a request: the ids of its responses, oldest first, and their items."""

    chain: tuple[str, ...] = ()
    items: tuple[dict[str, Any], ...] = ()
    size: int = 0


class ResponseStore:
    """`connect` makes a client of the ledger's Redis; `away`: the ledger knows that it does not answer."""

    def __init__(
        self, settings: ResponseSettings, connect: Callable[[], "Redis"], away: Callable[[], bool], most_bytes: int
    ) -> None:
        """`most_bytes`: of a conversation that is continued."""
        self.enabled = settings.store
        self._settings = settings
        self._connect = connect
        self._away = away
        self._most_bytes = most_bytes
        self._client: Any = None

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await let_go(client)

    async def keep(self, caller: str, name: str, given: bytes, response: bytes, before: Conversation) -> bool:
        """Whether it is stored: not where it is too large or Redis does not take it in time. Raises nothing."""
        size = len(given) + len(response)
        if size > self._settings.item_bytes or self._away():
            return False
        ttl_s = self._settings.ttl_s
        key = _key(caller, name)
        fields = {
            "input": given,
            "response": response,
            "chain": orjson.dumps(before.chain),
            "size": before.size + size,
        }
        try:
            async with self._answering(KEEP_TIMEOUT_S):
                pipeline = self._opened().pipeline(transaction=True)
                pipeline.hset(key, mapping=fields)
                pipeline.expire(key, ttl_s)
                for earlier in before.chain:
                    pipeline.expire(_key(caller, earlier), ttl_s)
                await pipeline.execute()
        except StoreAway as error:
            log.warning("response %s of caller=%s is not stored: %s", name, caller, error)
            return False
        return True

    async def conversation(self, caller: str, name: str) -> Conversation:
        """All that led to a stored response, and itself. Raises `NotStored`, `InvalidRequest`, `StoreAway`."""
        where = "previous_response_id"
        self._need_enabled(where)
        if not _ID.fullmatch(name):
            raise _previous(name)
        async with self._answering(READ_TIMEOUT_S):
            chain, size = await self._read().hmget(_key(caller, name), "chain", "size")
        if chain is None:
            raise _previous(name)
        if int(size) > self._most_bytes:
            raise InvalidRequest(
                f"{where}: the conversation of {int(size)} bytes is larger than the limit of {self._most_bytes}",
                param=where,
            )
        names = (*orjson.loads(chain), name)
        if len(names) > MAX_CHAIN:
            raise InvalidRequest(f"{where}: a conversation has at most {MAX_CHAIN} responses", param=where)
        found = await self._turns(caller, names)
        check_values(*(part for turn in found for part in turn if part is not None))
        items: list[dict[str, Any]] = []
        for one, (given, response) in zip(names, found, strict=True):
            if given is None or response is None:
                raise _previous(one)
            items += orjson.loads(given)
            items += orjson.loads(response)["output"]
        return Conversation(names, tuple(items), int(size))

    async def items(self, caller: str, references: dict[str, str]) -> dict[str, dict[str, Any]]:
        """Items by their ids; `references` says where each is referred to. Raises as `conversation` does."""
        self._need_enabled("input")
        places = {name: match for name in references if (match := _ITEM.fullmatch(name)) is not None}
        names = list(dict.fromkeys(f"resp_{match[2]}" for match in places.values()))
        if len(names) > MAX_CHAIN:
            raise InvalidRequest(f"input: items of at most {MAX_CHAIN} responses can be referred to", param="input")
        async with self._answering(READ_TIMEOUT_S):
            pipeline = self._read().pipeline(transaction=False)
            for one in names:
                pipeline.hstrlen(_key(caller, one), "input")
                pipeline.hstrlen(_key(caller, one), "response")
            if names and sum(await pipeline.execute()) > self._most_bytes:
                raise InvalidRequest(
                    f"input: the responses referred to are larger than the limit of {self._most_bytes} bytes",
                    param="input",
                )
        stored = await self._turns(caller, names)
        check_values(*(part for turn in stored for part in turn if part is not None))
        turns = {
            one: (orjson.loads(given), orjson.loads(response)["output"])
            for one, (given, response) in zip(names, stored, strict=True)
            if given is not None and response is not None
        }
        found: dict[str, dict[str, Any]] = {}
        for name, where in references.items():
            kind, tail, index = places[name].groups() if name in places else ("", "", "0")
            own = turns.get(f"resp_{tail}", ((), ()))[kind != "in"]
            if int(index) >= len(own) or own[int(index)]["id"] != name:
                raise NotStored(f"{where}: no item {name[:100]!r} is stored", param=where, code="item_not_found")
            found[name] = own[int(index)]
        return found

    async def _turns(self, caller: str, names: Sequence[str]) -> list[Any]:
        """(input, response) of each, both None where it is missing."""
        async with self._answering(READ_TIMEOUT_S):
            pipeline = self._read().pipeline(transaction=False)
            for one in names:
                pipeline.hmget(_key(caller, one), "input", "response")
            found: list[Any] = await pipeline.execute()
        return found

    async def response(self, caller: str, name: str) -> bytes:
        """Raises `NotStored` or `StoreAway`, as do the others below."""
        return await self._field(caller, name, "response")

    async def input(self, caller: str, name: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = orjson.loads(await self._field(caller, name, "input"))
        return items

    async def delete(self, caller: str, name: str) -> None:
        self._need_named(name)
        async with self._answering(READ_TIMEOUT_S):
            gone = await self._read().delete(_key(caller, name))
        if not gone:
            raise _missing(name)

    async def _field(self, caller: str, name: str, which: str) -> bytes:
        self._need_named(name)
        async with self._answering(READ_TIMEOUT_S):
            found: bytes | None = await self._read().hget(_key(caller, name), which)
        if found is None:
            raise _missing(name)
        return found

    def _need_named(self, name: str) -> None:
        self._need_enabled(None)
        if not _ID.fullmatch(name):
            raise _missing(name)

    def _need_enabled(self, param: str | None) -> None:
        if not self.enabled:
            raise NotStored("this gateway stores no responses (responses.store is false)", param=param)

    def _read(self) -> Any:
        if self._away():
            raise StoreAway("stored responses cannot be reached now; try again later")
        return self._opened()

    def _opened(self) -> Any:
        if self._client is None:
            self._client = self._connect()
        return self._client

    @asynccontextmanager
    async def _answering(self, timeout_s: float) -> AsyncIterator[None]:
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(timeout_s):
                yield
        except (RedisError, OSError) as error:  # of which a timeout is one
            # its text may name what was sent
            log.warning("stored responses: Redis fails with %s", type(error).__name__)
            raise StoreAway("stored responses cannot be reached now; try again later") from error


def _key(caller: str, name: str) -> str:
    return f"{PREFIX}response:{caller}:{name}"


def _missing(name: str) -> NotStored:
    return NotStored(f"no response {name[:100]!r} is stored", code="response_not_found")


def _previous(name: str) -> NotStored:
    return NotStored(
        f"previous_response_id: no response {name[:100]!r} is stored",
        param="previous_response_id",
        code="previous_response_not_found",
    )
