"""Every figure of a report on the sample and on each bootstrap resample of its queries."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from router.types import Floats
from training.curve import Curve, Sample, static_mix
from training.interval import RESAMPLES, Interval, interval, resampled
from training.metrics import Calls, aiq, apgr, arena_score, cpt, deferral_area, quality_neutral_cost

BAND_POINTS = 65  # costs at which the curves get a band


@dataclass(frozen=True)
class Systems:
    """What is compared on the same queries. `paths` holds, for `policy`, `oracle` and `own` (the policy, reckoning
    with its own expected costs), what each choice costs and reaches on each query, both [n, L].
    """

    sample: Sample
    paths: Mapping[str, tuple[Floats, Floats]]
    calls: Calls


@dataclass(frozen=True)
class Resamples:
    """The sample's own first: `figures` [1 + RESAMPLES], `bands` of qualities [1 + RESAMPLES, G] at `costs` [G].

    Undefined figures are NaN.
    """

    figures: dict[str, Floats]
    costs: Floats
    bands: dict[str, Floats]

    def interval(self, figure: str) -> Interval:
        return interval(self.figures[figure])


def bootstrapped(systems: Systems, rng: np.random.Generator) -> Resamples:
    sample = systems.sample
    costs = _band_costs(sample)
    figures: list[dict[str, float]] = []
    bands: dict[str, list[Floats]] = {"static_mix": [], "policy": [], "oracle": [], "gain": []}
    for weights in resampled(len(sample.quality), RESAMPLES, rng):
        cost, quality = weights @ sample.cost, weights @ sample.quality
        points = {name: (weights @ spent, weights @ reached) for name, (spent, reached) in systems.paths.items()}
        for b, recovered in enumerate(systems.calls.recovered(weights)):
            curves = {name: Curve.through(spent[b], reached[b]) for name, (spent, reached) in points.items()}
            curves["static_mix"] = static_mix(cost[b], quality[b])
            figures.append(_figures(curves, cost[b], quality[b], recovered))
            for name in ("static_mix", "policy", "oracle"):
                bands[name].append(np.interp(costs, curves[name].cost, curves[name].quality))
            bands["gain"].append(bands["policy"][-1] - bands["static_mix"][-1])
    return Resamples(
        figures={name: np.array([found[name] for found in figures]) for name in figures[0]},
        costs=costs,
        bands={name: np.stack(rows) for name, rows in bands.items()},
    )


def _band_costs(sample: Sample) -> Floats:
    """From the cheapest to the best single expert's cost, half of them evenly spaced and half on a log scale."""
    cost = sample.cost.mean(axis=0)
    low, high = float(cost.min()), float(cost[sample.quality.mean(axis=0).argmax()])
    if not 0 < low < high:
        return np.linspace(low, high, BAND_POINTS)
    half = BAND_POINTS // 2
    return np.unique(np.concatenate([np.linspace(low, high, half), np.geomspace(low, high, BAND_POINTS - half)]))


def _figures(
    curves: Mapping[str, Curve], cost: Floats, quality: Floats, recovered: Curve | None
) -> dict[str, float]:
    """Of one resample: `cost` and `quality` are the experts' means on it, [K]."""
    mix, policy = curves["static_mix"], curves["policy"]
    best = int(quality.argmax())
    low, high, dearest = float(cost.min()), float(cost[best]), float(cost.max())
    half = max(high / 2, low)
    area = {name: curve.area(low, high) for name, curve in curves.items()}
    room = area["oracle"] - area["static_mix"]
    gain, own_gain = (area[name] - area["static_mix"] for name in ("policy", "own"))
    undefined = float("nan")
    return {
        "area static_mix": area["static_mix"],
        "area policy": area["policy"],
        "area oracle": area["oracle"],
        "gain": gain,
        "share": gain / room if room > 0 else 0.0,
        "half static_mix": mix.at(half),
        "half policy": policy.at(half),
        "half gain": policy.at(half) - mix.at(half),
        "own gain": own_gain,
        "own share": own_gain / room if room > 0 else 0.0,
        "AIQ policy": aiq(policy, low, dearest),
        "AIQ static_mix": mix.area(low, dearest),
        "deferral area policy": deferral_area(policy, dearest),
        "deferral area static_mix": deferral_area(mix, dearest),
        "QNC policy": quality_neutral_cost(policy, high, float(quality[best])),
        "arena score policy": arena_score(policy.at(half), half),
        "arena score static_mix": arena_score(mix.at(half), half),
        "APGR policy": undefined if recovered is None else apgr(recovered),
        "CPT(50) policy": undefined if recovered is None else cpt(recovered, 0.5),
        "CPT(80) policy": undefined if recovered is None else cpt(recovered, 0.8),
    }
