"""A paced budget through a running gateway."""

from typing import Any

import httpx
import pytest
from redis_process import RedisProcess
from serving import HELLO, World

from router.ledger import pace


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is always a day left."""
    monkeypatch.setattr(pace, "left_s", lambda per, now: 86_400.0)


def ask(url: str, model: str, **more: Any) -> str:
    answer = httpx.post(f"{url}/v1/chat/completions", json={"model": model, "messages": HELLO, **more})
    assert answer.status_code == 200, answer.text
    return answer.headers["x-pointsman-expert"]


@pytest.mark.usefixtures("day")
def test_a_tight_budget_asks_for_the_cheap_and_an_ample_one_for_the_good(
    world: World, redis_process: RedisProcess
) -> None:
    world.settings["ledger"] = {"url": redis_process.url, "wait_ms": 1000}
    tight = world.start(budget={"usd": 0.05, "per": "month", "pace": True}).url
    ample = world.start(budget={"usd": 5_000, "per": "week", "pace": True}).url
    assert [ask(tight, "auto"), ask(ample, "auto")] == ["small", "large"]
    # who states a preference or a floor is not paced
    assert ask(tight, "auto:best") == "large"
    assert ask(ample, "auto:cheap") == "small"
    assert ask(ample, "auto", routing={"quality_floor": 0.1, "preference": "cheap"}) == "small"
    shown = httpx.post(f"{tight}/v1/route", json={"model": "auto", "messages": HELLO}).json()
    assert shown["paced"] is True
    assert "the pace of a budget" in shown["reason"]
    plain = httpx.post(f"{tight}/v1/route", json={"model": "auto:best", "messages": HELLO}).json()
    assert plain["paced"] is False
