"""Admission: whether a request may go on under every rate limit and budget, decided for all replicas in Redis.

One connection (`router.ledger.pipe`) carries all in the order in which it came, so that a caller's next request
finds the place that its last one left. A request waits `wait_ms` for the answer; after that, and as long as Redis
stays silent, the replica goes by its own share of each cap (`router.ledger.share`). What a call came to is settled
behind the answer, each exactly once however often it is sent, for the script knows the reservation; what Redis
cannot take waits in `router.ledger.settlements`.

A reservation that is open when its replica is killed is settled by the next one with what was expected; until then,
or without a spool, it stands. Its place among the requests at once is free again after `LEASE_MS`.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hiredis

from router.ending import end
from router.errors import OverLimit
from router.ledger.caps import LEASE_MS, REPLICAS_KEY, Cap, Caps, reservation_key
from router.ledger.caps_script import HEARTBEAT_SHA, RESERVE_SHA, SCRIPTS, is_reply
from router.ledger.pipe import Pipe
from router.ledger.refusal import refusal
from router.ledger.reservation import Reservation, amounts_of
from router.ledger.settlements import OPEN_LIFE_S, Settlement, Settlements, check_refusal, script_call
from router.ledger.share import Shares
from router.ledger.spares import LIFE_S, Spares
from router.ledger.store import let_go

if TYPE_CHECKING:
    from redis.asyncio import Redis

HEARTBEAT_S = 1.0
REPLICA_LIFE_MS = 5_000
RETRY_S = 0.1
UNDER_WAY, UNDER_WAY_S = -2, 0.5  # the script's word for it, and when to try again
CLOSE_TIMEOUT_S = 2.0
REPLAYED_AT_ONCE = 256
#: A timer that fires on a loop that was held up may come before an answer that is there is read.
LATE_TURNS = 3

#: The caller of what is reserved beside another reservation, for which no spares are made.
NOBODY = ""

log = logging.getLogger(__name__)


class Admission:
    """All methods belong to one event loop. `connect` makes a client of the ledger's Redis, `spool` is a folder."""

    def __init__(
        self, caps: Caps, connect: Callable[[], "Redis"], wait_s: float, spool: Path | None = None
    ) -> None:
        self.caps = caps
        self._connect = connect
        self._wait_s = wait_s
        self._replica = uuid.uuid4().hex
        self._client: Redis | None = None
        self._pipe: Pipe | None = None  # None: Redis is away
        self.shares = Shares()
        self._spares = Spares(self._replica)
        self._open: dict[str, Reservation] = {}
        self._owed = Settlements(spool, self._replica)
        self._tried = asyncio.Event()
        self._settled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.degraded = False

    @property
    def owed(self) -> int:
        """Settlements that Redis is not known to have."""
        return len(self._owed)

    @property
    def dropped(self) -> int:
        """Settlements that found no room."""
        return self._owed.dropped

    async def open(self) -> None:
        """Connects and loads the scripts; where Redis does not answer, it goes on without, degraded."""
        self._client = self._connect()
        self._task = asyncio.create_task(self._stay_connected(), name="admission")
        await self._tried.wait()

    async def close(self) -> None:
        """Settles what is owed, waiting two seconds at most."""
        for spare in self._spares.all():
            self._drop(spare)
        if self._owed:
            self._settled.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self._settled.wait()
        if self._task is not None:
            await end({self._task})
        if self._owed:
            log.warning("limits: closed with %d calls that are not settled", len(self._owed))
        self._owed.close()
        if self._client is not None:
            await let_go(self._client)

    def reservation(self, name: str, caller: str, expert: str, tokens: int, cost_nano: int) -> Reservation:
        """What a call is expected to take; `name` is the decision's id. Nothing is reserved yet."""
        caps = self.caps.of(caller, expert)
        return Reservation(name, caller, expert, caps, amounts_of(caps, tokens, cost_nano))

    def beside(self, first: Reservation, name: str, expert: str, tokens: int, cost_nano: int) -> Reservation:
        """What asking another expert takes beside what `first` holds: all of it under that expert's own caps, under
        the caller's the tokens and dollars that it is expected to take more. It is settled with what is its own.
        """
        wanted = zip(first.caps, amounts_of(first.caps, tokens, cost_nano), first.amounts, strict=True)
        more = [(cap, amount - had) for cap, amount, had in wanted if cap.expert is None and amount > had]
        own = self.caps.of_expert(expert)
        caps = (*(cap for cap, _ in more), *own)
        amounts = (*(n for _, n in more), *amounts_of(own, tokens, cost_nano))
        return Reservation(name, NOBODY, expert, caps, amounts)

    async def admit(self, reservation: Reservation) -> None:
        """Reserves under all caps, or raises `OverLimit` and reserves nothing. Then it is to be settled."""
        if not reservation.caps:
            return
        if (spare := self._spares.take(reservation)) is not None:
            reservation.id, reservation.asked, reservation.slot = spare.id, True, spare.slot
            reservation.used = tuple(map(sum, zip(spare.used, reservation.amounts, strict=True)))
            self._hold(reservation)
            asyncio.get_running_loop().call_soon(self._spare_after, reservation)
            return
        reply = None if self.degraded else await self._ask(reservation)
        if reply is None:
            self._admit_by_share(reservation)
            return
        refused = reply[0] == b"no"
        used = tuple(map(int, reply[3 if refused else 1 :]))
        if refused:
            self._forget(reservation)
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
            left = cap.limit - used[int(reply[1]) - 1]
            raise refusal(reservation, cap, left, wait_ms / 1e3, never=wait_ms < 0)
        reservation.used = tuple(map(sum, zip(used, reservation.amounts, strict=True)))
        self._hold(reservation)
        for cap, now_used in zip(reservation.caps, reservation.used, strict=True):
            self.shares[cap].tell(cap, now_used)
        if reservation.caller != NOBODY:
            asyncio.get_running_loop().call_soon(self._spare_after, reservation)

    def settle(
        self, reservation: Reservation, tokens: int, cost_nano: int, own: tuple[int, int] | None = None
    ) -> None:
        """The call is over and took this much; `own` are the tokens and the cost of the reservation's own expert,
        where others were asked too.

        Costs microseconds and never waits. A reservation that was refused or is settled is left alone.
        """
        if not (reservation.held or reservation.asked):
            return
        caps, amounts = reservation.caps, amounts_of(reservation.caps, tokens, cost_nano)
        if not reservation.held:  # the caller left while Redis was asked: whatever it took is given back
            amounts = (0,) * len(caps)
        elif own is not None:
            of_expert = amounts_of(caps, *own)
            amounts = tuple(e if cap.expert else n for cap, n, e in zip(caps, amounts, of_expert, strict=True))
        if reservation.held:
            self._release(reservation, amounts)
        self._owe(reservation, caps, amounts)

    def _hold(self, reservation: Reservation) -> None:
        reservation.held = True
        self._keep(reservation, reservation.amounts)
        self.shares.take(reservation.caps, reservation.amounts)
        self._open[reservation.id] = reservation

    def _release(self, reservation: Reservation, amounts: tuple[int, ...]) -> None:
        self._open.pop(reservation.id, None)
        now = time.monotonic()
        for cap, was, came in zip(reservation.caps, reservation.amounts, amounts, strict=True):
            share = self.shares[cap]
            if cap.kind == "lease":
                share.active -= 1
            else:
                share.take(cap, came - was, now)

    def _owe(self, reservation: Reservation, caps: tuple[Cap, ...], amounts: tuple[int, ...]) -> None:
        settlement = self._owed.add(reservation.id, caps, amounts)
        self._forget(reservation)
        if settlement is not None and self._pipe is not None:
            self._send(settlement, self._pipe)

    def _keep(self, reservation: Reservation, amounts: tuple[int, ...]) -> None:
        """From now on it is settled with these amounts by the next replica, should this process be killed."""
        self._owed.end(reservation.slot)
        reservation.slot = self._owed.begin(reservation.id, reservation.caps, amounts)

    def _forget(self, reservation: Reservation) -> None:
        self._owed.end(reservation.slot)
        reservation.held, reservation.asked, reservation.slot = False, False, None

    async def _ask(self, reservation: Reservation) -> list[bytes] | None:
        """Redis' answer; None where it does not come in time."""
        if (pipe := self._pipe) is None:
            return None
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[list[bytes] | None] = loop.create_future()
        reservation.asked = True
        self._reserve(reservation, pipe, lambda given: None if reply.done() else reply.set_result(given))
        timer = loop.call_later(self._wait_s, self._late, reply, LATE_TURNS)
        try:
            return await reply
        finally:
            timer.cancel()

    def _reserve(self, reservation: Reservation, pipe: Pipe, then: Callable[[list[bytes] | None], None]) -> None:
        """Asks Redis; `then` gets its answer, None where it is none."""

        def told(answer: Any) -> None:
            given = answer if is_reply(answer, len(reservation.caps)) else None
            if given is None and not isinstance(answer, Exception):
                answer = ValueError("its answer is none to what was asked")
            self._heard(answer, pipe)
            then(given)

        command = script_call(RESERVE_SHA, OPEN_LIFE_S, reservation.id, reservation.caps, reservation.amounts)
        pipe.send(command, told)

    def _spare_after(self, admitted: Reservation) -> None:
        """Asks Redis for what the caller's next request may take, if there is reason to; this one is on its way."""
        if self.degraded or (pipe := self._pipe) is None or (spare := self._spares.next(admitted)) is None:
            return

        def then(given: list[bytes] | None) -> None:
            if given is None:
                self._drop(spare)
            elif given[0] == b"no":
                self._spares.drop(spare)
                self._forget(spare)
            elif self._spares.made(spare):
                spare.used = tuple(map(int, given[1:]))
                for cap, used in zip(spare.caps, spare.used, strict=True):
                    self.shares[cap].tell(cap, used)
                asyncio.get_running_loop().call_later(LIFE_S, self._drop, spare)

        self._keep(spare, (0,) * len(spare.caps))
        self._reserve(spare, pipe, then)

    def _drop(self, spare: Reservation) -> None:
        """Gives it back, if no request has taken it; Redis may not have it."""
        if self._spares.drop(spare):
            self._give_back(spare)

    def _give_back(self, reservation: Reservation) -> None:
        self._owe(reservation, reservation.caps, (0,) * len(reservation.caps))

    def _late(self, reply: "asyncio.Future[list[bytes] | None]", turns: int) -> None:
        if reply.done():
            return
        if turns:
            asyncio.get_running_loop().call_soon(self._late, reply, turns - 1)
        else:
            reply.set_result(None)
            self._down("no answer in time")

    def _admit_by_share(self, reservation: Reservation) -> None:
        cap = self.shares.refuses(reservation.caps, reservation.amounts)
        if cap is not None:
            if reservation.asked:
                self._give_back(reservation)
            raise refusal(reservation, cap, self.shares.left(cap), 1.0, never=False, by_share=True)
        self._hold(reservation)

    async def _stay_connected(self) -> None:
        while True:
            try:
                await self._be_connected()
            except Exception as error:  # whatever it is: requests go on by the share, and it is tried again
                self._down(type(error).__name__)
            self._tried.set()
            await self._owed.sync()
            await asyncio.sleep(RETRY_S)

    async def _be_connected(self) -> None:
        """Returns, or raises whatever is wrong, when the connection is lost or does not answer."""
        lost = asyncio.Event()
        assert self._client is not None
        pipe = await Pipe.open(self._client, lost.set)
        try:
            for script in SCRIPTS.values():
                await pipe.ask("SCRIPT", "LOAD", script)
            await self._beat(pipe)
            while unsent := self._owed.unsent(pipe, REPLAYED_AT_ONCE):
                for settlement in unsent:
                    self._send(settlement, pipe)
                await self._beat(pipe)
            self._pipe = pipe
            self._up()
            self._tried.set()
            await self._adopt(pipe)
            while not lost.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_S):
                        await lost.wait()
                        raise ConnectionError("the connection was lost")
                await self._beat(pipe)
        finally:
            self._pipe = None
            pipe.close()

    async def _beat(self, pipe: Pipe) -> None:
        self.shares.replicas = max(int(await pipe.ask(*self._heartbeat())), 1)

    async def _adopt(self, pipe: Pipe) -> None:
        """Settles what replicas that are gone still owe; what Redis does not take is left for the next time."""
        try:
            for commands in self._owed.orphans():
                for at in range(0, len(commands), REPLAYED_AT_ONCE):
                    some = (pipe.ask(*one) for one in commands[at : at + REPLAYED_AT_ONCE])
                    for answer in await asyncio.gather(*some, return_exceptions=True):
                        if isinstance(answer, BaseException):
                            check_refusal(answer)
                if commands:
                    log.warning("limits: a replica that is gone owed %d calls; they are settled", len(commands))
        except (OSError, hiredis.HiredisError, ValueError) as error:
            log.warning("limits: what a replica that is gone owed is not settled yet: %s", error)

    def _send(self, settlement: Settlement, pipe: Pipe) -> None:
        def told(answer: Any) -> None:
            self._heard(answer, pipe)
            if not isinstance(answer, Exception):
                self._owed.settled(settlement)
                if not self._owed:
                    self._settled.set()

        settlement.pipe = pipe
        pipe.send(settlement.command, told)

    def _heard(self, answer: Any, pipe: Pipe) -> None:
        """An answer to a question or a settlement: an error ends the connection."""
        if isinstance(answer, Exception):
            self._down(str(answer))
            pipe.close()
        elif self.degraded and pipe is self._pipe:
            self._up()

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
            log.warning("limits: Redis answers again; %d settlements were dropped", self._owed.dropped)
        self.degraded = False
