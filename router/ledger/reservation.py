"""What one request takes under its caps before its call, until it is settled."""

from dataclasses import dataclass

from router.ledger.caps import Cap


@dataclass(slots=True)
class Reservation:
    """`amounts[i]` under `caps[i]`: requests, tokens, calls at once or nano-dollars."""

    id: str
    caller: str
    expert: str
    caps: tuple[Cap, ...]
    amounts: tuple[int, ...]
    used: tuple[int, ...] = ()  # under each cap by all, with this request once it is admitted
    held: bool = False  # it counts in this replica's share
    asked: bool = False  # Redis may know of it
    slot: int | None = None  # where it is kept, should this process be killed


def amounts_of(caps: tuple[Cap, ...], tokens: int, cost_nano: int) -> tuple[int, ...]:
    taken = {"requests": 1, "concurrency": 1, "tokens": tokens, "usd": cost_nano}
    return tuple(taken[cap.what] for cap in caps)
