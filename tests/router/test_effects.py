"""What experts do beyond what they do everywhere, and what it rests on."""

import numpy as np

from router.effects import estimated, held_out, learn, ranking_error


def test_more_belief_in_the_prior_moves_estimates_towards_the_mean() -> None:
    rng = np.random.default_rng(0)
    share, quality = np.eye(4)[rng.integers(4, size=60)], rng.random((60, 3))
    spread = [float(np.ptp(learn([share], quality, count).effects[0] @ [1, -1, 0])) for count in (0.1, 10.0, 1e6)]
    assert spread[0] > spread[1] > spread[2]


def test_what_all_experts_share_on_a_prompt_is_no_error_of_ranking() -> None:
    quality = np.array([[0.2, 0.6], [np.nan, 0.5]])
    assert ranking_error(quality + np.array([[0.3], [0.0]]), quality) < 1e-12
    assert ranking_error(np.array([[0.6, 0.2], [0.0, 0.5]]), quality) > 0.01


def test_more_evidence_makes_an_estimate_more_certain_and_keeps_it_in_range() -> None:
    quality, std = estimated(np.array([[1.2, 0.5, 0.5]]), np.array([[10.0, 10.0, 100.0]]))
    assert quality.tolist() == [[1.0, 0.5, 0.5]]
    assert std[0, 0] > 0 and std[0, 1] > std[0, 2]


def test_where_an_expert_was_seen_once_nothing_is_held_out() -> None:
    quality = np.ones((40, 2))
    assert held_out(quality, np.random.default_rng(0)) is not None
    quality[:, 1] = np.nan
    held = held_out(np.ones((40, 2)), np.random.default_rng(0))
    assert held is not None
    quality[np.flatnonzero(held)[0], 1] = 1.0
    assert held_out(quality, np.random.default_rng(0)) is None
