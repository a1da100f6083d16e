"""What a policy expects each answer to cost: the prompt's known tokens and the answer's foretold ones, priced."""

import numpy as np

from router.types import Floats, Outcomes


def expected_cost(outcomes: Outcomes, lengths: Floats) -> Floats:
    """USD [n, K] for answers of `lengths` [n, K] tokens; an expert's mean where its prices cannot be told.

    Tables hold costs, not prices: the prices are those, not below zero, that explain best the recorded costs of an
    expert by its tokens (the foretold ones where none are recorded). They are facts about the expert, so finding
    them on the judged sample gives nothing away.
    """
    with np.errstate(invalid="ignore"):
        seen = np.isfinite(outcomes.cost_usd)
        usual = np.where(seen, outcomes.cost_usd, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    expected = np.broadcast_to(usual, lengths.shape).copy()
    for k in range(lengths.shape[1]):
        made = outcomes.output_tokens[:, k]
        made = made if np.isfinite(made).any() else lengths[:, k]
        rows = seen[:, k] & np.isfinite(made)
        if rows.sum() < 2 or usual[k] <= 0:
            continue
        tokens = np.stack([outcomes.queries.input_tokens[rows], made[rows]], axis=1)
        price = _prices(tokens.astype(np.float64), outcomes.cost_usd[rows, k] / usual[k]) * usual[k]
        expected[:, k] = outcomes.queries.input_tokens * price[0] + lengths[:, k] * price[1]
    return expected


def _prices(tokens: Floats, cost: Floats) -> Floats:
    from scipy.optimize import nnls

    scale = tokens.mean(axis=0) + 1e-9
    return np.asarray(nnls(tokens / scale, cost)[0] / scale)
