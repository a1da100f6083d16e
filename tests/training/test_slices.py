"""Parts of the queries: domains, and clusters by size."""

import numpy as np
import pytest

from training.curve import Sample
from training.slices import domain_labels, plays_at, tail_labels

EXPERTS = ("cheap", "large")


def sample() -> tuple[Sample, dict[str, np.ndarray]]:
    """Twelve sums, which `cheap` gets right, and four plays, which only `large` does; the policy knows it."""
    sums = np.arange(16) < 12
    quality = np.stack([sums, np.ones(16)], axis=1).astype(float)
    cost = np.tile([1.0, 4.0], (16, 1))
    found = Sample(quality=quality, cost=cost)
    return found, {"policy": found.choices(quality), "oracle": found.choices(quality)}


def test_each_part_has_its_own_quality_cost_and_experts() -> None:
    found, choices = sample()
    plays = plays_at(found, choices, 7 / 16)  # of 4: what choosing rightly costs
    sums, dramas = plays.slices(["sums"] * 12 + ["plays"] * 4, EXPERTS, np.random.default_rng(0))
    assert (sums.name, sums.queries, dramas.name, dramas.queries) == ("sums", 12, "plays", 4)
    assert (sums.policy.quality, sums.policy.cost_usd) == (1.0, 1.0)
    assert (dramas.policy.quality, dramas.policy.cost_usd) == (1.0, 4.0)
    assert dramas.chosen == {"large": 1.0}
    assert dramas.static_mix.cost_usd == pytest.approx(1.75)
    assert dramas.gain.value == pytest.approx(0.75)
    assert (dramas.above_best.value, dramas.best.quality) == (0.0, 1.0)
    assert dramas.oracle == dramas.policy


def test_a_budget_between_two_choices_is_met_on_average() -> None:
    found, choices = sample()
    plays = plays_at(found, choices, 0.3)
    for name in ("policy", "oracle", "static_mix"):
        assert plays.systems[name][0].mean() == pytest.approx(1.2)
    assert plays.sent.sum(axis=1) == pytest.approx(np.ones(16))


def test_a_budget_that_buys_nothing_buys_the_cheapest() -> None:
    found, choices = sample()
    assert plays_at(found, choices, 0.01).systems["policy"][0].mean() == pytest.approx(1.0)


def test_small_domains_are_put_together_and_the_nameless_named() -> None:
    assert domain_labels(["a"] * 10 + ["b", "c", ""]) == ["a"] * 10 + ["(3 smaller domains)"] * 3
    assert domain_labels(["a"] * 10 + ["b"]) == ["a"] * 10 + ["b"]
    assert domain_labels([""] * 10) == ["(no domain)"] * 10


def test_the_tail_is_what_lies_in_small_clusters() -> None:
    rng = np.random.default_rng(0)
    sizes = [120, 60, 40, 8, 7, 5]
    centres = np.repeat(20 * rng.normal(size=(len(sizes), 8)), sizes, axis=0)
    vectors = centres + rng.normal(size=centres.shape)
    labels = np.array(tail_labels(vectors, np.random.default_rng(0)))
    assert set(labels) == {"head", "medium", "tail"}
    assert (labels[-20:] == "tail").all()
    assert (labels[:100] != "tail").mean() > 0.5
