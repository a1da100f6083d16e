"""The price of quality that lands a budget, and the periods it lands on."""

from datetime import UTC, datetime

import numpy as np
import pytest

from router.config import parse_settings
from router.errors import ConfigError
from router.ledger.pace import left_s
from router.objective import utility
from router.pacing import Forecast, Pacer, Tariff

DAY_S = 86_400.0
COST = np.array([0.001, 0.004, 0.02])


def estimates(rng: np.random.Generator, count: int) -> np.ndarray:
    """The dearer the better, by how much differs from query to query."""
    worth = rng.random(count)[:, None] * np.array([0.0, 0.3, 0.5])
    return np.asarray(0.4 + worth)


def tariff() -> Tariff:
    quality = estimates(np.random.default_rng(1), 2_000)
    found = Tariff.of(quality, np.broadcast_to(COST, quality.shape))
    assert found is not None
    return found


@pytest.mark.parametrize("mean_usd", [0.002, 0.006, 0.012])
def test_the_spend_of_a_day_whose_hours_are_known_lands_on_the_budget(mean_usd: float) -> None:
    rng, pacer, requests = np.random.default_rng(0), Pacer(tariff(), 0.0), 4_000
    spent = []
    for day in range(3):
        at = np.sort(DAY_S * rng.beta(3, 3, size=requests))  # few at night
        left = budget = requests * mean_usd
        # what a request comes to is not what was expected of it
        for now, quality, luck in zip(at, estimates(rng, requests), rng.gamma(2.0, 0.5, requests), strict=True):
            pacer.arrived(left, DAY_S - now, day * DAY_S + now)
            cost = luck * COST[utility(quality, COST, pacer.price).argmax()]
            left -= cost
            pacer.spent(cost)
        spent.append((budget - left) / budget)
    assert spent[-1] == pytest.approx(1.0, abs=0.03)


def test_a_tariff_says_what_price_spends_how_much() -> None:
    quality, found = estimates(np.random.default_rng(2), 4_000), tariff()
    for usd in (0.002, 0.008, 0.015):
        chosen = utility(quality, COST, found.price_at(usd)).argmax(axis=1)
        assert COST[chosen].mean() == pytest.approx(usd, rel=0.1)
    assert found.price_at(0.0) == pytest.approx(found.prices[-1])
    assert found.price_at(1.0) == pytest.approx(found.prices[0])
    assert Tariff.of(quality, np.zeros(quality.shape)) is None
    assert Tariff.of(quality, np.full(quality.shape, 0.1)) is None


def test_hours_are_foretold_by_the_days_before() -> None:
    forecast = Forecast(0.0)
    for day in range(3):
        for minute in range(60):
            forecast.arrived(day * DAY_S + 12 * 3_600 + minute * 60)
    evening = 2 * DAY_S + 20 * 3_600
    forecast.arrived(evening)
    assert forecast.coming(evening, 3 * 3_600) < 15
    assert forecast.coming(evening, 24 * 3_600) == pytest.approx(60, rel=0.3)
    assert forecast.coming(evening, 7 * DAY_S) == pytest.approx(7 * forecast.coming(evening, DAY_S), rel=1e-6)
    assert forecast.coming(evening, 0.0) == 1.0


@pytest.mark.parametrize(
    ("now", "per", "days"),
    [
        (datetime(2026, 2, 28, 12), "month", 0.5),
        (datetime(2028, 2, 28, 12), "month", 1.5),
        (datetime(2026, 11, 23), "week", 7.0),
        (datetime(2026, 11, 22, 18), "week", 0.25),
        (datetime(2026, 12, 31, 18), "day", 0.25),
    ],
)
def test_a_period_ends_at_midnight_utc(now: datetime, per: str, days: float) -> None:
    assert left_s(per, now.replace(tzinfo=UTC).timestamp()) == days * DAY_S


def test_a_rolling_budget_has_no_end_to_pace_towards() -> None:
    budget = {"usd": 5, "rolling_hours": 24, "pace": True}
    experts = [{"kind": "simulated", "name": "a", "price": {"input": 1, "output": 1}}]
    with pytest.raises(ConfigError, match="pace: needs a period that ends"):
        parse_settings({"experts": experts, "budget": budget})
