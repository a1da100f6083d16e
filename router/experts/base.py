"""The contract of an expert: take a request, answer or stream, report usage, say what it can and costs."""

import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from router.types import ExpertSpec, Usage


@dataclass(slots=True)
class Call:
    """One request to one expert. `body` is the caller's, parsed, without `routing`; experts never change it."""

    surface: str  # "chat/completions", "embeddings": the path under /v1
    body: dict[str, Any]
    deadline: float  # of all attempts together, on the event loop's clock
    request_id: str
    input_tokens: int = 0  # our estimate, for usage that the expert does not report
    include_usage: bool = False  # the caller asked for usage in the stream
    moves_on_refusal: bool = False  # the caller allows another expert where one's content filter refused
    admits: Callable[[str], Awaitable[bool]] | None = None  # whether limits let one beside the first be asked
    first_byte_by: float = math.inf  # when this attempt's time is up; the pool writes it before each
    # who is being asked and since when: what a caller who leaves has to pay for; the pool writes it
    under_way: list[tuple[str, float]] = field(default_factory=list)


@dataclass(slots=True)
class Answer:
    """A whole answer. `body` is JSON whose `model` is the expert's name; all other fields are the upstream's."""

    body: bytes
    usage: Usage
    ttft_s: float
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)  # the upstream's that callers read


class Stream(ABC):
    """A streaming answer whose first content has arrived: from here on no other expert is asked.

    Iterating yields whole server-sent events (one or several per item, each ending in a blank line), the last
    of them `data: [DONE]`. Usage chunks are stripped unless the caller asked. A failure on the way raises
    `ExpertError`. `usage` grows as events pass and is final after the iteration; after an early `aclose` it is
    an estimate of what was produced so far.
    """

    ttft_s: float
    headers: Sequence[tuple[bytes, bytes]] = ()  # the upstream's that callers read: its rate limits

    @property
    @abstractmethod
    def usage(self) -> Usage: ...

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[bytes]: ...

    @abstractmethod
    async def aclose(self) -> None:
        """Cancels the upstream call; idempotent."""


class Expert(ABC):
    """One model of the pool, or one of its addresses. Building one opens nothing; `open` does."""

    spec: ExpertSpec
    place: str = ""  # what tells it from the other addresses of the same model
    address: Hashable = ()  # how it is reached: an expert of another configuration with the same one is the same
    zone: str | None = None
    weight: float = 1.0  # its share of the calls beside the other addresses
    health_check_s: float | None = None  # how often to look at it unasked; None: only while it rests

    async def open(self) -> None:
        """Makes ready: clients, tables. Called once, inside the event loop."""

    async def close(self) -> None:
        """Lets go of everything `open` took."""

    @abstractmethod
    async def complete(self, call: Call) -> Answer:
        """The whole answer. Raises `ExpertError`."""

    @abstractmethod
    async def stream(self, call: Call) -> Stream:
        """Starts a stream and waits for its first content; a role alone is none.

        Raises `ExpertError` until then.
        """

    @abstractmethod
    async def probe(self) -> str:
        """Checks that the expert is reachable and the key accepted, at no cost where the provider bills.

        Returns one line of what was found; raises `ExpertError` with what to do.
        """
