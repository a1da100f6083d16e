"""The semantic cache: a question close enough to one that was answered has its answer, and nothing else has."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis
from redis_process import RedisProcess
from serving import Gateway, Loop, World, new_world, until

from gateway.app import create_app
from policies.linear import Linear
from router.artifact import EncoderStamp, pack, save
from router.config import EncoderSettings, parse_settings
from router.embedding import Encoder
from router.errors import ConfigError
from router.semantic import Calibration, read_calibration, write_calibration
from router.types import Outcomes, Queries

FRANCE = "What is the capital city of the country of France, please?"
AGAIN = "Could you tell me which is the capital city of the country of France?"
SPAIN = "What is the capital city of the country of Spain, please?"
LOOSE = {"semantic": {"threshold": 0.8}}


@pytest.fixture(scope="module")
def stamp() -> EncoderStamp:
    encoder = Encoder(EncoderSettings())
    encoder.load()
    encoder.close()
    return EncoderStamp(name=encoder.name, revision=encoder.revision, dimension=encoder.dimension)


@pytest.fixture(scope="module")
def reading(stamp: EncoderStamp, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that reads the query; it foretells much of the large expert and some of the small one."""
    vectors = np.random.default_rng(0).normal(size=(60, stamp.dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = Queries(embeddings=vectors, input_tokens=np.ones(60, np.float32))
    right = np.arange(60)[:, None] % 10 < np.array([5, 9])
    policy = Linear().fit(
        Outcomes(
            queries=queries,
            experts=("tier:small", "tier:large"),
            quality=right.astype(float),
            cost_usd=np.full((60, 2), 1e-4),
            output_tokens=np.full((60, 2), 50.0),
        )
    )
    folder = tmp_path_factory.mktemp("policies") / "reading"
    save(pack(policy, queries, encoder=stamp, data_digest="test", metrics={}), folder)
    return folder


@pytest.fixture
def world(other_loop: Loop, reading: Path, redis_url: str) -> Iterator[World]:
    with redis.Redis.from_url(redis_url) as client:
        for pattern in ("answer", "alike"):
            for key in client.scan_iter(f"pointsman:{{ledger}}:{pattern}:*"):
                client.delete(key)
    with new_world(other_loop, reading, redis_url) as world:
        yield world


def start(world: World, semantic: Any = LOOSE, **changes: Any) -> Gateway:
    return world.start(**{"cache": semantic, "ledger": {**world.settings["ledger"], "wait_ms": 500}, **changes})


def ask(gateway: Gateway, text: str, *before: dict[str, Any], headers: Any = None, **body: Any) -> httpx.Response:
    messages = [*before, {"role": "user", "content": text}]
    answer = gateway.chat(**{"model": "auto:cheap", "messages": messages, "headers": headers, **body})
    assert answer.status_code == 200, answer.text
    return answer


def state(answer: httpx.Response) -> str:
    return answer.headers["x-pointsman-cache"]


def warmed(gateway: Gateway, *before: dict[str, Any], **body: Any) -> httpx.Response:
    first = ask(gateway, FRANCE, *before, **body)
    until(lambda: state(ask(gateway, FRANCE, *before, **body)) == "hit", "the hit")
    return first


@pytest.mark.parametrize("streamed", [False, True])
def test_a_paraphrase_has_the_answer_at_no_cost(streamed: bool, world: World) -> None:
    gateway = start(world)
    first = warmed(gateway, stream=streamed)
    before = len(world.small.requests)
    again = ask(gateway, AGAIN, stream=streamed)
    assert (state(again), again.headers["x-pointsman-expert"]) == ("semantic", "cache:semantic")
    assert again.headers["x-pointsman-cost-usd"] == "0.000000000"
    assert again.content == first.content and len(world.small.requests) == before


def test_the_decision_reckons_with_a_wrong_answer(world: World) -> None:
    gateway = start(world, {"semantic": {"threshold": 0.8, "wrong_share": 0.1}})
    warmed(gateway)
    said = {"messages": [{"role": "user", "content": AGAIN}]}
    decision = gateway.post("/v1/route", model="auto:cheap", **said).json()
    lines = {one["expert"]: one for one in decision["candidates"]}
    assert decision["expert"] == "cache:semantic" and "close to this one" in decision["reason"]
    assert lines["cache:semantic"]["quality"] == pytest.approx(0.9 * lines["small"]["quality"], abs=1e-4)
    # what the small expert wrote is not worth what the large one would write
    best = gateway.post("/v1/route", model="auto:best", **said).json()
    assert best["expert"] == "large"


@pytest.mark.parametrize(
    ("text", "body"),
    [
        (SPAIN, {}),
        (AGAIN + " In 2 words.", {}),
        (AGAIN.replace("is the", "is not the"), {}),
        (AGAIN, {"max_tokens": 5}),
        (AGAIN, {"model": "auto:balanced"}),
        (AGAIN, {"model": "small"}),
        (AGAIN, {"routing": {"quality_floor": 0.1}}),
        (AGAIN, {"routing": {"exclude": ["large"]}}),
        (AGAIN, {"stream": True}),
        (AGAIN + " and" * 400, {}),
    ],
)
def test_nothing_but_the_words_may_differ(text: str, body: dict[str, Any], world: World) -> None:
    gateway = start(world, {"semantic": {"threshold": 0.3}})
    warmed(gateway)
    assert state(ask(gateway, AGAIN)) == "semantic"
    assert state(ask(gateway, text, **body)) == "miss"


def test_earlier_turns_and_the_system_prompt_must_be_equal(world: World) -> None:
    gateway = start(world)
    system = {"role": "system", "content": "You are a teacher of geography."}
    warmed(gateway, system)
    assert state(ask(gateway, AGAIN)) == "miss"
    assert state(ask(gateway, AGAIN, {**system, "content": "You are a pirate."})) == "miss"
    assert state(ask(gateway, AGAIN, system)) == "semantic"
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    # its vector is of the turns before it as well
    assert state(ask(gateway, AGAIN, *turns)) == "miss"


def test_cache_control_is_honoured(world: World) -> None:
    gateway = start(world)
    warmed(gateway)

    def controlled(control: str) -> str:
        return state(ask(gateway, AGAIN, headers={"cache-control": control}))

    assert controlled("no-store") == "bypass"
    assert controlled("max-age=0") == "miss"
    assert controlled("max-age=60") in ("hit", "semantic")
    assert controlled("no-cache") == "bypass"


def test_an_answer_is_for_its_key_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANN", "sk-ann-key")
    monkeypatch.setenv("BOB", "sk-bob-key")
    gateway = start(world, auth={"keys": [{"name": "ann", "env": "ANN"}, {"name": "bob", "env": "BOB"}]})
    ann, bob = ({"authorization": f"Bearer sk-{name}-key"} for name in ("ann", "bob"))
    warmed(gateway, headers=ann)
    assert state(ask(gateway, AGAIN, headers=bob)) == "miss"
    assert state(ask(gateway, AGAIN + " ", headers=ann)) == "semantic"


def test_replicas_share_what_was_kept(world: World) -> None:
    one, other = start(world), start(world)
    warmed(one)
    assert state(ask(other, AGAIN)) == "semantic"
    # what is new since then is seen as well
    ask(one, FRANCE.replace("capital", "largest"))
    until(lambda: state(ask(other, AGAIN.replace("capital", "largest"))) == "semantic", "the hit on the other")


def test_the_newest_are_kept_and_what_is_over_is_forgotten(world: World, redis_url: str) -> None:
    gateway = start(world, {"semantic": {"threshold": 0.99, "entries": 3}})
    adjectives = ["red", "green", "blue", "black", "white", "grey"]
    for colour in adjectives:
        ask(gateway, f"Why is the painted house at the far end of the street so very {colour} today?")
    with redis.Redis.from_url(redis_url) as client:
        keys = [*client.scan_iter("pointsman:{ledger}:alike:*")]
        until(lambda: sum(client.exists(key) for key in client.scan_iter("pointsman:{ledger}:answer:*")) == 6)
        assert [client.xlen(key) for key in keys] == [3] and 0 < client.ttl(keys[0]) <= 3600
        newest = f"Why is the painted house at the far end of the street so very {adjectives[-1]} today??"
        assert state(ask(gateway, newest)) == "semantic"
        for key in client.scan_iter("pointsman:{ledger}:answer:*"):
            client.delete(key)
        assert state(ask(gateway, newest.replace("??", "!"))) == "miss"


def test_a_frozen_redis_means_misses(world: World, tmp_path: Path) -> None:
    own = RedisProcess(tmp_path)
    own.start()
    try:
        gateway = start(world, ledger={"url": own.url})
        warmed(gateway)
        own.freeze()
        frozen = ask(gateway, AGAIN)
        assert state(frozen) == "miss" and float(frozen.headers["x-pointsman-overhead-ms"]) < 900
        own.thaw()
        gateway.stop()
        world.running.remove(gateway)
    finally:
        own.thaw()
        own.kill()


def test_a_calibration_that_is_written_again_is_taken_anew_and_a_bad_one_refused(
    world: World, stamp: EncoderStamp, tmp_path: Path
) -> None:
    path = tmp_path / "cache.json"
    write_calibration(path, Calibration(0.8, 0.02, 0.015, 1, 400, 900, stamp.name, stamp.revision))
    settings = {"cache": {"semantic": {"calibration": str(path)}}}
    gateway = world.start(file=tmp_path / "pointsman.yaml", **settings)
    before = gateway.service.cache
    assert before is not None
    assert gateway.reload(world.having(**settings, policy={**world.settings["policy"], "preference": "best"}))
    assert gateway.service.cache is before, "another preference leaves the cache as it is"
    write_calibration(path, Calibration(0.9, 0.02, 0.015, 1, 400, 900, stamp.name, stamp.revision))
    assert gateway.reload(world.having(**settings, policy={**world.settings["policy"], "preference": "best"}))
    after = gateway.service.cache
    assert after is not None and after is not before
    write_calibration(path, Calibration(0.9, 0.02, 0.015, 1, 400, 900, "another", "1"))
    with pytest.raises(ConfigError, match="another"):
        gateway.reload(world.having(**settings))
    assert gateway.service.cache is after


def test_a_calibration_says_how_close_is_close_enough(world: World, stamp: EncoderStamp, tmp_path: Path) -> None:
    proven = Calibration(0.8, 0.02, 0.015, 1, 400, 900, stamp.name, stamp.revision)
    path = tmp_path / "cache.json"
    write_calibration(path, proven)
    assert read_calibration(path) == proven
    gateway = start(world, {"semantic": {"calibration": str(path)}})
    warmed(gateway)
    assert state(ask(gateway, AGAIN)) == "semantic"
    with pytest.raises(ConfigError, match=r"proves at most 0\.0150"):
        start(world, {"semantic": {"calibration": str(path), "wrong_share": 0.01}})
    write_calibration(path, Calibration(0.8, 0.02, 0.015, 1, 400, 900, "another", "1"))
    with pytest.raises(ConfigError, match="another"):
        start(world, {"semantic": {"calibration": str(path)}})
    path.write_text("{}")
    with pytest.raises(ConfigError, match="no calibration"):
        create_app(parse_settings({**world.settings, "cache": {"semantic": {"calibration": str(path)}}}))


def test_a_policy_that_embeds_nothing_has_no_semantic_cache(world: World, artifact: Path) -> None:
    with pytest.raises(ConfigError, match="does not read the query"):
        start(world, policy={"artifact": str(artifact)})


@pytest.mark.parametrize("given", [{}, {"threshold": 0.9, "calibration": "x"}, {"threshold": 1.5}])
def test_a_wrong_section_is_told(given: dict[str, Any], world: World) -> None:
    with pytest.raises(ConfigError, match=r"cache\.semantic"):
        parse_settings({**world.settings, "cache": {"semantic": given}})
