"""Conversations that stay with their expert, through running gateways on one Redis."""

from typing import Any

import pytest
import upstream
from redis_process import RedisProcess
from serving import Gateway, World, until

LONG = "Tell me of the history of bridges. " * 10


@pytest.fixture
def alone(world: World, redis_process: RedisProcess) -> World:
    """A world with a Redis of its own and time to wait for it; `large` is held only by what staying is worth."""
    world.settings["ledger"] = {"url": redis_process.url, "wait_ms": 1000}
    return world


def turns(count: int, first: str = LONG) -> list[dict[str, str]]:
    """A conversation at its `count`-th request."""
    said = [{"role": "user", "content": first}]
    for n in range(count - 1):
        said += [{"role": "assistant", "content": f"Answer {n}."}, {"role": "user", "content": f"Question {n}?"}]
    return said


def ask(gateway: Gateway, count: int = 1, model: str = "auto:best", first: str = LONG, **routing: Any) -> str:
    answer = gateway.chat(model, messages=turns(count, first), routing=routing)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-pointsman-expert"]


def shown(gateway: Gateway, count: int, model: str = "auto:cheap", **routing: Any) -> dict[str, Any]:
    found: dict[str, Any] = gateway.post("/v1/route", model=model, messages=turns(count), routing=routing).json()
    return found


def written(gateway: Gateway) -> None:
    until(lambda: not gateway.service.sessions._owed, "writing")


def sticky(alone: World, **settings: Any) -> Gateway:
    return alone.start(policy={**alone.settings["policy"], "sticky": {"margin": 1.0, **settings}})


def test_a_named_conversation_stays_and_says_why(alone: World) -> None:
    gateway = sticky(alone)
    assert ask(gateway, session="s") == "large"
    assert ask(gateway, 2, "auto:cheap", session="s") == "large"
    assert ask(gateway, 2, "auto:cheap", session="other") == "small"
    assert ask(gateway, 2, "auto:cheap") == "small"
    decision = shown(gateway, 3, session="s")
    assert decision["expert"] == "large" and decision["session"]["stays"] is True
    assert "the conversation stays with large" in decision["reason"]
    headers = {"x-pointsman-session": "s", "x-pointsman-explain": "1"}
    answer = gateway.chat("auto:cheap", messages=turns(3), headers=headers)
    assert "the conversation stays with large" in answer.headers["x-pointsman-reason"]
    assert answer.json()["pointsman"]["session"]["expert"] == "large"


def test_it_moves_where_another_is_worth_more_than_the_margin(alone: World) -> None:
    gateway = sticky(alone, margin=0.0)
    assert ask(gateway, session="s") == "large"
    decision = shown(gateway, 2, session="s")
    assert decision["expert"] == "small" and decision["session"]["stays"] is False
    assert "moves from large" in decision["reason"]


def test_what_was_sent_before_counts_as_cached_and_other_words_do_not(alone: World) -> None:
    gateway = sticky(alone)
    ask(gateway, session="s")
    cached = shown(gateway, 2, session="s")["session"]["cached_tokens"]
    assert 80 < cached < 110  # the 350 characters of the first message, by our rule of four
    changed = gateway.post(
        "/v1/route", model="auto", messages=turns(2, first="Another subject."), routing={"session": "s"}
    )
    assert changed.json()["session"]["cached_tokens"] == 0 and changed.json()["session"]["expert"] == "large"
    late = sticky(alone, cached_s=0)
    assert shown(late, 2, session="s")["session"]["cached_tokens"] == 0


def test_replicas_agree_and_one_that_missed_a_turn_asks_again(alone: World) -> None:
    one, two = sticky(alone), sticky(alone)
    assert ask(one, session="s") == "large"
    written(one)
    assert ask(two, 2, "auto:cheap", session="s") == "large"
    assert ask(two, 3, session="s", exclude=["large"]) == "small"  # and so the conversation moves there
    written(two)
    assert ask(one, 4, session="s") == "small"


def test_one_without_a_name_is_known_by_how_it_begins_where_that_is_asked_for(alone: World) -> None:
    plain = sticky(alone)
    assert ask(plain, sticky=True) == "large"
    assert ask(plain, 2, "auto:cheap", sticky=True) == "large"
    assert ask(plain, 2, "auto:cheap", first="Something else.", sticky=True) == "small"
    configured = sticky(alone, conversations=True)
    written(plain)
    assert ask(configured, 2, "auto:cheap") == "large"
    assert ask(configured, 2, "auto:cheap", sticky=False) == "small"


def test_callers_do_not_share_a_conversation(alone: World, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    for name in "ab":
        monkeypatch.setenv(f"POINTSMAN_TEST_{name}", f"key-{name}")
        keys.append({"name": name, "env": f"POINTSMAN_TEST_{name}"})
    policy = {**alone.settings["policy"], "sticky": {"margin": 1.0}}
    gateway = alone.start(policy=policy, auth={"keys": keys})

    def expert(key: str, model: str) -> str:
        headers = {"authorization": f"Bearer {key}"}
        answer = gateway.chat(model, messages=turns(1), routing={"session": "s"}, headers=headers)
        return str(answer.headers["x-pointsman-expert"])

    assert [expert("key-a", "auto:best"), expert("key-b", "auto:cheap"), expert("key-a", "auto:cheap")] == [
        "large",
        "small",
        "large",
    ]


def test_it_follows_to_the_expert_that_answered(alone: World) -> None:
    gateway = sticky(alone)
    alone.large.script(*[upstream.refuses(500, "no")] * 3)
    assert ask(gateway, session="s") == "small"
    assert shown(gateway, 2, "auto:best", session="s")["session"]["expert"] == "small"


def test_it_leaves_an_expert_at_its_limit(alone: World) -> None:
    experts = alone.settings["experts"]
    alone.settings["experts"] = [experts[0], {**experts[1], "limits": {"requests_per_minute": 1}}]
    gateway = sticky(alone)
    assert ask(gateway, session="s") == "large"
    answer = gateway.chat("auto:best", messages=turns(2), routing={"session": "s", "explain": True})
    assert answer.headers["x-pointsman-expert"] == "small"
    assert "moves from large: a limit or a budget passed it over" in answer.headers["x-pointsman-reason"]


def test_a_frozen_redis_costs_milliseconds_and_this_replica_goes_by_its_memory(
    alone: World, redis_process: RedisProcess
) -> None:
    alone.settings["ledger"]["wait_ms"] = 5
    gateway = sticky(alone)
    gateway.service.sessions._wait_s = 5.0
    assert ask(gateway, session="s") == "large"
    written(gateway)
    gateway.service.sessions._wait_s = 0.005
    redis_process.freeze()
    try:
        assert ask(gateway, 2, "auto:cheap", session="s") == "large"
        assert ask(gateway, 5, "auto:cheap", session="s") == "large"  # has missed turns: asks in vain
        assert gateway.service.sessions.degraded
        assert ask(gateway, 1, "auto:cheap", session="new") == "small"
    finally:
        redis_process.thaw()
    until(lambda: not gateway.service.sessions.degraded and not gateway.service.sessions._owed, "Redis coming back")


def test_foreign_data_under_a_conversations_key_begins_it_anew(alone: World, redis_process: RedisProcess) -> None:
    one = sticky(alone)
    ask(one, session="s")
    written(one)
    import redis

    with redis.Redis.from_url(redis_process.url) as client:
        (key,) = client.keys("pointsman:{ledger}:session:*")  # type: ignore[misc]
        assert 0 < client.ttl(key) <= 3600  # type: ignore[operator]
        assert LONG[:20].encode() not in client.get(key)  # type: ignore[operator]
        for foreign in (b"no json", b'["large"]', b'["large",-1,"x",1,1]', b'[1,1,"x",1,1]'):
            client.set(key, foreign)
            two = sticky(alone)
            assert shown(two, 2, session="s")["session"] is None
        client.delete(key)
        client.rpush(key, "a list")
        assert ask(sticky(alone), 2, "auto:cheap", session="s") == "small"


def test_memory_is_bounded_and_nothing_is_opened_without_a_session(alone: World) -> None:
    gateway = sticky(alone, entries=2)
    gateway.chat()
    assert gateway.service.sessions._task is None
    for n in range(4):
        ask(gateway, session=f"s{n}")
    assert len(gateway.service.sessions._seen) == 2
    assert ask(gateway, 2, "auto:cheap", session="s0") == "large"  # from Redis


def test_a_named_expert_leaves_the_conversation_where_it_is(alone: World) -> None:
    gateway = sticky(alone)
    ask(gateway, session="s")
    assert ask(gateway, 2, "small", session="s") == "small"
    assert shown(gateway, 3, session="s")["session"]["expert"] == "large"


def test_sticky_is_a_boolean(gateway: Gateway) -> None:
    assert gateway.chat(routing={"sticky": "yes"}).json()["error"]["param"] == "routing.sticky"
    assert gateway.chat(headers={"x-pointsman-sticky": "true"}).status_code == 200
