"""Admission: whether a request may go on under every rate limit and budget, decided for all replicas in Redis.

One task owns one connection. What is asked while it talks gathers, and goes out as one pipeline: settlements first,
in the order in which they came, so that a caller's next request finds the place that its last one left. A request
waits `wait_ms` for the answer; after that, and as long as Redis stays silent, the replica goes by its own share of
each cap (`router.ledger.share`). What a call came to is settled behind the answer, each exactly once however often
it is sent, for the script knows the reservation. A settlement that Redis cannot take waits in memory.

A reservation that is never settled, since its replica died, stands: its expected cost counts. Its place among the
requests at once is free again after `LEASE_MS`.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from router.errors import OverLimit
from router.ledger.caps import LEASE_MS, REPLICAS_KEY, Cap, Caps, reservation_key
from router.ledger.caps_script import HEARTBEAT_SHA, RESERVE_SHA, SCRIPTS, SETTLE_SHA
from router.ledger.share import Shares
from router.ledger.store import let_go

if TYPE_CHECKING:
    from redis.asyncio import Redis

OPEN_LIFE_S = 86_400
#: A settlement that is sent again within it counts once.
SETTLED_LIFE_S = 3_600
HEARTBEAT_S = 1.0
REPLICA_LIFE_MS = 5_000
RETRY_S = 0.1
UNDER_WAY, UNDER_WAY_S = -2, 0.5  # the script's word for it, and when to try again
CLOSE_TIMEOUT_S = 2.0
PIPELINE_MOST = 256
#: Settlements kept while Redis is away; the oldest are dropped beyond it, and the log says so.
OWED_MOST = 100_000

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Reservation:
    """What one request takes under its caps: `amounts[i]` under `caps[i]`. `used` is with this request."""

    id: str
    caps: tuple[Cap, ...]
    amounts: tuple[int, ...]
    expert: str
    used: tuple[int, ...] = ()
    held: bool = False  # it counts in this replica's share
    asked: bool = False  # Redis may know of it


@dataclass(slots=True)
class _Question:
    reservation: Reservation
    reply: asyncio.Future[list[bytes]]


@dataclass(slots=True)
class _Settlement:
    id: str
    caps: tuple[Cap, ...]
    amounts: tuple[int, ...]


@dataclass(slots=True)
class _Sent:
    """One pipeline's load."""

    settlements: list[_Settlement] = field(default_factory=list)
    questions: list[_Question] = field(default_factory=list)


class Admission:
    """All methods belong to one event loop. `connect` makes a client of the ledger's Redis."""

    def __init__(self, caps: Caps, connect: Callable[[], "Redis"], wait_s: float) -> None:
        self.caps = caps
        self._connect = connect
        self._wait_s = wait_s
        self._replica = uuid.uuid4().hex
        self._client: Any = None
        self.shares = Shares()
        self._open: dict[str, Reservation] = {}
        self._questions: list[_Question] = []
        self._owed: dict[str, _Settlement] = {}
        self._wake = asyncio.Event()
        self._tried = asyncio.Event()
        self._beat_at = float("-inf")
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._dropped = 0
        self.degraded = False

    @property
    def owed(self) -> int:
        """Settlements that Redis is not known to have."""
        return len(self._owed)

    async def open(self) -> None:
        """Connects and loads the scripts; where Redis does not answer, it goes on without, degraded."""
        self._client = self._connect()
        self._task = asyncio.create_task(self._talk(), name="admission")
        await self._tried.wait()

    async def close(self) -> None:
        """Settles what is owed, waiting two seconds at most."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=CLOSE_TIMEOUT_S)
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._owed:
            log.warning("limits: closed with %d calls that were never settled", len(self._owed))
        if self._client is not None:
            await let_go(self._client)

    def reservation(self, name: str, caller: str, expert: str, tokens: int, cost_nano: int) -> Reservation:
        """What a call is expected to take; `name` is the decision's id. Nothing is reserved yet."""
        caps = self.caps.of(caller, expert)
        return Reservation(name, caps, _amounts(caps, tokens, cost_nano), expert)

    async def admit(self, reservation: Reservation) -> None:
        """Reserves under all caps, or raises `OverLimit` and reserves nothing. Then it is to be settled."""
        if not reservation.caps:
            return
        reply = None if self.degraded else await self._ask(reservation)
        if reply is None:
            self._admit_by_share(reservation)
            return
        refused = reply[0] == b"no"
        used = tuple(map(int, reply[3 if refused else 1 :]))
        if refused:
            reservation.asked = False
            reservation.used = used
            wait_ms = int(reply[2])
            cap = reservation.caps[int(reply[1]) - 1]
            if wait_ms == UNDER_WAY:
                raise OverLimit(
                    f"what is left of {cap.owner}'s budget of {cap.said} is kept for calls under way; try again",
                    budget=False,
                    retry_after_s=UNDER_WAY_S,
                    expert=cap.expert,
                )
            raise self._refusal(reservation, cap, wait_ms / 1e3, never=wait_ms < 0)
        reservation.used = tuple(map(sum, zip(used, reservation.amounts, strict=True)))
        self._hold(reservation)
        for cap, now_used in zip(reservation.caps, reservation.used, strict=True):
            self.shares[cap].tell(cap, now_used)

    def settle(self, reservation: Reservation, tokens: int, cost_nano: int, expert: str | None = None) -> None:
        """The call is over and took this much; `expert` is who answered, if not the one it was reserved for.

        Costs microseconds and never waits. A reservation that was refused or is settled is left alone.
        """
        if not (reservation.held or reservation.asked):
            return
        caps, amounts = reservation.caps, _amounts(reservation.caps, tokens, cost_nano)
        if not reservation.held:  # the caller left while Redis was asked: whatever it took is given back
            amounts = (0,) * len(caps)
        elif expert is not None and expert != reservation.expert:
            kept = [0 if cap.expert and cap.what != "requests" else n for cap, n in zip(caps, amounts, strict=True)]
            others = tuple(cap for cap in self.caps.of_expert(expert) if cap.kind != "lease")
            caps, amounts = caps + others, (*kept, *_amounts(others, tokens, cost_nano))
        if reservation.held:
            self._release(reservation, caps, amounts)
        reservation.held = reservation.asked = False
        self._owe(_Settlement(reservation.id, caps, amounts))

    def _hold(self, reservation: Reservation) -> None:
        reservation.held = True
        self.shares.take(reservation.caps, reservation.amounts)
        self._open[reservation.id] = reservation

    def _release(self, reservation: Reservation, caps: tuple[Cap, ...], amounts: tuple[int, ...]) -> None:
        self._open.pop(reservation.id, None)
        expected = (*reservation.amounts, *(0 for _ in caps[len(reservation.caps) :]))
        now = time.monotonic()
        for cap, was, came in zip(caps, expected, amounts, strict=True):
            share = self.shares[cap]
            if cap.kind == "lease":
                share.active -= 1
            else:
                share.take(cap, came - was, now)

    def _owe(self, settlement: _Settlement) -> None:
        self._owed[settlement.id] = settlement
        if len(self._owed) > OWED_MOST:
            del self._owed[next(iter(self._owed))]
            self._dropped += 1
        self._wake.set()

    async def _ask(self, reservation: Reservation) -> list[bytes] | None:
        """Redis' answer; None where it does not come in time."""
        question = _Question(reservation, asyncio.get_running_loop().create_future())
        reservation.asked = True
        self._questions.append(question)
        self._wake.set()
        await asyncio.wait({question.reply}, timeout=self._wait_s)
        for _ in range(3):  # on a loop that was held up the timer may fire before an answer that is there is read
            if not question.reply.done():
                await asyncio.sleep(0)
        if question.reply.done():
            return None if question.reply.cancelled() else question.reply.result()
        question.reply.cancel()
        self._down("no answer in time")
        return None

    def _admit_by_share(self, reservation: Reservation) -> None:
        cap = self.shares.refuses(reservation.caps, reservation.amounts)
        if cap is not None:
            if reservation.asked:
                self._owe(_Settlement(reservation.id, reservation.caps, (0,) * len(reservation.caps)))
                reservation.asked = False
            raise self._refusal(reservation, cap, 1.0, never=False)
        self._hold(reservation)

    @staticmethod
    def _refusal(reservation: Reservation, cap: Cap, wait_s: float, *, never: bool) -> OverLimit:
        if cap.what == "usd":
            message = f"{cap.owner} has spent its budget of {cap.said}"
        elif never:
            amount = reservation.amounts[reservation.caps.index(cap)]
            message = f"the request is expected to take {amount} {cap.what}, {cap.owner} is limited to {cap.said}"
        else:
            message = f"{cap.owner} is at its limit of {cap.said}; try again in {max(wait_s, 0.001):.3g} s"
        return OverLimit(
            message,
            budget=cap.what == "usd",
            retry_after_s=None if never else wait_s,
            expert=cap.expert,
            cheapest=cap.cheapest,
        )

    async def _talk(self) -> None:
        while not (self._closing and not self._owed):
            await self._until_due()
            sent = _Sent()
            sent.questions, self._questions = self._questions[:PIPELINE_MOST], self._questions[PIPELINE_MOST:]
            sent.settlements = list(self._owed.values())[:PIPELINE_MOST] if self._owed else []
            try:
                await self._send(sent)
            except Exception as error:  # whatever it is: requests go on by the share, and it is tried again
                self._down(type(error).__name__)
                for question in (*sent.questions, *self._questions):
                    question.reply.cancel()
                self._questions = []
                self._tried.set()
                await asyncio.sleep(RETRY_S)
            else:
                self._up()
            finally:
                self._tried.set()

    async def _until_due(self) -> None:
        loop = asyncio.get_running_loop()
        if not (self._questions or self._owed or self._closing or loop.time() >= self._beat_at + HEARTBEAT_S):
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._beat_at + HEARTBEAT_S):
                    await self._wake.wait()

    async def _send(self, sent: _Sent) -> None:
        """One pipeline: settlements, questions, and the heartbeat when it is due. Raises redis-py's errors."""
        commands: list[tuple[Any, ...]] = [
            _command(SETTLE_SHA, SETTLED_LIFE_S, one.id, one.caps, one.amounts) for one in sent.settlements
        ]
        questions = [question for question in sent.questions if not question.reply.done()]
        for question in questions:
            one = question.reservation
            commands.append(_command(RESERVE_SHA, OPEN_LIFE_S, one.id, one.caps, one.amounts))
        now = asyncio.get_running_loop().time()
        beating = now >= self._beat_at + HEARTBEAT_S
        if beating:
            commands.append(self._heartbeat())
        if not commands:
            return
        replies = await self._run(commands)
        for settlement, reply in zip(sent.settlements, replies, strict=False):
            if not isinstance(reply, Exception) and self._owed.get(settlement.id) is settlement:
                del self._owed[settlement.id]
        for question, reply in zip(questions, replies[len(sent.settlements) :], strict=False):
            if isinstance(reply, list) and not question.reply.done():
                question.reply.set_result(reply)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        if beating:
            self._beat_at = now
            self.shares.replicas = max(int(replies[-1]), 1)

    async def _run(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        from redis.exceptions import NoScriptError

        replies = await self._pipeline(commands)
        missing = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missing:  # a Redis that is new, or was started again; all of them failed together
            await self._pipeline([("SCRIPT LOAD", script) for script in SCRIPTS.values()])
            for i, reply in zip(missing, await self._pipeline([commands[i] for i in missing]), strict=True):
                replies[i] = reply
        return replies

    async def _pipeline(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        async with self._client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
            return replies

    def _heartbeat(self) -> tuple[Any, ...]:
        leases = [
            (cap.key, reservation.id)
            for reservation in self._open.values()
            for cap in reservation.caps
            if cap.kind == "lease"
        ]
        keys = [REPLICAS_KEY, *(key for cap, name in leases for key in (cap, reservation_key(name)))]
        arguments = (self._replica, REPLICA_LIFE_MS, LEASE_MS, *(name for _, name in leases))
        return ("EVALSHA", HEARTBEAT_SHA, len(keys), *keys, *arguments)

    def _down(self, why: str) -> None:
        if not self.degraded:
            log.warning("limits: Redis does not answer (%s); this replica goes by its own share", why)
        self.degraded = True

    def _up(self) -> None:
        if self.degraded:
            log.warning("limits: Redis answers again; %d settlements were dropped", self._dropped)
        self.degraded = False


def _amounts(caps: tuple[Cap, ...], tokens: int, cost_nano: int) -> tuple[int, ...]:
    taken = {"requests": 1, "concurrency": 1, "tokens": tokens, "usd": cost_nano}
    return tuple(taken[cap.what] for cap in caps)


def _command(
    script: str, life_s: int, name: str, caps: tuple[Cap, ...], amounts: tuple[int, ...]
) -> tuple[Any, ...]:
    rows = [value for cap, amount in zip(caps, amounts, strict=True) for value in cap.arguments(amount)]
    keys = [reservation_key(name), *(cap.key for cap in caps)]
    return ("EVALSHA", script, len(keys), *keys, life_s, name, *rows)
