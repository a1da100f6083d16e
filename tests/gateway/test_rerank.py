"""`/v1/rerank`: passed to an expert that serves it, or answered by the local encoder's cosine."""

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest
from serving import Gateway, World, expert
from upstream import Upstream, answers, hang, refuses

from gateway.rerank import parse_rerank, rerank_locally

RESULTS = [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}]
ASKED: dict[str, Any] = {"query": "q", "documents": ["a", {"text": "b"}]}


@pytest.fixture
def ranking(world: World) -> Gateway:
    price = {"input": 4.0}
    ranker = expert("ranker", world.large.url, serves="rerank", tier="large", price=price)
    return world.start(experts=[expert("small", world.small.url), ranker])


@pytest.mark.parametrize("model", ["auto", "ranker"])
def test_an_expert_that_serves_it_is_asked_and_billed(model: str, ranking: Gateway, large: Upstream) -> None:
    large.script(answers({"results": RESULTS, "usage": {"prompt_tokens": 7, "total_tokens": 7}}))
    answer = ranking.post("/v1/rerank", model=model, top_n=2, **ASKED)
    assert answer.json()["results"] == RESULTS and answer.json()["model"] == "ranker"
    assert answer.headers["x-pointsman-expert"] == "ranker"
    assert answer.headers["x-pointsman-cost-usd"] == "0.000028000"
    received = large.requests[0]
    assert received.path.endswith("/rerank")
    assert received.json() == {"model": "up-model", "top_n": 2, **ASKED}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": ""}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": ["a", 1]}, "documents[1]"),
        ({"top_n": 0}, "top_n"),
        ({"top_n": True}, "top_n"),
        ({"return_documents": "yes"}, "return_documents"),
        ({"model": "small"}, "model"),
    ],
)
def test_bad_input_is_named(fields: dict[str, Any], param: str, ranking: Gateway, large: Upstream) -> None:
    answer = ranking.post("/v1/rerank", **{"model": "auto", **ASKED, **fields})
    assert answer.status_code in (400, 404) and answer.json()["error"]["param"] == param
    assert not large.requests


def test_without_an_expert_or_an_encoder_there_is_no_such_model(gateway: Gateway) -> None:
    assert gateway.post("/v1/rerank", model="auto", **ASKED).status_code == 404


def test_the_local_encoder_ranks_by_cosine() -> None:
    async def encode(text: str, *, keep: bool) -> Any:
        angle = {"q": 0.0, "near": 0.1, "far": 1.5, "opposite": 3.0}[text]
        return np.array([np.cos(angle), np.sin(angle)], dtype=np.float32)

    encoder: Any = SimpleNamespace(name="local", encode=encode)
    documents = ["far", {"text": "near"}, "opposite"]
    body = orjson.dumps({"query": "q", "documents": documents, "top_n": 2, "return_documents": True})
    ranked = orjson.loads(asyncio.run(rerank_locally(parse_rerank(body, (), "local"), encoder)))
    assert [(row["index"], row["document"]["text"]) for row in ranked["results"]] == [(1, "near"), (0, "far")]
    assert ranked["results"][0]["relevance_score"] == pytest.approx(np.cos(0.1))


def two_rankers(world: World, **first: Any) -> dict[str, Any]:
    rankers = [
        expert("first", world.small.url, serves="rerank", tier="small", **first),
        expert("second", world.large.url, serves="rerank", tier="large"),
    ]
    world.large.always = answers({"results": RESULTS, "usage": {"prompt_tokens": 7, "total_tokens": 7}})
    return {"experts": [expert("small", world.small.url), *rankers]}


def test_another_stands_in_for_one_that_fails_where_none_is_named(world: World) -> None:
    gateway = world.start(**two_rankers(world))
    world.small.always = refuses(500)
    answer = gateway.post("/v1/rerank", model="auto", **ASKED)
    assert answer.headers["x-pointsman-expert"] == "second" and answer.headers["x-pointsman-attempts"] == "2"
    assert gateway.post("/v1/rerank", model="first", **ASKED).status_code == 502


def test_personal_data_is_ranked_by_a_local_expert_alone(world: World) -> None:
    settings = two_rankers(world)
    settings["experts"][2]["local"] = True
    settings["experts"][0]["local"] = True
    gateway = world.start(**settings, guards=[{"kind": "pii", "action": "route"}])
    answer = gateway.post("/v1/rerank", model="auto", query="ada@example.com", documents=["a", "b"])
    assert answer.headers["x-pointsman-expert"] == "second"
    assert not world.small.requests


@pytest.mark.parametrize("path", ["/v1/rerank", "/v1/embeddings"])
def test_a_client_that_waits_less_gets_its_answer_before_it_gives_up(path: str, world: World) -> None:
    settings = two_rankers(world)
    settings["experts"].append(expert("embed", world.small.url, serves="embeddings", tier="small"))
    gateway = world.start(**settings)
    world.small.always = hang
    model = {"/v1/rerank": "first", "/v1/embeddings": "embed"}[path]
    body = {"model": model, "input": "a", **ASKED}
    answer = gateway.post(path, headers={"x-stainless-read-timeout": "1"}, **body)
    assert answer.status_code == 504 and answer.json()["error"]["code"] == "expert_timeout"
