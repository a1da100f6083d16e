"""How much of the way from the static mix to the oracle each policy goes on prompts that it was not trained on.

Trains on `train`, judges on `val`, of every table in ../shared/data; a figure over several seeds is their mean, and
so are the bounds of its bootstrap interval over queries. In the `mean` reading the choice reckons with each
expert's mean cost, in the `own` reading with what the policy itself expects of the query; both are charged what was
recorded.
"""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from report import Figure, judged, report

from router.config import EncoderSettings
from router.embedding import Encoder
from router.policy import Policy
from router.types import Floats, Outcomes, Queries
from training.data import Table, read_tables, rows_of
from training.embedding import VectorCache
from training.evaluate import Report, evaluate
from training.fit import build

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
GOALS = {
    "mmlu_pro": 0.10,
    "zeroeval": 0.22,
    "llmrouter": 0.28,
    "routerbench_lite": 0.26,
    "reasoning_gym": 0.52,
    "routellm": 0.15,
}
POLICIES = ("static", "cluster", "knn", "linear", "domain", "best")
TRUE_DOMAIN = "true domain label"
PSEUDO_COUNT = 10.0
SERVED = 300  # queries timed one by one


class TrueDomain(Policy):
    """The means by the true label of the query, as no policy can know it: shrunk like the others' tables."""

    def _fit(self, outcomes: Outcomes) -> None:
        labels = np.array(outcomes.queries.domains)
        self.mean_ = np.nanmean(outcomes.quality, axis=0)
        above = outcomes.quality - self.mean_
        self.effect_ = {
            str(label): np.nansum(above[labels == label], axis=0)
            / (np.isfinite(above[labels == label]).sum(axis=0) + PSEUDO_COUNT)
            for label in np.unique(labels)
        }

    def _predict(self, queries: Queries) -> tuple[Floats, Floats]:
        assert queries.domains is not None
        none = np.zeros_like(self.mean_)
        quality = self.mean_ + np.array([self.effect_.get(label, none) for label in queries.domains])
        return np.clip(quality, 0.0, 1.0), np.full(quality.shape, 0.1)

    def state(self) -> dict[str, Floats]:
        return {"mean": self.mean_}

    def restore(self, state: Mapping[str, Floats]) -> None:
        self.mean_ = state["mean"]


@dataclass(frozen=True)
class Run:
    """One policy trained with one seed and judged."""

    report: Report
    train_s: float
    serve_ms: float
    megabytes: float


def run(policy: Policy, table: Table, dataset: str, seed: int) -> Run:
    train, held_out = table.split("train").outcomes, table.split("val").outcomes
    began = time.perf_counter()
    policy.fit(train)
    train_s = time.perf_counter() - began
    judgement = evaluate(policy, held_out, np.random.default_rng(seed), dataset=dataset)
    size = sum(array.nbytes for array in policy.state().values()) / 1e6
    return Run(report=judgement, train_s=train_s, serve_ms=_serve_ms(policy, held_out), megabytes=size)


def _serve_ms(policy: Policy, outcomes: Outcomes) -> float:
    """Median time of estimating one query, beyond its vector."""
    times = []
    for row in range(min(SERVED, len(outcomes))):
        one = replace(rows_of(outcomes, np.array([row])).queries)
        began = time.perf_counter()
        policy.predict(one)
        times.append(time.perf_counter() - began)
    return 1e3 * float(np.median(times))


def figures(dataset: str, runs: Mapping[str, Sequence[Run]]) -> Iterator[Figure]:
    goal = GOALS.get(dataset)
    for name, found in runs.items():
        wanted = f">= {goal}" if goal is not None and name == "best" else None
        for reading in ("mean", "own"):
            shares = [r.report.share if reading == "mean" else r.report.own_cost["share"] for r in found]
            value, low, high = (
                float(np.mean([getattr(s, part) for s in shares])) for part in ("value", "low", "high")
            )
            yield judged(Figure(f"{dataset}: {name}, share, {reading} cost", value, low, high, goal=wanted))
    best, label = runs.get("best"), runs.get(TRUE_DOMAIN)
    if best is None:
        return
    if label is not None:
        shares = [r.report.share.value - label[0].report.share.value for r in best]
        yield judged(Figure(f"{dataset}: best above the true domain label", float(np.mean(shares)), goal="> 0"))
    top = float(np.mean([r.report.gain.high for r in best]))
    yield judged(Figure(f"{dataset}: best not below the static mix (upper bound of gain)", top, goal=">= 0"))
    yield judged(Figure(f"{dataset}: best, ECE", _mean(best, "ece"), goal="<= 0.03"))
    static = runs.get("static")
    if static is not None:
        yield Figure(f"{dataset}: static, ECE", _mean(static, "ece"))
    yield judged(Figure(f"{dataset}: best, training", max(r.train_s for r in best), unit="s", goal="<= 600"))
    yield judged(Figure(f"{dataset}: best, one query", min(r.serve_ms for r in best), unit="ms", goal="<= 1"))
    yield judged(Figure(f"{dataset}: best, size", max(r.megabytes for r in best), unit="MB", goal="<= 30"))


def _mean(runs: Sequence[Run], name: str) -> float:
    return float(np.mean([getattr(run.report, name) for run in runs]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--tables", nargs="+", default=list(GOALS))
    parser.add_argument("--policies", nargs="+", default=list(POLICIES))
    options = parser.parse_args()
    encoder = Encoder(EncoderSettings())
    encoder.load()
    found: list[Figure] = []
    try:
        for dataset in options.tables:
            table = read_tables([DATA / f"{dataset}.parquet"])
            prompts = table.outcomes.queries.prompts
            assert prompts is not None
            table = table.embedded(VectorCache(encoder).embed(prompts))
            runs = {
                kind: [run(build(kind, {}, seed), table, dataset, seed) for seed in options.seeds]
                for kind in options.policies
            }
            if table.outcomes.queries.domains is not None:
                runs[TRUE_DOMAIN] = [run(TrueDomain(), table, dataset, options.seeds[0])]
            found += figures(dataset, runs)
            report("quality", found)  # after every table: what is known by then is kept
    finally:
        encoder.close()


if __name__ == "__main__":
    main()
