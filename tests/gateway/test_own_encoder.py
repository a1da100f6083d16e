"""The gateway's own encoder answers embeddings and reranking within the caller's limits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis_process import RedisProcess
from serving import Gateway, Loop, World, new_world

from policies.linear import Linear
from router.artifact import EncoderStamp, pack, save
from router.config import EncoderSettings
from router.embedding import Encoder
from router.types import Outcomes, Queries

ASKED: dict[str, Any] = {"input": "a text", "query": "a text", "documents": ["one", "two"]}


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that reads the query, so that there is an encoder."""
    encoder = Encoder(EncoderSettings())
    encoder.load()
    encoder.close()
    stamp = EncoderStamp(name=encoder.name, revision=encoder.revision, dimension=encoder.dimension)
    vectors = np.random.default_rng(0).normal(size=(20, stamp.dimension)).astype(np.float32)
    outcomes = Outcomes(
        queries=Queries(embeddings=vectors, input_tokens=np.ones(20, np.float32)),
        experts=("tier:small", "tier:large"),
        quality=np.full((20, 2), 0.5),
        cost_usd=np.full((20, 2), 1e-4),
        output_tokens=np.full((20, 2), 50.0),
    )
    folder = tmp_path_factory.mktemp("policies") / "reading"
    save(pack(Linear().fit(outcomes), outcomes.queries, encoder=stamp, data_digest="test", metrics={}), folder)
    return folder


def encoding(world: World, redis_process: RedisProcess, **changes: Any) -> Gateway:
    return world.start(**{"ledger": {"url": redis_process.url, "wait_ms": 1000}, **changes})


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank"])
def test_its_answers_count_as_requests_and_tokens(
    path: str, other_loop: Loop, reading: Path, redis_process: RedisProcess
) -> None:
    with new_world(other_loop, reading, redis_process.url) as world:
        gateway = encoding(world, redis_process, limits={"requests_per_minute": 2, "tokens_per_minute": 1000})
        answers = [gateway.post(path, model="auto", **ASKED) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"
        assert int(answers[1].headers["x-ratelimit-remaining-tokens"]) < 1000


def test_a_budget_that_is_spent_does_not_keep_from_what_is_free(
    other_loop: Loop, reading: Path, redis_process: RedisProcess
) -> None:
    with new_world(other_loop, reading, redis_process.url) as world:
        gateway = encoding(world, redis_process, budget={"usd": 0.00001, "per": "day"})
        assert gateway.chat("small").status_code == 429
        assert gateway.post("/v1/embeddings", model="auto", **ASKED).status_code == 200
