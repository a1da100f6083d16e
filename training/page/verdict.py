"""What a report comes to, in one sentence."""

from collections.abc import Sequence
from typing import Literal

from training.report import Report

Outcome = Literal["beats", "open", "below"]
SAID: dict[Outcome, str] = {
    "beats": "beats the static mix",
    "open": "does not provably beat the static mix",
    "below": "is below the static mix",
}
MEANING: dict[Outcome, str] = {
    "beats": "Looking at the query pays",
    "open": "A fixed choice of models may do as well",
    "below": "A fixed choice of models does better",
}


def outcome(report: Report) -> Outcome:
    """Whether the interval of the gain over the static mix lies above zero, around it or below it."""
    if report.gain.low > 0:
        return "beats"
    return "below" if report.gain.high < 0 else "open"


def verdict(policy: str, reports: Sequence[Report]) -> str:
    """On one data set; on several: on how many, and where not."""
    if len(reports) == 1:
        return f"The policy {policy} {SAID[outcome(reports[0])]} on {reports[0].dataset}."
    won = sum(outcome(report) == "beats" for report in reports)
    if won == len(reports):
        return f"The policy {policy} beats the static mix on all {len(reports)} data sets."
    unsure, below = (
        ", ".join(report.dataset for report in reports if outcome(report) == how) for how in ("open", "below")
    )
    said = f"The policy {policy} beats the static mix on {won} of {len(reports)} data sets"
    said += f"; not provably on {unsure}" if unsure else ""
    return said + (f"; it is below it on {below}." if below else ".")
