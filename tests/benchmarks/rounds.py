"""Alternating rounds: what is compared runs in turn in one go, so that a slow minute hits all alike."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TypeVar

from report import Figure, judged

Result = TypeVar("Result")


def alternate(rounds: int, contenders: Mapping[str, Callable[[int], Result]]) -> dict[str, list[Result]]:
    """Runs every contender once a round (given the round's number), in reversed order in odd rounds."""
    results: dict[str, list[Result]] = {name: [] for name in contenders}
    for number in range(rounds):
        names = list(contenders) if number % 2 == 0 else list(contenders)[::-1]
        for name in names:
            results[name].append(contenders[name](number))
    return results


def over_rounds(name: str, values: Sequence[float], unit: str, goal: str | None = None) -> Figure:
    """The median of the rounds, between the lowest and the highest."""
    if not values:
        return Figure(name, None, unit=unit, goal=goal)
    return judged(Figure(name, median(values), min(values), max(values), unit, goal))


def ratio_of(name: str, ours: Sequence[float], theirs: Sequence[float], goal: str | None = None) -> Figure:
    """The median over rounds of ours / theirs in the same round."""
    return over_rounds(name, [a / b for a, b in zip(ours, theirs, strict=False)], "x", goal)


def difference_of(
    name: str, ours: Sequence[float], theirs: Sequence[float], unit: str, goal: str | None = None
) -> Figure:
    """The median over rounds of ours - theirs in the same round."""
    return over_rounds(name, [a - b for a, b in zip(ours, theirs, strict=False)], unit, goal)
