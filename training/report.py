"""What an evaluation found, as figures: nothing here computes, draws or prints."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from training.interval import Interval
from training.metrics import Metric
from training.reliability import Reliability
from training.slices import Slice


@dataclass(frozen=True)
class Point:
    """A choice that does not depend on the query: what it costs and reaches per query."""

    expert: str
    cost_usd: float
    quality: float


@dataclass(frozen=True)
class Report:
    """Costs are means per query in USD; an area is the mean quality over the costs from the cheapest to the best.

    `share` is the way from the static mix to the oracle, `gain` the area above the static mix's, `p_value` that of
    there being none. `half_cost` compares qualities at half the best single expert's cost, and so do the slices:
    `domains`, and `tail`, clusters of the queries by size. Calibration is over all observed answers.
    """

    dataset: str
    queries: int
    experts: tuple[str, ...]
    left_out: Mapping[str, str]
    random: Point
    cheapest: Point
    best: Point
    singles: tuple[Point, ...]  # every expert by itself, cheapest first
    area: Mapping[str, Interval]  # static_mix, policy, oracle
    gain: Interval
    p_value: float
    share: Interval
    own_cost: Mapping[str, Interval]  # gain, share: where the choice reckons with the policy's own expected costs
    half_cost: Mapping[str, Interval]  # static_mix, policy, gain
    metrics: Mapping[str, Metric]  # those of training.metrics.PUBLISHED that are defined here
    brier: float
    ece_equal_mass: float
    reliability: Reliability
    curves: Mapping[str, list[tuple[float, float]]]  # (cost_usd, quality)
    bands: Mapping[str, list[tuple[float, float, float]]]  # (cost_usd, low, high); gain: policy above static mix
    domains: tuple[Slice, ...]
    tail: tuple[Slice, ...]
    chosen: Mapping[str, Mapping[str, float]]  # preference -> expert -> share of the queries

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
            "ece_equal_mass": round(self.ece_equal_mass, 4),
        }
