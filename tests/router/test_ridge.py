"""Ridge regression against plain refits."""

import numpy as np

from router.ridge import ridge


def test_leaving_one_out_equals_refitting_without_it() -> None:
    rng = np.random.default_rng(0)
    design, target = rng.normal(size=(30, 5)), rng.normal(size=(30, 2))
    target[:20, 1] = np.nan
    path = ridge(design, target, (0.1,))
    for row, k in ((4, 0), (25, 1)):
        rows = np.isfinite(target[:, k]) & (np.arange(30) != row)
        part = design[rows] - design[rows].mean(axis=0)
        penalty = 0.1 * np.isfinite(target[:, k]).sum()  # of all rows: leaving one out keeps the penalty
        weights = np.linalg.solve(part.T @ part + penalty * np.eye(5), part.T @ target[rows, k])
        expected = target[rows, k].mean() + (design[row] - design[rows].mean(axis=0)) @ weights
        assert np.isclose(path.honest[0, row, k], expected, atol=1e-8)


def test_a_row_that_was_not_observed_gets_the_plain_prediction() -> None:
    rng = np.random.default_rng(0)
    design, target = rng.normal(size=(30, 5)), rng.normal(size=(30, 1))
    target[:10] = np.nan
    path = ridge(design, target, (0.1,))
    assert np.allclose(path.honest[0, :10], design[:10] @ path.weights[0] + path.intercept[0])
