"""How much of the way from the static mix to the oracle each policy goes on prompts that it was not trained on.

Trains on `train`, judges on `val`, of every table in ../shared/data; a figure over several seeds is their mean, and
so are the bounds of its bootstrap interval over queries. In the `mean` reading the choice reckons with each
expert's mean cost, in the `own` reading with what the policy itself expects of the query; both are charged what was
recorded. `best` is judged as it is served, with the steps that follow it. Beside its calibration error stands what
chance alone would give one who knows every expert's true mean: on few queries that is not little.

Then, each a part of its own (`--parts`): domains left out in turn, floors on 200 splits, experts added from few
prompts, and what more prompts would give. `disguise`, `weights`, `calibration` and `neural` (`make
bench-neural`) are asked for by name.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from report import Figure, judged, keep, report
from tables import GOALS, embedded_tables

from router.policy import Policy
from router.stepped import Stepped
from router.types import Outcomes
from training.assurance import assured
from training.data import Table, rows_of
from training.evaluate import Report, evaluate
from training.fit import build
from training.reliability import calibration
from training.studies.base import Setup
from training.studies.domain import MOST, without_each_domain
from training.true_domain import TRUE_DOMAIN, TrueDomain

POLICIES = ("static", "cluster", "knn", "linear", "domain", "best")
CHANCE_DRAWS = 200
SERVED = 300  # queries timed one by one


@dataclass(frozen=True)
class Run:
    """One policy trained with one seed and judged."""

    report: Report
    train_s: float
    read_ms: float  # of a query, while it is embedded
    serve_ms: float  # once its vector is there
    megabytes: float


def run(policy: Policy, table: Table, dataset: str, seed: int, *, assure: bool = False) -> Run:
    train, held_out = table.split("train").outcomes, table.split("val").outcomes
    began = time.perf_counter()
    policy.fit(train)
    if assure:
        policy = assured(policy, train, seed, lambda: None).policy
    train_s = time.perf_counter() - began
    judgement = evaluate(policy, held_out, np.random.default_rng(seed), dataset=dataset)
    states = [policy.state(), *(step.state() for step in (policy.steps if isinstance(policy, Stepped) else ()))]
    size = sum(array.nbytes for state in states for array in state.values()) / 1e6
    read_ms, serve_ms = _serve_ms(policy, held_out)
    return Run(judgement, train_s, read_ms, serve_ms, size)


def _serve_ms(policy: Policy, outcomes: Outcomes) -> tuple[float, float]:
    """Median times of one query: of reading its words, which is done while it is embedded, and of estimating it."""
    times = []
    for row in range(min(SERVED, len(outcomes))):
        one = rows_of(outcomes, np.array([row])).queries
        began = time.perf_counter()
        one = policy.worded(one)
        read = time.perf_counter()
        policy.predict(one)
        times.append((read - began, time.perf_counter() - read))
    read_s, serve_s = np.median(times, axis=0)
    return 1e3 * float(read_s), 1e3 * float(serve_s)


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
    yield judged(Figure(f"{dataset}: best, ECE", _mean(best, "ece_equal_mass"), goal="<= 0.03"))
    static = runs.get("static")
    if static is not None:
        yield Figure(f"{dataset}: static, ECE", _mean(static, "ece_equal_mass"))
    yield judged(Figure(f"{dataset}: best, training", max(r.train_s for r in best), unit="s", goal="<= 600"))
    said = f"{dataset}: best, one query, once its vector is there"
    yield judged(Figure(said, min(r.serve_ms for r in best), unit="ms", goal="<= 1"))
    yield Figure(f"{dataset}: best, one query, while it is embedded", min(r.read_ms for r in best), unit="ms")
    yield judged(Figure(f"{dataset}: best, size", max(r.megabytes for r in best), unit="MB", goal="<= 30"))


def _mean(runs: Sequence[Run], name: str) -> float:
    return float(np.mean([getattr(run.report, name) for run in runs]))


def chance_error(table: Table, rng: np.random.Generator) -> float:
    """What one draw in 20 of held-out size has as calibration error where every expert's true mean is foretold."""
    known, held_out = (table.split(name).outcomes.quality for name in ("train", "val"))
    mean = np.nanmean(known, axis=0)
    draws = (known[rng.integers(len(known), size=len(held_out))] for _ in range(CHANCE_DRAWS))
    return float(np.quantile([calibration(np.broadcast_to(mean, draw.shape), draw)[1] for draw in draws], 0.95))


def policies_part(dataset: str, table: Table, options: argparse.Namespace) -> Iterator[Figure]:
    runs = {
        kind: [run(build(kind, {}, seed), table, dataset, seed, assure=kind == "best") for seed in options.seeds]
        for kind in options.policies
    }
    if table.outcomes.queries.domains is not None:
        runs[TRUE_DOMAIN] = [run(TrueDomain(), table, dataset, options.seeds[0])]
    yield from figures(dataset, runs)
    yield Figure(f"{dataset}: ECE by chance alone, 95 %", chance_error(table, np.random.default_rng(0)))


def domains_part(dataset: str, table: Table, options: argparse.Namespace) -> Iterator[Figure]:
    """Each domain left out in turn: against the best single model, and the static mix, of the other domains."""
    kept = table.split("train").outcomes, table.split("val").outcomes
    for assure in (False, True):
        setup = Setup(lambda: build(options.left_out_policy, {}, 0), *kept, assure=assure)
        study = without_each_domain(setup, most=options.domains_most)
        name = f"{dataset}: {options.left_out_policy} {'as served' if assure else 'by itself'}, domains left out"
        below = sum(unseen.above_best.high < 0 for unseen in study.domains)
        goal = "<= 0" if assure else None
        yield judged(Figure(f"{name}: below the best single, of {len(study.domains)}", below, goal=goal))
        for what, gain in (("best single", study.above_best), ("static mix", study.above_mix)):
            yield Figure(f"{name}: above the {what}", gain.value, gain.low, gain.high)


def learning_part(dataset: str, table: Table, options: argparse.Namespace) -> Iterator[Figure]:
    from learning import measure

    yield from measure(dataset, table, policy="best")


def neural_part(dataset: str, table: Table, options: argparse.Namespace) -> Iterator[Figure]:
    from neural import measure

    yield from measure(dataset, table, options.seeds[0])


def disguise_part(dataset: str, table: Table, options: argparse.Namespace) -> Iterator[Figure]:
    from disguise import measure

    yield from measure(dataset, table, policy=options.left_out_policy, seeds=options.seeds)


def weights_part(dataset: str, table: Table, options: argparse.Namespace) -> Iterator[Figure]:
    from class_weights import measure

    yield from measure(dataset, table, options.seeds[0])


def calibration_part(dataset: str, table: Table, options: argparse.Namespace) -> Iterator[Figure]:
    from calibrating import measure

    for seed in options.seeds:
        yield from measure(dataset, table, policy="best", seed=seed)


def newcomers_part(dataset: str, table: Table, options: argparse.Namespace) -> Iterator[Figure]:
    from newcomers import figures as of_newcomers
    from newcomers import measured, settings

    usual = argparse.ArgumentParser()
    settings(usual)
    chosen = usual.parse_args(["--policy", options.left_out_policy])
    yield from of_newcomers(f"{dataset}, {chosen.policy}", [measured(table, chosen)])


def floors_part(dataset: str, table: Table, options: argparse.Namespace) -> Iterator[Figure]:
    from guarantee import measure

    yield from measure(dataset, table.split("train").outcomes, policy=options.left_out_policy)


PARTS: dict[str, Callable[[str, Table, argparse.Namespace], Iterator[Figure]]] = {
    "policies": policies_part,
    "domains": domains_part,
    "floors": floors_part,
    "newcomers": newcomers_part,
    "learning": learning_part,
    "disguise": disguise_part,
    "weights": weights_part,
    "calibration": calibration_part,
    "neural": neural_part,
}
BY_NAME = ("disguise", "weights", "calibration", "neural")
USUAL = tuple(part for part in PARTS if part not in BY_NAME)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--tables", nargs="+", default=list(GOALS))
    parser.add_argument("--policies", nargs="+", default=list(POLICIES))
    parser.add_argument("--parts", nargs="+", default=list(USUAL), choices=PARTS)
    parser.add_argument("--left-out-policy", default="linear", help="of the parts that train many times")
    parser.add_argument("--domains-most", type=int, default=MOST, help="that are left out, the largest")
    parser.add_argument("--name", default="quality", help="of the file in build/bench")
    options = parser.parse_args()
    found: list[Figure] = []
    for dataset, table in embedded_tables(options.tables):
        for part in options.parts:
            for figure in PARTS[part](dataset, table, options):
                found.append(figure)
                keep(options.name, found)  # what is known by then outlives a run that is stopped
    report(options.name, found)


if __name__ == "__main__":
    main()
