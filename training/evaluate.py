"""A policy between its bounds, on outcomes that it was not trained on.

Bounds: random and cheapest below; best single model and static mix (the convex hull of single models) to beat; the
oracle, which knows every outcome, above. Intervals are bootstrapped over queries, paired between systems.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from router.artifact import find
from router.errors import DataError
from router.policy import Policy
from router.types import Floats, Outcomes
from training.curve import Curve, Sample, resampled, static_mix
from training.data import experts_of
from training.own_cost import expected_cost

RESAMPLES = 1_000
LEVEL = 0.95
#: An expert joins the curve if it was observed, with its cost, on this share of the queries.
COVERAGE = 0.8
BINS = 15


@dataclass(frozen=True)
class Interval:
    """A figure on the sample, and the bounds of its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """A choice that does not depend on the query: what it costs and reaches per query."""

    expert: str
    cost_usd: float
    quality: float


@dataclass(frozen=True)
class Report:
    """Costs are means per query in USD; an area is the mean quality over the costs from the cheapest to the best.

    `share` is the way from the static mix to the oracle, `gain` the area above the static mix's. `half_cost`
    compares qualities at half the best single expert's cost. Calibration is over all observed answers.
    """

    dataset: str
    queries: int
    experts: tuple[str, ...]
    left_out: Mapping[str, str]
    random: Point
    cheapest: Point
    best: Point
    area: Mapping[str, Interval]  # static_mix, policy, oracle
    gain: Interval
    share: Interval
    own_cost: Mapping[str, Interval]  # gain, share: where the choice reckons with the policy's own expected costs
    half_cost: Mapping[str, Interval]  # static_mix, policy, gain
    brier: float
    ece: float
    curves: Mapping[str, list[tuple[float, float]]]  # (cost_usd, quality)

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    def brief(self) -> dict[str, object]:
        """What an artifact's card says of it."""
        return {
            "queries": self.queries,
            "experts": len(self.experts),
            **{f"area_{name}": round(interval.value, 4) for name, interval in self.area.items()},
            "gain": [round(bound, 4) for bound in (self.gain.value, self.gain.low, self.gain.high)],
            "share": round(self.share.value, 4),
            "brier": round(self.brier, 4),
            "ece": round(self.ece, 4),
        }


def evaluate(policy: Policy, outcomes: Outcomes, rng: np.random.Generator, *, dataset: str) -> Report:
    """Raises `DataError` where the outcomes leave nothing to compare."""
    known, columns, left_out = known_experts(outcomes, policy.experts_)
    estimate = policy.predict(known.queries)
    predicted, lengths = estimate.quality[:, columns], estimate.output_tokens[:, columns]
    brier, ece = calibration(predicted, known.quality)
    rows, kept, without = comparable(known)
    cells = np.ix_(rows, kept)
    sample = Sample(quality=known.quality[cells], cost=known.cost_usd[cells])
    names = tuple(known.experts[k] for k in kept)
    paths = {"policy": sample.swept(predicted[cells]), "oracle": sample.swept(sample.quality)}
    paths["own"] = sample.swept(predicted[cells], expected_cost(known, lengths)[cells])
    table = np.concatenate([_figures(sample, paths, w) for w in resampled(len(rows), RESAMPLES, rng)])
    intervals = {name: _interval(table[:, i]) for i, name in enumerate(FIGURES)}
    cost, quality = sample.cost.mean(axis=0), sample.quality.mean(axis=0)
    cheap, best = int(cost.argmin()), int(quality.argmax())
    mix = static_mix(cost, quality)
    curves = {"static_mix": mix} | {
        name: Curve.through(c.mean(axis=0), q.mean(axis=0)) for name, (c, q) in paths.items()
    }
    return Report(
        dataset=dataset,
        queries=len(rows),
        experts=names,
        left_out=left_out | without,
        random=Point("(a draw)", float(cost.mean()), float(quality.mean())),
        cheapest=Point(names[cheap], float(cost[cheap]), float(quality[cheap])),
        best=Point(names[best], float(cost[best]), float(quality[best])),
        area={name: intervals[f"area {name}"] for name in ("static_mix", "policy", "oracle")},
        gain=intervals["gain"],
        share=intervals["share"],
        own_cost={"gain": intervals["own gain"], "share": intervals["own share"]},
        half_cost={name: intervals[f"half {name}"] for name in ("static_mix", "policy", "gain")},
        brier=brier,
        ece=ece,
        curves={
            name: [(float(c), float(q)) for c, q in zip(curve.cost, curve.quality, strict=True)]
            for name, curve in curves.items()
        },
    )


FIGURES = (
    "area static_mix",
    "area policy",
    "area oracle",
    "gain",
    "share",
    "half static_mix",
    "half policy",
    "half gain",
    "own gain",
    "own share",
)


def _figures(sample: Sample, paths: Mapping[str, tuple[Floats, Floats]], weights: Floats) -> Floats:
    """The figures of each resample, [b, F] in the order of `FIGURES`; `weights` is [b, n]."""
    costs, qualities = weights @ sample.cost, weights @ sample.quality
    points = {name: (weights @ cost, weights @ quality) for name, (cost, quality) in paths.items()}
    rows = []
    for b in range(len(weights)):
        low, high = costs[b].min(), costs[b, qualities[b].argmax()]
        mix = static_mix(costs[b], qualities[b])
        curves = (Curve.through(points[name][0][b], points[name][1][b]) for name in ("policy", "oracle", "own"))
        policy, oracle, own = curves
        floor, area, top, other = (curve.area(low, high) for curve in (mix, policy, oracle, own))
        share, own_share = ((a - floor) / (top - floor) if top > floor else 0.0 for a in (area, other))
        half = max(high / 2, low)
        there = policy.at(half) - mix.at(half)
        halves = (mix.at(half), policy.at(half), there)
        rows.append((floor, area, top, area - floor, share, *halves, other - floor, own_share))
    return np.array(rows)


def _interval(values: Floats) -> Interval:
    """`values[0]` is the sample's own, the others the resamples'."""
    low, high = np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values[0]), float(low), float(high))


def known_experts(outcomes: Outcomes, known: Sequence[str]) -> tuple[Outcomes, list[int], dict[str, str]]:
    """The outcomes of the experts that a policy knows, its column for each, and why the others are left out."""
    columns = [find(name, known) for name in outcomes.experts]
    kept = [k for k, column in enumerate(columns) if column is not None]
    out = {outcomes.experts[k]: "the policy does not know it" for k, c in enumerate(columns) if c is None}
    if len(kept) < 2:
        raise DataError(
            f"the policy knows {len(kept)} of {', '.join(outcomes.experts)}, two are needed to choose between; "
            f"it knows: {', '.join(sorted(known))}"
        )
    return experts_of(outcomes, kept), [column for column in columns if column is not None], out


def comparable(outcomes: Outcomes) -> tuple[NDArray[np.intp], NDArray[np.intp], dict[str, str]]:
    """Rows and columns of the complete part of the table, and why which expert is left out of it."""
    priced = np.isfinite(outcomes.cost_usd)
    seen = np.isfinite(outcomes.quality)
    left_out: dict[str, str] = {}
    for k, name in enumerate(outcomes.experts):
        if not priced[:, k].any():
            left_out[name] = "no cost is known, or only a lower bound"
        elif (cover := (seen & priced)[:, k].mean()) < COVERAGE:
            left_out[name] = f"observed on {cover:.0%} of the queries, {COVERAGE:.0%} are needed"
    kept = np.array([k for k, name in enumerate(outcomes.experts) if name not in left_out], dtype=np.intp)
    rows = np.flatnonzero((seen & priced)[:, kept].all(axis=1))
    if len(kept) < 2 or len(rows) < 2:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise DataError(f"a cost-quality curve needs two experts seen, with costs, on the same queries ({reasons})")
    return rows, kept, left_out


def calibration(predicted: Floats, observed: Floats) -> tuple[float, float]:
    """Brier score and expected calibration error (15 bins of equal mass) over the observed cells."""
    seen = np.isfinite(observed)
    guess, truth = predicted[seen], observed[seen]
    order = np.argsort(guess, kind="stable")
    gaps = [
        abs(guess[part].mean() - truth[part].mean()) * len(part)
        for part in np.array_split(order, BINS)
        if len(part)
    ]
    return float(((guess - truth) ** 2).mean()), float(sum(gaps) / len(guess))
