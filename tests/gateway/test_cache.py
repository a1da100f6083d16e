"""The exact cache: the same request has its answer again, at no cost, and nothing else has."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from redis_process import RedisProcess
from serving import HELLO, Gateway, World, until
from upstream import answers, chunk, close, completion, refuses, sse, streams


def start(world: World, **changes: Any) -> Gateway:
    """With a cache, and a wait for Redis that a busy machine keeps to."""
    return world.start(**{"cache": {}, "ledger": {**world.settings["ledger"], "wait_ms": 500}, **changes})


@pytest.fixture(autouse=True)
def forgotten(redis_url: str) -> None:
    """What other tests kept is gone: they share a Redis."""
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter("pointsman:{ledger}:answer:*"):
            client.delete(key)


def asked(world: World) -> int:
    return len(world.small.requests) + len(world.large.requests)


def told(answer: httpx.Response) -> tuple[str, str]:
    return answer.headers["x-pointsman-cache"], answer.headers["x-pointsman-expert"]


def warmed(gateway: Gateway, **body: Any) -> httpx.Response:
    """The first answer, once it is found again: it is kept behind its answer."""
    first = gateway.chat(**body)
    until(lambda: told(gateway.chat(**body))[0] == "hit", "the hit")
    return first


def test_without_a_cache_nothing_says_so(gateway: Gateway) -> None:
    assert "x-pointsman-cache" not in gateway.chat().headers and gateway.service.cache is None


@pytest.mark.parametrize("model", ["small", "auto:cheap", "auto:best"])
@pytest.mark.parametrize("streamed", [False, True])
def test_the_same_request_has_the_same_answer_at_no_cost(model: str, streamed: bool, world: World) -> None:
    gateway = start(world)
    first = warmed(gateway, model=model, stream=streamed)
    assert told(first)[0] == "miss"
    before = asked(world)
    again = gateway.send(
        # keys in another order are the same request
        b'{"stream":%s,"messages":[{"content":"Say hello.","role":"user"}],"model":"%s"}'
        % (str(streamed).lower().encode(), model.encode())
    )
    assert told(again) == ("hit", "cache:exact") and again.headers["x-pointsman-cost-usd"] == "0.000000000"
    assert again.content == first.content and again.headers["content-type"] == first.headers["content-type"]
    assert asked(world) == before
    if streamed:
        assert again.content.endswith(b"data: [DONE]\n\n")


def test_the_decision_shows_the_null_expert_among_the_candidates(world: World) -> None:
    gateway = start(world)
    body = {"model": "auto:best", "messages": HELLO}
    assert gateway.post("/v1/route", **body).json()["expert"] == "large"
    warmed(gateway, model="auto:best")
    decision = gateway.post("/v1/route", **body).json()
    best = decision["candidates"][0]
    assert decision["expert"] == best["expert"] == "cache:exact" and "kept" in decision["reason"]
    assert (best["cost_usd"], best["propensity"]) == (0, 1) and best["quality"] == pytest.approx(0.9, abs=0.05)
    assert sum(candidate["propensity"] for candidate in decision["candidates"]) == pytest.approx(1)


def test_a_worse_experts_answer_does_not_keep_a_better_one_from_being_asked(world: World) -> None:
    gateway = start(world)
    world.large.script(refuses(500))
    assert gateway.chat("auto:best").json()["model"] == "small"

    def asked_again() -> bool:
        decision = gateway.post("/v1/route", model="auto:best", messages=HELLO).json()
        lines = {one["expert"]: one for one in decision["candidates"]}
        return (
            decision["expert"] == "large" and "under the best" in lines.get("cache:exact", {"reason": ""})["reason"]
        )

    until(asked_again, "the kept answer being ruled out")
    answer = gateway.chat("auto:best")
    assert (answer.json()["model"], told(answer)) == ("large", ("miss", "large"))


def test_a_kept_answer_is_given_where_no_expert_is_healthy(world: World) -> None:
    gateway = start(world)
    warmed(gateway, model="auto:cheap")
    world.small.always = world.large.always = refuses(500)
    for _ in range(8):
        gateway.chat("auto:cheap", messages=[{"role": "user", "content": "another"}])
    assert gateway.chat("auto:cheap", messages=[{"role": "user", "content": "another"}]).status_code == 503
    assert told(gateway.chat("auto:cheap")) == ("hit", "cache:exact")


def test_cache_control_is_honoured(world: World) -> None:
    gateway = start(world)

    def state(control: str, text: str = "x") -> str:
        messages = [{"role": "user", "content": text}]
        return told(gateway.chat("small", headers={"cache-control": control}, messages=messages))[0]

    assert state("no-store") == state("no-store") == "bypass"
    assert state("max-age=60") == "miss", "no-store kept nothing"
    until(lambda: state("max-age=60") == "hit")
    assert state("max-age=0") == state("max-age=soon") == "miss"
    assert state("No-Cache") == "bypass"
    assert state("no-cache", "y") == "bypass"
    until(lambda: state("max-age=60", "y") == "hit", "no-cache is kept")


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.1},
        {"n": 2},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
    ],
)
def test_what_has_more_than_one_answer_is_passed_by(fields: dict[str, Any], world: World) -> None:
    gateway = start(world)
    assert {told(gateway.chat("small", **fields)) for _ in range(3)} == {("bypass", "small")}


def test_sampled_answers_are_kept_where_that_is_configured(world: World) -> None:
    warmed(start(world, cache={"sampled": True}), model="small", temperature=0.5)


CUT = [sse(chunk("Hel", role="assistant")), sse(chunk(finish="length")), b"data: [DONE]\n\n"]


@pytest.mark.parametrize(
    ("streamed", "behave"),
    [
        (False, refuses(400)),
        (False, answers(completion(choices=[{"index": 0, "message": {}, "finish_reason": "length"}]))),
        (False, answers(completion("x" * 2000))),
        (True, streams(sse(chunk("Hel", role="assistant")), then=close)),
        (True, streams(*CUT)),
        (True, streams(sse(chunk("x" * 2000, role="assistant")), sse(chunk(finish="stop")), b"data: [DONE]\n\n")),
    ],
)
def test_failures_cuts_and_what_is_too_large_are_never_kept(streamed: bool, behave: Any, world: World) -> None:
    gateway = start(world, cache={"max_entry_bytes": 1024})
    world.small.always = behave
    for _ in range(3):
        gateway.chat("small", stream=streamed)
        gateway.chat("large", messages=[{"role": "user", "content": "time for a write"}])
    assert len([one for one in world.small.requests if b"hello" in one.body]) == 3


@pytest.mark.parametrize(("scope", "second"), [("key", "miss"), ("gateway", "hit")])
def test_an_answer_is_for_its_key_alone_unless_configured(
    scope: str, second: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANN", "sk-ann-key")
    monkeypatch.setenv("BOB", "sk-bob-key")
    keys = [{"name": "ann", "env": "ANN"}, {"name": "bob", "env": "BOB"}]
    gateway = start(world, cache={"scope": scope}, auth={"keys": keys})
    warmed(gateway, model="small", headers={"authorization": "Bearer sk-ann-key"})
    assert told(gateway.chat("small", headers={"authorization": "Bearer sk-bob-key"}))[0] == second


def test_a_frozen_redis_means_misses_and_hardly_a_wait(world: World, tmp_path: Path) -> None:
    own = RedisProcess(tmp_path)
    own.start()
    try:
        gateway = start(world, ledger={"url": own.url})
        warmed(gateway, model="small")
        own.freeze()
        frozen = gateway.chat("small")
        assert told(frozen)[0] == "miss" and float(frozen.headers["x-pointsman-overhead-ms"]) < 900
        own.thaw()
        until(lambda: told(gateway.chat("small"))[0] == "hit", "the hit after the pause")
        gateway.stop()
        world.running.remove(gateway)
    finally:
        own.thaw()
        own.kill()
