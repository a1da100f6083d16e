"""Bayesian regression in groups: the prior where nothing is seen, the observations where much is."""

import numpy as np

from router.belief import Belief, Group, believed


def test_without_observations_the_prior_stands() -> None:
    belief = believed([Group(np.zeros((0, 2)), 0.5, 0.3)], np.zeros(0), 0.2)
    assert np.allclose(belief.weights, 0.3)
    assert np.allclose(belief.covariance, 0.5 * np.eye(2))


def test_many_observations_leave_little_of_the_prior() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(4_000, 3))
    target = table @ [1.0, -2.0, 0.5] + 0.3 * rng.normal(size=4_000)
    belief = believed([Group(table, 1.0)], target, 0.09)
    assert np.allclose(belief.weights, [1.0, -2.0, 0.5], atol=0.03)
    assert np.sqrt(np.diag(belief.covariance)).max() < 0.01


def test_it_is_the_posterior_that_the_textbook_gives() -> None:
    rng = np.random.default_rng(1)
    table, target = rng.normal(size=(20, 4)), rng.normal(size=20)
    belief = believed([Group(table, 0.7, 0.1)], target, 0.4)
    precision = table.T @ table / 0.4 + np.eye(4) / 0.7
    assert np.allclose(np.linalg.inv(precision), belief.covariance)
    assert np.allclose(belief.weights, np.linalg.solve(precision, table.T @ target / 0.4 + 0.1 / 0.7))


def test_a_group_is_held_back_where_the_evidence_is_against_it() -> None:
    rng = np.random.default_rng(2)
    useful, useless = rng.normal(size=(60, 3)), rng.normal(size=(60, 50))
    target = useful @ np.array([2.0, -2.0, 2.0]) + rng.normal(size=60)
    free = believed([Group(useful, 1.0, free=True), Group(useless, 1.0, free=True)], target, 1.0)
    firm = believed([Group(useful, 1.0), Group(useless, 1.0)], target, 1.0)
    assert np.square(free.weights[3:]).sum() < 0.5 * np.square(firm.weights[3:]).sum()
    assert np.abs(free.weights[:3]).min() > 1.5


def test_sums_of_weights_are_believed_as_their_parts_are() -> None:
    belief = Belief(np.array([1.0, 2.0]), np.array([[0.2, 0.1], [0.1, 0.3]])).of(np.array([[1.0, 1.0]]))
    assert belief.weights.tolist() == [3.0]
    assert np.allclose(belief.covariance, [[0.7]])
