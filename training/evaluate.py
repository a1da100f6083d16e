"""A policy between its bounds, on outcomes that it was not trained on.

Bounds: random and cheapest below; best single model and static mix (the convex hull of single models) to beat; the
oracle, which knows every outcome, above. Intervals are bootstrapped over queries, paired between systems.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from router.errors import DataError
from router.expert_names import find
from router.objective import SPEND
from router.policy import Policy
from router.types import Floats, Outcomes, Queries
from training.curve import Curve, Sample, static_mix
from training.data import experts_of
from training.interval import Interval as Interval
from training.interval import bounds, p_value
from training.interval import interval as interval
from training.metrics import Calls, published
from training.own_cost import expected_cost
from training.reliability import calibration, reliability
from training.report import Point as Point
from training.report import Report as Report
from training.resamples import Resamples, Systems, bootstrapped
from training.slices import SIZES, Slice, domain_labels, plays_at, tail_labels

#: An expert joins the curve if it was observed, with its cost, on this share of the queries.
COVERAGE = 0.8
HALF = 0.5  # of the best single expert's cost
AREAS = ("static_mix", "policy", "oracle")
HALVES = ("static_mix", "policy", "gain")


def evaluate(policy: Policy, outcomes: Outcomes, rng: np.random.Generator, *, dataset: str) -> Report:
    """Raises `DataError` where the outcomes leave nothing to compare."""
    return evaluated(policy, outcomes, rng, dataset=dataset)[0]


def evaluated(
    policy: Policy, outcomes: Outcomes, rng: np.random.Generator, *, dataset: str
) -> tuple[Report, dict[str, Floats]]:
    """The report, and each of its figures on the sample and on every resample, [1 + RESAMPLES].

    With the same outcomes and a generator in the same state, the resamples of two policies are the same ones.
    """
    known, columns, left_out = known_experts(outcomes, policy.experts_)
    estimate = policy.predict(known.queries)
    predicted, lengths = estimate.quality[:, columns], estimate.output_tokens[:, columns]
    rows, kept, without = comparable(known)
    cells = np.ix_(rows, kept)
    sample = Sample(quality=known.quality[cells], cost=known.cost_usd[cells])
    names = tuple(known.experts[k] for k in kept)
    choices = {"policy": sample.choices(predicted[cells]), "oracle": sample.choices(sample.quality)}
    own = sample.choices(predicted[cells], expected_cost(known, lengths)[cells])
    paths = {name: sample.played(chosen) for name, chosen in {**choices, "own": own}.items()}
    found = bootstrapped(Systems(sample, paths, _calls(sample, predicted[cells])), rng)
    singles = _singles(sample, names)
    brier, ece = calibration(predicted, known.quality)
    domains, tail = _slices(sample, choices, _rows(known.queries, rows), names, rng)
    report = Report(
        dataset=dataset,
        queries=len(rows),
        experts=names,
        left_out=left_out | without,
        random=Point("(a draw)", float(sample.cost.mean()), float(sample.quality.mean())),
        cheapest=min(singles, key=lambda point: point.cost_usd),
        best=max(singles, key=lambda point: point.quality),
        singles=tuple(sorted(singles, key=lambda point: point.cost_usd)),
        area={name: found.interval(f"area {name}") for name in AREAS},
        gain=found.interval("gain"),
        p_value=p_value(found.figures["gain"]),
        share=found.interval("share"),
        own_cost={name: found.interval(f"own {name}") for name in ("gain", "share")},
        half_cost={name: found.interval(f"half {name}") for name in HALVES},
        metrics=published(found.figures),
        brier=brier,
        ece_equal_mass=ece,
        reliability=reliability(predicted, known.quality, rng),
        curves=_curves(sample, paths),
        bands=_bands(found),
        domains=domains,
        tail=tail,
        chosen=_chosen(sample, choices, names),
    )
    return report, found.figures


def _singles(sample: Sample, names: Sequence[str]) -> list[Point]:
    cost, quality = sample.cost.mean(axis=0), sample.quality.mean(axis=0)
    return [Point(name, float(c), float(q)) for name, c, q in zip(names, cost, quality, strict=True)]


def _calls(sample: Sample, predicted: Floats) -> Calls:
    """RouteLLM's choice between the cheapest and the best single expert."""
    weak, strong = int(sample.cost.mean(axis=0).argmin()), int(sample.quality.mean(axis=0).argmax())
    return Calls(
        preference=predicted[:, strong] - predicted[:, weak],
        gap=sample.quality[:, strong] - sample.quality[:, weak],
    )


def _curves(sample: Sample, paths: Mapping[str, tuple[Floats, Floats]]) -> dict[str, list[tuple[float, float]]]:
    curves = {"static_mix": static_mix(sample.cost.mean(axis=0), sample.quality.mean(axis=0))} | {
        name: Curve.through(cost.mean(axis=0), quality.mean(axis=0)) for name, (cost, quality) in paths.items()
    }
    return {
        name: [(float(c), float(q)) for c, q in zip(curve.cost, curve.quality, strict=True)]
        for name, curve in curves.items()
    }


def _bands(found: Resamples) -> dict[str, list[tuple[float, float, float]]]:
    bands = {}
    for name, table in found.bands.items():
        points = np.vstack([found.costs, bounds(table[1:])]).T.tolist()
        bands[name] = [(cost, low, high) for cost, low, high in points]
    return bands


def _rows(queries: Queries, rows: NDArray[np.intp]) -> tuple[list[str] | None, Floats]:
    """The domains of some queries, if there are any, and their vectors."""
    domains = None if queries.domains is None else [queries.domains[row] for row in rows]
    return domains, queries.embeddings[rows]


def _slices(
    sample: Sample,
    choices: Mapping[str, NDArray[np.intp]],
    queries: tuple[list[str] | None, Floats],
    names: Sequence[str],
    rng: np.random.Generator,
) -> tuple[tuple[Slice, ...], tuple[Slice, ...]]:
    """By domain, where there are several, and by the size of the queries' cluster, where there are vectors."""
    domains, vectors = queries
    plays = plays_at(sample, choices, HALF)
    by_domain: tuple[Slice, ...] = ()
    if domains is not None and len(set(domains)) > 1:
        by_domain = plays.slices(domain_labels(domains), names, rng)
    if not vectors.shape[1] or len(vectors) < 3:
        return by_domain, ()
    tail = plays.slices(tail_labels(vectors, rng), names, rng)
    by_size = tuple(sorted(tail, key=lambda part: SIZES.index(part.name)))
    return by_domain, by_size if len(by_size) > 1 else ()


def _chosen(
    sample: Sample, choices: Mapping[str, NDArray[np.intp]], names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """What share of the queries goes to each expert, for each preference, the largest first."""
    found = {}
    for preference, spend in SPEND.items():
        share = plays_at(sample, choices, spend).sent.mean(axis=0)
        order = np.argsort(-share, kind="stable").tolist()
        found[str(preference)] = {names[k]: float(share[k]) for k in order if share[k] > 0}
    return found


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
        if not seen[:, k].any():
            left_out[name] = "not observed on any of these queries"
        elif not priced[:, k].any():
            left_out[name] = "no cost is known, or only a lower bound"
        elif (cover := (seen & priced)[:, k].mean()) < COVERAGE:
            left_out[name] = f"observed on {cover:.0%} of the queries, {COVERAGE:.0%} are needed"
    kept = np.array([k for k, name in enumerate(outcomes.experts) if name not in left_out], dtype=np.intp)
    rows = np.flatnonzero((seen & priced)[:, kept].all(axis=1))
    if len(kept) < 2 or len(rows) < 2:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise DataError(
            "a cost-quality curve needs two experts seen, with costs, on the same queries, two at least; "
            f"here are {len(kept)} experts and {len(rows)} queries{f' ({reasons})' if reasons else ''}"
        )
    return rows, kept, left_out
