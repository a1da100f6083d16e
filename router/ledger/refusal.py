"""What a caller is told whose request finds no room under a cap."""

from router.errors import OverLimit
from router.ledger.caps import Cap
from router.ledger.reservation import Reservation


def refusal(
    reservation: Reservation, cap: Cap, left: int, wait_s: float, *, never: bool, by_share: bool = False
) -> OverLimit:
    """`left` of the cap, in its own unit; `by_share`: of this replica's share of it, since Redis is silent."""
    amount = reservation.amounts[reservation.caps.index(cap)]
    if cap.what == "usd":
        message = _over_budget(cap, left, amount, "of this gateway's share of " if by_share else "of ")
    elif never:
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


def _over_budget(cap: Cap, left_nano: int, cost_nano: int, of: str) -> str:
    """What calls under way are expected to cost is not left."""
    expected = f"the call is expected to cost {_usd(cost_nano)}"
    if left_nano <= 0:
        return f"{cap.owner} has spent its budget of {cap.said}: $0 is left, and {expected}"
    return f"{cap.owner} has {_usd(left_nano)} left {of}its budget of {cap.said}, and {expected}"


def _usd(nano: int) -> str:
    """Exact: $0.000104."""
    return "$" + f"{nano // 10**9}.{nano % 10**9:09d}".rstrip("0").rstrip(".")
