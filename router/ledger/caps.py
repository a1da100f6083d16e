"""Caps: every rate limit and budget of the configuration as one kind of thing, a key with a most.

Keys, under the ledger's hash tag, so that one step over all caps of a request stays in one slot of a cluster.
SCOPE is `gateway`, `key:NAME` (`key:ID` of a virtual key), `team:NAME` or `expert:NAME`:

    pointsman:{ledger}:cap:SCOPE:requests       hash, a sliding minute: slot number -> requests; `sum`, `tail`
    pointsman:{ledger}:cap:SCOPE:tokens         the same for tokens
    pointsman:{ledger}:cap:SCOPE:concurrency    sorted set: reservation -> when its lease ends (ms, server's time)
    pointsman:{ledger}:cap:SCOPE:usd:PERIOD     hash, by day, week or month: `period` (a number), `spent`, `open`
    pointsman:{ledger}:cap:SCOPE:usd:HOURSh     rolling: a sliding window like `requests`, in nano-dollars
    pointsman:{ledger}:held:ID                  of a reservation: per cap `slot:amount` (`-`: a lease), in the caps'
                                                order, then `settled` for an hour
    pointsman:{ledger}:replicas                 sorted set: replica -> when it is taken for gone (ms)

A sliding window is cut into slots and a slot counts until all of it has left the window, so that no window ever
holds more than the limit; a slot is 1/300 of the window, so at most that share of the rate is given away.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from router.config import Settings
from router.config_base import BudgetSettings, RateSettings

PREFIX = "pointsman:{ledger}:"
REPLICAS_KEY = PREFIX + "replicas"
#: A crashed replica's places are free again after so long; a living one renews them every third of it.
LEASE_MS = 30_000
SLOTS = 300
#: Calls under way may come to three times what they were expected to cost before a budget is overshot by them.
MARGIN = 2

What = Literal["requests", "tokens", "concurrency", "usd"]
Kind = Literal["window", "calendar", "lease"]


@dataclass(frozen=True, slots=True)
class Cap:
    """A most of `limit` requests, tokens, calls at once or nano-dollars."""

    key: str
    what: What
    kind: Kind
    limit: int
    owner: str  # as messages call it
    said: str  # the limit in words
    width_ms: int = 0  # of a window's slot, or a lease's life
    period: str = ""  # of a calendar cap
    warn_at: int = 0  # from here on the caller is warned (nano-dollars)
    pace: bool = False  # the price of quality is steered by it
    cheapest: bool = False  # spent: only the cheapest expert that still fits may answer
    expert: str | None = None  # the expert whose cap it is

    def arguments(self, amount: int) -> tuple[str | int, ...]:
        """As the scripts take them."""
        margin = MARGIN if self.what == "usd" else 0
        return self.kind, self.limit, amount, self.width_ms, SLOTS, self.period, margin


def reservation_key(reservation: str) -> str:
    return f"{PREFIX}held:{reservation}"


class Caps:
    """The caps of a configuration and of the virtual keys, by who calls and who is to answer."""

    def __init__(self, settings: Settings) -> None:
        self._virtual: Mapping[str, tuple[Cap, ...]] = {}
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """The caps of a configuration, from now on; what was reserved under others is settled under those."""
        self._gateway = caps_of("gateway", "the gateway", settings.limits, settings.budget)
        self._configured = {
            key.name: caps_of(f"key:{key.name}", f"key {key.name!r}", key.limits, key.budget)
            for key in settings.auth.keys
        }
        self._keys: Mapping[str, tuple[Cap, ...]] = {**self._virtual, **self._configured}
        self._experts = {
            one.name: caps_of(f"expert:{one.name}", f"expert {one.name!r}", one.limits, one.budget, one.name)
            for one in settings.experts
        }

    def any(self) -> bool:
        return bool(self._gateway or any(self._keys.values()) or any(self._experts.values()))

    def learn(self, virtual: Mapping[str, tuple[Cap, ...]]) -> None:
        """The caps of the virtual keys, by name, from now on."""
        self._virtual = virtual
        self._keys = {**virtual, **self._configured}

    def of(self, caller: str, expert: str) -> tuple[Cap, ...]:
        return self.of_caller(caller) + self._experts.get(expert, ())

    def of_caller(self, caller: str) -> tuple[Cap, ...]:
        return self._gateway + self._keys.get(caller, ())

    def of_expert(self, expert: str) -> tuple[Cap, ...]:
        return self._experts.get(expert, ())


def caps_of(
    scope: str,
    owner: str,
    rates: RateSettings,
    budgets: tuple[BudgetSettings, ...],
    expert: str | None = None,
) -> tuple[Cap, ...]:
    """The caps of one scope, in the order in which refusals are told."""
    base = f"{PREFIX}cap:{scope}:"
    found: list[Cap] = []
    width = 60_000 // SLOTS
    if (most := rates.requests_per_minute) is not None:
        said = f"{most} requests per minute"
        found.append(Cap(base + "requests", "requests", "window", most, owner, said, width, expert=expert))
    if (most := rates.tokens_per_minute) is not None:
        said = f"{most} tokens per minute"
        found.append(Cap(base + "tokens", "tokens", "window", most, owner, said, width, expert=expert))
    if (most := rates.concurrency) is not None:
        said = f"{most} requests at once"
        found.append(Cap(base + "concurrency", "concurrency", "lease", most, owner, said, LEASE_MS, expert=expert))
    for budget in budgets:
        hours = budget.rolling_hours
        limit = round(budget.usd * 1e9)
        found.append(
            Cap(
                key=f"{base}usd:{budget.per or f'{hours}h'}",
                what="usd",
                kind="calendar" if budget.per else "window",
                limit=limit,
                owner=owner,
                said=f"${budget.usd:g} per {budget.per or f'{hours} hours'}",
                width_ms=0 if hours is None else hours * 3_600_000 // SLOTS,
                period=budget.per or "",
                warn_at=round(limit * budget.warn_at),
                pace=budget.pace and expert is None,  # an expert's own budget says nothing of the choice of others
                cheapest=budget.on_exhausted == "cheapest",
                expert=expert,
            )
        )
    return tuple(found)
