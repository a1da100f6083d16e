"""A policy between its bounds, on worlds whose truth is known."""

import json
from dataclasses import replace

import numpy as np
import pytest

from policies.static import Static
from policies.uniform import Uniform
from router.errors import DataError
from router.policy import Policy
from router.types import Floats, Outcomes, Queries
from training.evaluate import Report, comparable, evaluate, known_experts
from training.reliability import calibration


class Clairvoyant(Static):
    """Expects what it was told, row by row: an oracle, or any other table of estimates."""

    def __init__(self, expected: Floats) -> None:
        self.expected = expected

    def _predict(self, queries: Queries) -> tuple[Floats, Floats]:
        return self.expected, np.full(self.expected.shape, 0.1)


def world(rows: int = 400, seed: int = 0) -> tuple[Outcomes, Floats]:
    """`cheap` and `large` are each good at half of the prompts; returns the outcomes and the true chances."""
    rng = np.random.default_rng(seed)
    easy = rng.random(rows) < 0.5
    chance = np.stack([np.where(easy, 0.9, 0.2), np.full(rows, 0.9), np.full(rows, 0.3)], axis=1)
    outcomes = Outcomes(
        queries=Queries(embeddings=np.zeros((rows, 0), np.float32), input_tokens=np.full(rows, 50.0)),
        experts=("cheap", "large", "poor"),
        quality=(rng.random(chance.shape) < chance).astype(float),
        cost_usd=np.tile([0.001, 0.02, 0.005], (rows, 1)),
        output_tokens=np.full(chance.shape, 100.0),
    )
    return outcomes, chance


def judged(policy: Policy, outcomes: Outcomes) -> Report:
    return evaluate(policy.fit(outcomes), outcomes, np.random.default_rng(0), dataset="world")


def test_a_policy_that_knows_the_chances_lies_between_static_mix_and_oracle() -> None:
    outcomes, chance = world()
    report = judged(Clairvoyant(chance), outcomes)
    assert report.area["static_mix"].value < report.area["policy"].value < report.area["oracle"].value
    assert report.gain.low > 0
    assert 0.4 < report.share.value < 1.0
    assert report.half_cost["gain"].low > 0


def test_the_oracle_as_policy_goes_the_whole_way() -> None:
    outcomes, _ = world()
    assert judged(Clairvoyant(outcomes.quality), outcomes).share.value == pytest.approx(1.0)


def test_a_policy_that_knows_nothing_gains_nothing() -> None:
    outcomes, chance = world()
    shuffled = np.random.default_rng(0).permutation(chance)
    assert judged(Clairvoyant(shuffled), outcomes).gain.value < 0.01
    assert judged(Static(), outcomes).gain.value <= 1e-9
    assert judged(Uniform(), outcomes).gain.value <= 1e-9


def test_the_single_experts_are_named_with_their_means() -> None:
    outcomes, chance = world()
    report = judged(Clairvoyant(chance), outcomes)
    assert (report.cheapest.expert, report.best.expert) == ("cheap", "large")
    assert report.best.cost_usd == pytest.approx(0.02)
    assert report.best.quality == pytest.approx(outcomes.quality[:, 1].mean())
    assert report.random.quality == pytest.approx(outcomes.quality.mean())


def test_intervals_hold_the_value_and_narrow_with_more_queries() -> None:
    widths = []
    for rows in (100, 1600):
        outcomes, chance = world(rows)
        gain = judged(Clairvoyant(chance), outcomes).gain
        assert gain.low <= gain.value <= gain.high
        widths.append(gain.high - gain.low)
    assert widths[1] < 0.5 * widths[0]


def test_the_same_seed_gives_the_same_report() -> None:
    outcomes, chance = world(100)
    assert judged(Clairvoyant(chance), outcomes) == judged(Clairvoyant(chance), outcomes)


def test_a_report_is_json() -> None:
    outcomes, chance = world(100)
    report = judged(Clairvoyant(chance), outcomes)
    content = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert set(content["curves"]) >= {"static_mix", "policy", "oracle"}
    assert content["share"] == {"value": report.share.value, "low": report.share.low, "high": report.share.high}
    json.dumps(report.brief(), allow_nan=False)


def test_an_expert_without_costs_or_seldom_seen_is_left_out_with_the_reason() -> None:
    outcomes, _ = world()
    outcomes.cost_usd[:, 2] = np.nan
    outcomes.quality[100:, 0] = np.nan
    with pytest.raises(DataError, match=r"poor: no cost is known.*cheap|cheap: observed on 25%"):
        comparable(outcomes)
    outcomes, _ = world()
    outcomes.cost_usd[:, 2] = np.nan
    rows, kept, left_out = comparable(outcomes)
    assert kept.tolist() == [0, 1]
    assert list(left_out) == ["poor"]
    assert len(rows) == len(outcomes)


def test_queries_that_one_expert_has_not_answered_are_not_compared() -> None:
    outcomes, _ = world()
    outcomes.quality[:40, 1] = np.nan
    rows, kept, left_out = comparable(outcomes)
    assert rows[0] == 40
    assert len(kept) == 3
    assert not left_out


def test_a_traffic_log_cannot_be_compared_and_says_so() -> None:
    outcomes, _ = world()
    outcomes.quality[np.random.default_rng(0).integers(3, size=400)[:, None] != np.arange(3)] = np.nan
    with pytest.raises(DataError, match="on the same queries"):
        comparable(outcomes)


def test_experts_are_found_under_other_spellings_and_the_unknown_left_out() -> None:
    outcomes, _ = world(10)
    kept, columns, left_out = known_experts(outcomes, ("tier:small", "LARGE", "provider/cheap"))
    assert kept.experts == ("cheap", "large")
    assert columns == [2, 1]
    assert left_out == {"poor": "the policy does not know it"}


def test_a_policy_that_knows_fewer_than_two_of_the_experts_is_an_error() -> None:
    outcomes, _ = world(10)
    with pytest.raises(DataError, match=r"knows 1 of cheap, large, poor.*it knows: large, other"):
        known_experts(outcomes, ("large", "other"))


def test_calibration_of_true_chances_is_near_zero_and_of_wrong_ones_is_not() -> None:
    outcomes, chance = world(4000)
    brier, ece = calibration(chance, outcomes.quality)
    assert ece < 0.02
    assert brier == pytest.approx((chance * (1 - chance)).mean(), abs=0.01)
    assert calibration(np.full(chance.shape, 0.99), outcomes.quality)[1] > 0.3


def test_published_metrics_stand_beside_the_static_mix() -> None:
    outcomes, chance = world()
    report = judged(Clairvoyant(chance), outcomes)
    assert list(report.metrics) == ["AIQ", "APGR", "CPT(50)", "CPT(80)", "deferral area", "QNC", "arena score"]
    for metric in report.metrics.values():
        assert metric.policy.low <= metric.policy.value <= metric.policy.high
        assert metric.gain.value > 0
        assert metric.p < 0.05
    assert report.p_value == pytest.approx(1 / 1001)
    assert judged(Uniform(), outcomes).p_value > 0.9


def test_where_the_cheapest_is_the_best_nothing_can_be_recovered() -> None:
    outcomes, chance = world()
    outcomes.quality[:, 0] = 1.0
    report = judged(Clairvoyant(chance), outcomes)
    assert "APGR" not in report.metrics
    assert report.metrics["QNC"].policy.value == 1.0
    json.dumps(report.as_json(), allow_nan=False)


def test_a_report_says_who_was_chosen_and_how_sure_the_curves_are() -> None:
    outcomes, chance = world()
    report = judged(Clairvoyant(chance), outcomes)
    for preference in ("cheap", "balanced", "best"):
        assert sum(report.chosen[preference].values()) == pytest.approx(1.0)
    assert report.chosen["cheap"].get("large", 0.0) < report.chosen["best"]["large"]
    assert [point.expert for point in report.singles] == ["cheap", "poor", "large"]
    costs = [cost for cost, _, _ in report.bands["policy"]]
    assert (costs[0], costs[-1]) == pytest.approx((0.001, 0.02))
    assert all(low <= high for _, low, high in report.bands["gain"])


def test_queries_are_split_by_domain_and_by_cluster() -> None:
    outcomes, chance = world()
    assert (judged(Clairvoyant(chance), outcomes).domains, judged(Clairvoyant(chance), outcomes).tail) == ((), ())
    easy = chance[:, 0] > 0.5
    queries = replace(
        outcomes.queries,
        domains=tuple(np.where(easy, "sums", "plays").tolist()),
        embeddings=np.random.default_rng(0).normal(size=(400, 4)).astype(np.float32),
    )
    report = judged(Clairvoyant(chance), replace(outcomes, queries=queries))
    assert {part.name: part.queries for part in report.domains} == {"sums": easy.sum(), "plays": (~easy).sum()}
    assert [part.name for part in report.tail] == ["head", "medium", "tail"]
    sums = next(part for part in report.domains if part.name == "sums")
    assert sums.gain.value > 0
    mean = sum(part.policy.quality * part.queries for part in report.domains) / 400
    assert mean == pytest.approx(report.half_cost["policy"].value)


def test_queries_that_are_all_alike_have_no_tail() -> None:
    outcomes, chance = world(60)
    alike = replace(outcomes.queries, embeddings=np.ones((60, 4), np.float32))
    assert judged(Clairvoyant(chance), replace(outcomes, queries=alike)).tail == ()
