"""Composition of Experts' second step: one expert for every category, under a budget for all of them together.

Composition of Experts (Jain et al., 2024) classifies a prompt first and looks its category's expert up.
"""

import numpy as np
from numpy.typing import NDArray

from router.errors import DataError
from router.types import Floats

MARGIN = 1e-3  # by which a category's expert leads those whom the budget leaves out


def assigned(quality: Floats, cost: Floats, share: Floats, budget: float) -> NDArray[np.intp]:
    """The expert [C] of each category: the highest mean quality whose mean cost is at most `budget`.

    `quality` and `cost` [C, K] are the experts' means by category, `share` [C] is how frequent a category is. An
    expert whose cost is NaN anywhere is never chosen. An integer programme, solved exactly. Raises `DataError`
    where no choice is within the budget, or no cost is known.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    categories, experts = quality.shape
    priced = np.isfinite(cost).all(axis=0)
    if not priced.any():
        raise DataError("a budget needs costs, and these outcomes have none")
    spent = (share[:, None] * np.where(priced, cost, 0.0)).ravel()
    least = float((share * cost[:, priced].min(axis=1)).sum())
    if least > budget * (1 + 1e-9):
        raise DataError(f"no choice of experts is within the budget of {budget:.3g} USD: the least is {least:.3g}")
    one_each = np.kron(np.eye(categories), np.ones(experts))
    found = milp(
        -(share[:, None] * quality).ravel(),
        integrality=np.ones(quality.size),
        bounds=Bounds(0, np.tile(priced, categories).astype(float)),
        # in budgets, since dollars to a call are too small for the solver's tolerances
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(spent / max(budget, 1e-30), ub=1 + 1e-9)],
    )
    assert found.x is not None, found.message
    return np.asarray(found.x.reshape(quality.shape).argmax(axis=1))


def led_by(chosen: NDArray[np.intp], quality: Floats) -> Floats:
    """`quality` [C, K] with everyone who is better than the chosen expert [C] of a category put just below it."""
    lead = quality[np.arange(len(quality)), chosen][:, None]
    led = np.minimum(quality, np.maximum(lead - MARGIN, 0.0))
    led[np.arange(len(quality)), chosen] = lead[:, 0]
    return np.asarray(led)
