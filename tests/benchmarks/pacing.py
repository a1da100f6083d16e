"""Budget pacing over a day of recorded traffic: where the spend lands, and what it costs against hindsight.

Queries of a table's held-out prompts arrive over a day, few at night and many at noon, drawn with repetition; the
policy is trained on `train`. A request costs what its answer was recorded to cost. The best fixed price of quality
in hindsight is the lowest at which the day's spend stays within the budget: the regret is the quality that it
reaches above pacing. Beside it stands a plain cap: the best expected quality until the money is gone, the cheapest
expert from then on. On its first day a pacer knows nothing of the hours to come.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from report import Figure, judged, report
from tables import embedded_tables

from router.objective import utility
from router.pacing import Pacer, Tariff
from router.types import Floats, Outcomes
from training.data import Table, experts_of, rows_of
from training.evaluate import comparable
from training.fit import build

DAY_S = 86_400.0
REQUESTS = 20_000
BUDGETS = (0.1, 0.3, 0.6)  # of the way from the cheapest single expert's day to the best one's
RUNS, DAYS = 10, 3
Choices = NDArray[np.intp]


@dataclass(frozen=True)
class Drawn:
    """One day: when requests come [n], and of each what is said, reckoned with, paid and reached, [n, K]."""

    at: Floats
    said: Floats
    cost: Floats
    paid: Floats
    came: Floats

    def outcome(self, chosen: Choices) -> tuple[float, float]:
        """The day's spend and mean quality."""
        every = np.arange(len(chosen))
        return float(self.paid[every, chosen].sum()), float(self.came[every, chosen].mean())


def arrivals(rng: np.random.Generator) -> Floats:
    """Sorted seconds of the day: nine times as many at noon as at midnight."""
    grid = np.linspace(0.0, DAY_S, 2_881)
    density = 1.0 - 0.8 * np.cos(2 * np.pi * grid / DAY_S)
    reach = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return np.interp(np.sort(rng.random(REQUESTS)), reach / reach[-1], grid)


def paced(pacer: Pacer, day: int, drawn: Drawn, budget: float) -> Choices:
    """The expert that each request gets, [n], as the gateway would choose."""
    quality, cost, paid = drawn.said, drawn.cost, drawn.paid
    left, chosen = budget, np.empty(len(drawn.at), dtype=np.intp)
    for i, now in enumerate(drawn.at.tolist()):
        pacer.arrived(left, DAY_S - now, day * DAY_S + now)
        k = utility(quality[i], cost[i], pacer.price).argmax()
        if left < cost[i, k]:
            k = cost[i].argmin()
        chosen[i] = k
        left -= paid[i, k]
        pacer.spent(paid[i, k])
    return chosen


def hindsight(drawn: Drawn, budget: float) -> Choices:
    """The choices at the lowest fixed price at which the day stays within the budget."""
    low, high = 1e-6, 1e12
    for _ in range(70):
        middle = float(np.sqrt(low * high))
        spent, _ = drawn.outcome(utility(drawn.said, drawn.cost, middle).argmax(axis=1))
        low, high = (low, middle) if spent <= budget else (middle, high)
    return utility(drawn.said, drawn.cost, high).argmax(axis=1)


def capped(drawn: Drawn, budget: float) -> Choices:
    first, last = drawn.said.argmax(axis=1), drawn.cost.argmin(axis=1)
    gone = np.cumsum(drawn.paid[np.arange(len(first)), first]) > budget
    return np.where(gone, last, first)


def measure(dataset: str, table: Table) -> Iterator[Figure]:
    train, held_out = table.split("train").outcomes, table.split("val").outcomes
    rows, kept, _ = comparable(held_out)
    outcomes: Outcomes = experts_of(rows_of(held_out, rows), kept.tolist())
    known = experts_of(train, kept.tolist())
    policy = build("linear", {}, 0).fit(known)
    cost, best = np.nanmean(known.cost_usd, axis=0), int(np.nanmean(known.quality, axis=0).argmax())
    said = policy.predict(outcomes.queries).quality
    on_train = policy.predict(known.queries).quality
    tariff = Tariff.of(on_train, np.broadcast_to(cost, on_train.shape))
    assert tariff is not None
    for share in BUDGETS:
        found: dict[int, list[tuple[float, float, float, float]]] = {day: [] for day in range(DAYS)}
        for run in range(RUNS):
            rng, pacer = np.random.default_rng((7, run)), Pacer(tariff, 0.0)
            for day in range(DAYS):
                picked = rng.integers(len(outcomes), size=REQUESTS)
                paid = outcomes.cost_usd[picked]
                drawn = Drawn(
                    at=arrivals(rng),
                    said=said[picked],
                    cost=np.broadcast_to(cost, paid.shape),
                    paid=paid,
                    came=outcomes.quality[picked],
                )
                cheapest, dearest = float(paid[:, cost.argmin()].sum()), float(paid[:, best].sum())
                budget = cheapest + share * (dearest - cheapest)
                spent, ours = drawn.outcome(paced(pacer, day, drawn, budget))
                _, fixed = drawn.outcome(hindsight(drawn, budget))
                _, plain = drawn.outcome(capped(drawn, budget))
                found[day].append((spent / budget, fixed - ours, ours - plain, ours))
        for day in (0, DAYS - 1):
            low, high = np.quantile(found[day], [0.05, 0.95], axis=0).tolist()
            mean = np.mean(found[day], axis=0).tolist()
            name = f"{dataset}, budget {share:g}, day {day + 1}"
            yield Figure(f"{name}: spent of it", mean[0], low[0], high[0])
            yield judged(Figure(f"{name}: regret", mean[1], low[1], high[1], goal="<= 0.01"))
            yield Figure(f"{name}: above a plain cap", mean[2], low[2], high[2])
            yield Figure(f"{name}: quality", mean[3], low[3], high[3])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", nargs="+", default=["llmrouter", "routerbench_lite"])
    options = parser.parse_args()
    report("pacing", [figure for name, table in embedded_tables(options.tables) for figure in measure(name, table)])


if __name__ == "__main__":
    main()
