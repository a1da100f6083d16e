"""What an expert that comes in by a few labelled prompts gives, of what it gives when trained with the others.

Each expert is left out in turn (of large pools a sample, with those that the static mix plays); the policy is
fitted to the others on `train`, and the expert added from prompts drawn from `train`. On `val` the whole pool is
chosen from, so pool, costs and static mix are the same for all that is compared. A gain is the area above that of
the static mix; the share is the mean gain over experts and draws by the gain of the policy trained with all experts
on all prompts. Intervals are bootstrapped over queries and experts.

The expert is added with the others' scores on its prompts (`beside`) or without (`alone`); for comparison, it is
expected everywhere to do as its labelled prompts did on average (`mean`), and the policy is fitted again with the
prompts that are labelled (`refit`). Run by itself, or by quality.py for one table at a time.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from report import Figure, judged, report
from tables import GOALS, embedded_tables

from router.features import domain_numbers
from router.policy import Policy
from router.steps.familiarity import Likeness
from router.steps.newcomers import Ground, Newcomers
from router.types import Estimate, Floats, Outcomes
from training.curve import Curve, Sample, hull, static_mix
from training.data import Table, experts_of, rows_of
from training.evaluate import comparable
from training.extend import ground, labelled_rows
from training.fit import build, reference
from training.interval import bounds

PROMPTS = (25, 100, 400)
ALL = 1_000_000
SHARES = {100: 0.9, 400: 0.97}  # to be reached
RESAMPLES = 400
REFITTED = 100  # prompts with which the policy is fitted again


@dataclass(frozen=True)
class Judge:
    """The held-out queries on which all experts can be compared, and `weights` [1 + RESAMPLES, n] of them."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    sample: Sample
    weights: Floats
    bounds: Floats  # [1 + RESAMPLES, 3]: the cheapest's and the best's cost, the static mix's area between them

    @classmethod
    def of(cls, held_out: Outcomes, rng: np.random.Generator) -> "Judge":
        rows, columns, _ = comparable(held_out)
        cells = np.ix_(rows, columns)
        sample = Sample(held_out.quality[cells], held_out.cost_usd[cells])
        count = len(rows)
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count
        weights = np.vstack([np.full(count, 1 / count), drawn])
        found = []
        for cost, quality in zip(weights @ sample.cost, weights @ sample.quality, strict=True):
            low, high = cost.min(), cost[quality.argmax()]
            found.append((low, high, static_mix(cost, quality).area(low, high)))
        return cls(rows, columns, sample, weights, np.array(found))

    def gains(self, quality: Floats) -> Floats:
        """Of choosing by `quality` [n, K] of all experts, [1 + RESAMPLES]."""
        cost, reached = (
            self.weights @ path for path in self.sample.swept(quality[np.ix_(self.rows, self.columns)])
        )
        curves = map(Curve.through, cost, reached)
        return np.array(
            [curve.area(low, high) - mix for curve, (low, high, mix) in zip(curves, self.bounds, strict=True)]
        )


@dataclass(frozen=True)
class Absence:
    """One expert (a column of the table) left out of the policy, and what the policy says of the others."""

    policy: Policy
    column: int
    others: list[int]
    said: Estimate  # on the held-out queries
    ground: Ground

    @classmethod
    def of(cls, kind: str, train: Outcomes, held_out: Outcomes, column: int) -> "Absence":
        others = [k for k in range(len(train.experts)) if k != column]
        policy = build(kind, {}, 0).fit(experts_of(train, others))
        rng = np.random.default_rng(0)
        queries = policy.described(train.queries)
        likeness = Likeness.fit(queries, domain_numbers(train.queries, rng), rng)
        found = ground(policy, reference(policy, train, rng), likeness, 0)
        return cls(policy, column, others, policy.predict(held_out.queries), found)

    def quality(self, own: Floats) -> Floats:
        """Of all experts [n, K]: what the policy says of the others, and the newcomer's `own` [n]."""
        return np.insert(self.said.quality, self.column, own, axis=1)

    def added(self, train: Outcomes, held_out: Outcomes, rows: NDArray[np.intp], *, beside: bool) -> Floats:
        """The newcomer's quality on the held-out queries, [n], from the labelled `rows` of `train`."""
        known = [train.experts[k] for k in self.others]
        labelled = labelled_rows(self.policy, known, rows_of(train, rows), [train.experts[self.column]])
        if not beside:
            labelled = replace(labelled, observed=np.full(labelled.observed.shape, np.nan))
        step = Newcomers.fit(self.ground, labelled)
        return np.asarray(step.apply(self.policy.described(held_out.queries), self.said).quality[:, -1])


@dataclass(frozen=True)
class Gains:
    """On the sample and its resamples: `whole` [1 + RESAMPLES] of the policy trained with all experts, and by what
    is compared and the prompts, `found` [experts, 1 + RESAMPLES]. `dealt` [RESAMPLES, experts] resamples experts.
    """

    whole: Floats
    found: dict[tuple[str, int], Floats]
    dealt: Floats

    def mean(self, key: tuple[str, int]) -> Floats:
        """Over the experts, [1 + RESAMPLES]."""
        gains = self.found[key]
        return np.append(gains[:, 0].mean(), (self.dealt * gains[:, 1:].T).sum(axis=1))


def measured(table: Table, options: argparse.Namespace) -> Gains:
    train, held_out = table.split("train").outcomes, table.split("val").outcomes
    rng = np.random.default_rng(0)
    judge = Judge.of(held_out, rng)
    whole = judge.gains(build(options.policy, {}, 0).fit(train).predict(held_out.queries).quality)
    found: dict[tuple[str, int], list[Floats]] = {}
    columns = left_out(train, judge.columns, options.experts, rng)
    for column in columns:
        absence = Absence.of(options.policy, train, held_out, column)
        seen = np.flatnonzero(np.isfinite(train.quality[:, column]))
        for prompts in (*options.prompts, *([ALL] if options.ceiling else [])):
            for how in ("beside", "alone", "mean", *(["refit"] if options.refit and prompts == REFITTED else [])):
                draws = 1 if prompts == ALL or how == "refit" else options.draws
                each = []
                for draw in range(draws):
                    drawn = np.random.default_rng((draw, column)).permutation(seen)[:prompts]
                    each.append(
                        judge.gains(compared(how, absence, (train, held_out), np.sort(drawn), options.policy))
                    )
                found.setdefault((how, prompts), []).append(np.mean(each, axis=0))
    dealt = rng.multinomial(len(columns), np.full(len(columns), 1 / len(columns)), size=RESAMPLES) / len(columns)
    return Gains(whole, {key: np.stack(gains) for key, gains in found.items()}, dealt)


def compared(
    how: str, absence: Absence, outcomes: tuple[Outcomes, Outcomes], rows: NDArray[np.intp], kind: str
) -> Floats:
    """The quality of all experts on the held-out queries, [n, K]."""
    train, held_out = outcomes
    if how == "mean":
        return absence.quality(np.full(len(held_out), train.quality[rows, absence.column].mean()))
    if how == "refit":
        quality = train.quality.copy()
        quality[:, absence.column] = np.nan
        quality[rows, absence.column] = train.quality[rows, absence.column]
        return build(kind, {}, 0).fit(replace(train, quality=quality)).predict(held_out.queries).quality
    return absence.quality(absence.added(train, held_out, rows, beside=how == "beside"))


def left_out(train: Outcomes, columns: NDArray[np.intp], most: int, rng: np.random.Generator) -> list[int]:
    """Those on the hull of the training means, then others, drawn, up to `most` experts."""
    cost, quality = (np.nanmean(matrix[:, columns], axis=0) for matrix in (train.cost_usd, train.quality))
    played = hull(cost, quality)
    rest = rng.permutation([k for k in range(len(columns)) if k not in played]).tolist()
    return sorted(int(columns[k]) for k in [*played, *rest][: max(most, len(played))])


def figures(name: str, all_gains: Sequence[Gains]) -> Iterator[Figure]:
    """Of one table, or of several together. A share of a gain that may be nothing is told without a verdict."""
    whole = np.sum([gains.whole for gains in all_gains], axis=0)
    low, high = bounds(whole[1:])
    yield Figure(f"{name}: gain, trained with all", float(whole[0]), float(low), float(high))
    for how, prompts in all_gains[0].found:
        mean = np.sum([gains.mean((how, prompts)) for gains in all_gains], axis=0)
        goal = f">= {SHARES[prompts]}" if how == "beside" and prompts in SHARES and low > 0 else None
        count = "all prompts" if prompts == ALL else f"{prompts} prompts"
        bottom, top = bounds(mean[1:] / whole[1:])
        share = float(mean[0] / whole[0])
        yield judged(Figure(f"{name}: {how}, {count}, share", share, float(bottom), float(top), goal=goal))


def settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", default="linear")
    parser.add_argument("--experts", type=int, default=8, help="left out in turn, at most, of each table")
    parser.add_argument("--prompts", type=int, nargs="+", default=list(PROMPTS))
    parser.add_argument("--draws", type=int, default=3, help="of labelled prompts, for each expert")
    parser.add_argument("--refit", action="store_true", help=f"compare with a fit to all and {REFITTED} prompts")
    parser.add_argument("--ceiling", action="store_true", help="also from all training prompts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    settings(parser)
    parser.add_argument("--tables", nargs="+", default=list(GOALS))
    parser.add_argument("--name", default="newcomers", help="of the file in build/bench")
    options = parser.parse_args()
    found: list[Figure] = []
    tables = []
    for dataset, table in embedded_tables(options.tables):
        tables.append(measured(table, options))
        found += figures(f"{dataset}, {options.policy}", tables[-1:])
        report(options.name, found)
    if len(tables) > 1:
        report(options.name, [*found, *figures(f"all tables, {options.policy}", tables)])


if __name__ == "__main__":
    main()
