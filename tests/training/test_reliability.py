"""Predictions taken at their word: bins, errors and their intervals."""

import numpy as np
import pytest

from training.reliability import calibration, reliability


def world(shift: float, rows: int = 600) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    chance = rng.uniform(0.2, 0.8, size=(rows, 3))
    return chance + shift, (rng.random(chance.shape) < chance).astype(float)


def test_true_chances_lie_on_the_diagonal() -> None:
    found = reliability(*world(0.0), np.random.default_rng(0))
    inside = [part.observed.low <= part.predicted <= part.observed.high for part in found.bins]
    assert sum(inside) >= 0.8 * len(inside)
    assert found.ece.low < 0.02


def test_a_shift_is_the_calibration_error_and_shows_in_every_bin() -> None:
    found = reliability(*world(0.2), np.random.default_rng(0))
    for error in (found.ece, found.ece_equal_mass):
        assert error.low <= error.value <= error.high
        assert error.value == pytest.approx(0.2, abs=0.03)
        assert error.low <= 0.2 <= error.high
    assert all(part.predicted - part.observed.value > 0.05 for part in found.bins)


def test_the_bins_hold_all_observed_answers_and_no_other() -> None:
    predicted, observed = world(0.0)
    observed[::2, 1] = np.nan
    found = reliability(predicted, observed, np.random.default_rng(0))
    assert sum(part.answers for part in found.bins) == 600 * 2 + 300
    brier, ece = calibration(predicted, observed)
    assert found.brier.value == pytest.approx(brier)
    assert found.ece_equal_mass.value == pytest.approx(ece)
    assert found.brier.low < brier < found.brier.high


def test_fewer_answers_than_bins_leave_bins_out() -> None:
    found = reliability(np.array([[0.2, 0.7]]), np.array([[0.0, 1.0]]), np.random.default_rng(0))
    assert [part.answers for part in found.bins] == [1, 1]
    assert found.ece.value == pytest.approx(0.25)
