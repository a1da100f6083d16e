"""Many policies on the same splits, each table by itself: ranked by what they gain over the static mix.

All are judged on the same resamples of the same held-out prompts, so the difference of two is paired: much of what
luck did to one it did to the other.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from router.artifact import EncoderStamp
from router.errors import PointsmanError
from router.policy import Policy
from router.types import Floats
from training.data import TRAIN, VAL, Table
from training.evaluate import Point, evaluated
from training.fit import build, fit
from training.interval import Interval, interval
from training.jobs import Shared
from training.run_folder import code_version
from training.true_domain import TRUE_DOMAIN, TrueDomain

RESAMPLED_WITH = 0  # the seed of the resamples, whatever the policies' seeds
KEPT = ("gain", "share", "own gain", "area oracle", "area static_mix")  # figures whose resamples are kept


@dataclass(frozen=True)
class Contender:
    """A policy to be trained: `params` are those that were set, the others have their defaults."""

    kind: str
    params: Mapping[str, Any]
    seed: int

    @property
    def name(self) -> str:
        given = (
            f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in self.params.items()
        )
        return " ".join((self.kind, *given))


@dataclass(frozen=True)
class Job:
    """One contender on one table, whose rows to learn from and to judge on are in `parts`: a pair of `Table`s.

    With `assure`, the policy is judged with the steps that follow it in an artifact.
    """

    dataset: str
    digest: str
    contender: Contender
    encoder: EncoderStamp | None
    parts: Shared
    assure: bool = False

    @property
    def about(self) -> dict[str, Any]:
        """What the result depends on."""
        return {
            "dataset": self.dataset,
            "data": self.digest,
            "encoder": self.encoder.model_dump() if self.encoder else None,
            **asdict(self.contender),
            "assure": self.assure,
            "resampled_with": RESAMPLED_WITH,
            "code": code_version(),
        }


def parts_of(table: Table) -> tuple[Table, Table]:
    """The rows to learn from and those to judge on. Raises `DataError` where there are none of either."""
    return table.split(TRAIN), table.split(VAL)


def judge(job: Job) -> dict[str, Any]:
    """Trains and judges: `report`, `resamples`, `train_s`, `megabytes`; or else why not, as `failed`."""
    contender = job.contender
    table, held_out = job.parts.get()
    try:
        policy = _built(contender)
        began = time.perf_counter()
        assure = job.assure and contender.kind != TRUE_DOMAIN
        artifact = fit(policy, table, job.encoder, contender.seed, assure=assure)
        train_s = time.perf_counter() - began
        policy = artifact.restore(policy) if assure else policy
        rng = np.random.default_rng(RESAMPLED_WITH)
        report, figures = evaluated(policy, held_out.outcomes, rng, dataset=job.dataset)
    except PointsmanError as error:
        return {"failed": str(error)}
    except ModuleNotFoundError as error:
        return {"failed": f"it needs {error.name}, which is not installed", "missing": error.name}
    return {
        "report": report.as_json(),
        "resamples": {name: figures[name].tolist() for name in KEPT},
        "train_s": train_s,
        "megabytes": sum(array.nbytes for array in policy.state().values()) / 1e6,
    }


def _built(contender: Contender) -> Policy:
    if contender.kind == TRUE_DOMAIN:
        return TrueDomain()
    return build(contender.kind, contender.params, contender.seed)


@dataclass(frozen=True)
class Standing:
    """A policy's figures, means over its seeds; `behind` is its gain less the first's, on the same resamples."""

    policy: str
    seeds: tuple[int, ...]
    gain: Interval
    share: Interval
    own_cost_gain: Interval
    behind: Interval
    brier: float
    ece_equal_mass: float
    train_s: float


@dataclass(frozen=True)
class Comparison:
    """`standings` best first, yardsticks among them in `yardsticks`; `differences[a][b]`: the gain of a less b's.

    The bounds are None where this is the mean of several tables.
    """

    dataset: str
    queries: int
    experts: int | None
    cheapest: Point | None
    best: Point | None
    static_mix: float | None
    oracle: Interval  # its gain
    standings: list[Standing]
    yardsticks: list[Standing]
    differences: Mapping[str, Mapping[str, Interval]]


Found = Sequence[tuple[Contender, Mapping[str, Any]]]


def compared(dataset: str, results: Found) -> Comparison:
    """Of one table; `results` are those of `judge` that did not fail, at least one."""
    report = results[0][1]["report"]
    static_mix = results[0][1]["resamples"]["area static_mix"]
    paired = all(result["resamples"]["area static_mix"] == static_mix for _, result in results)
    assert paired, "policies were judged on different resamples"
    runs: dict[str, list[tuple[Contender, Mapping[str, Any]]]] = {}
    for contender, result in results:
        runs.setdefault(contender.name, []).append((contender, result))
    gains = {name: _mean(found, "gain") for name, found in runs.items()}
    standings = _ranked(gains, {name: _facts(found) for name, found in runs.items()})
    oracle = np.array(results[0][1]["resamples"]["area oracle"])
    return Comparison(
        dataset=dataset,
        queries=report["queries"],
        experts=len(report["experts"]),
        cheapest=Point(**report["cheapest"]),
        best=Point(**report["best"]),
        static_mix=report["area"]["static_mix"]["value"],
        oracle=interval(oracle - np.array(static_mix)),
        **_sides(standings),
        differences=_differences(gains),
    )


def averaged(tables: Mapping[str, Found], comparisons: Sequence[Comparison]) -> Comparison:
    """The mean over tables, of the policies, at least one, that were judged on each.

    The tables' resamples are independent, so their means are resamples of the mean.
    """
    names = set.intersection(*({contender.name for contender, _ in results} for results in tables.values()))
    gains: dict[str, Floats] = {}
    facts: dict[str, dict[str, Any]] = {}
    for name in sorted(names):
        each = [[(c, r) for c, r in results if c.name == name] for results in tables.values()]
        gains[name] = np.mean([_mean(found, "gain") for found in each], axis=0)
        parts = [_facts(found) for found in each]
        facts[name] = {key: np.mean([part[key] for part in parts], axis=0) for key in parts[0] if key != "seeds"}
        facts[name]["seeds"] = parts[0]["seeds"]
    oracles = [
        np.array(results[0][1]["resamples"]["area oracle"]) - results[0][1]["resamples"]["area static_mix"]
        for results in tables.values()
    ]
    return Comparison(
        dataset=f"mean of {len(tables)} tables",
        queries=sum(comparison.queries for comparison in comparisons),
        experts=None,
        cheapest=None,
        best=None,
        static_mix=None,
        oracle=interval(np.mean(oracles, axis=0)),
        **_sides(_ranked(gains, facts)),
        differences=_differences(gains),
    )


def _mean(found: Found, figure: str) -> Floats:
    """Of a figure over the seeds, on the sample and on each resample."""
    return np.asarray(np.mean([result["resamples"][figure] for _, result in found], axis=0))


def _facts(found: Found) -> dict[str, Any]:
    return {
        "seeds": tuple(contender.seed for contender, _ in found),
        "share": _mean(found, "share"),
        "own_cost_gain": _mean(found, "own gain"),
        "brier": np.mean([result["report"]["brier"] for _, result in found]),
        "ece_equal_mass": np.mean([result["report"]["ece_equal_mass"] for _, result in found]),
        "train_s": np.mean([result["train_s"] for _, result in found]),
    }


def _ranked(gains: Mapping[str, Floats], facts: Mapping[str, Mapping[str, Any]]) -> list[Standing]:
    order = sorted(gains, key=lambda name: -gains[name][0])
    first = next((name for name in order if name != TRUE_DOMAIN), order[0])
    return [
        Standing(
            policy=name,
            seeds=facts[name]["seeds"],
            gain=interval(gains[name]),
            share=interval(facts[name]["share"]),
            own_cost_gain=interval(facts[name]["own_cost_gain"]),
            behind=interval(gains[name] - gains[first]),
            brier=float(facts[name]["brier"]),
            ece_equal_mass=float(facts[name]["ece_equal_mass"]),
            train_s=float(facts[name]["train_s"]),
        )
        for name in order
    ]


def _sides(standings: Sequence[Standing]) -> dict[str, list[Standing]]:
    """The policies, and what they are only held against."""
    return {
        "standings": [standing for standing in standings if standing.policy != TRUE_DOMAIN],
        "yardsticks": [standing for standing in standings if standing.policy == TRUE_DOMAIN],
    }


def _differences(gains: Mapping[str, Floats]) -> dict[str, dict[str, Interval]]:
    return {one: {other: interval(gains[one] - gains[other]) for other in gains if other != one} for one in gains}
