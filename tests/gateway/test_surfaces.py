"""The surfaces beside chat: models, route, embeddings, health, metrics."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis_process import RedisProcess
from serving import HELLO, Gateway, World, expert, request_bytes, until
from upstream import WAIT_S, Upstream, answers, hang, refuses


def test_models_lists_the_routed_names_and_the_experts(gateway: Gateway) -> None:
    answer = gateway.client.get("/v1/models").json()
    assert answer["object"] == "list"
    assert [model["id"] for model in answer["data"]] == [
        "auto",
        "auto:cheap",
        "auto:balanced",
        "auto:best",
        "small",
        "large",
    ]
    for model in answer["data"]:
        assert model["object"] == "model" and model["owned_by"] and type(model["created"]) is int


def test_a_disabled_expert_is_not_listed_and_not_called(world: World) -> None:
    off = expert("large", world.large.url, enabled=False)
    gateway = world.start(experts=[expert("small", world.small.url), off])
    assert "large" not in [model["id"] for model in gateway.client.get("/v1/models").json()["data"]]
    answer = gateway.chat("large")
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"
    assert gateway.chat("auto:best").headers["x-pointsman-expert"] == "small"
    assert not world.large.requests


@pytest.mark.parametrize("name", ["org/model", "a/b/c:d", "org%2Fmodel"])
def test_a_model_is_found_by_a_name_with_slashes(name: str, world: World) -> None:
    gateway = world.start(
        experts=[
            expert("org/model", world.small.url, tier="small"),
            expert("a/b/c:d", world.large.url, tier="large"),
        ]
    )
    answer = gateway.client.get(f"/v1/models/{name}")
    assert answer.json()["id"] == name.replace("%2F", "/")


def test_an_unknown_model_lists_the_choices(gateway: Gateway) -> None:
    answer = gateway.client.get("/v1/models/gpt-5")
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert error["code"] == "model_not_found" and "auto:best" in error["message"] and "small" in error["message"]


def test_route_decides_and_calls_nobody(gateway: Gateway, small: Upstream, large: Upstream) -> None:
    answer = gateway.post("/v1/route", model="auto:best", messages=HELLO).json()
    assert answer["object"] == "routing.decision" and answer["expert"] == "large"
    assert answer["policy"].startswith("static@") and answer["preference"] == "best"
    assert [line["expert"] for line in answer["candidates"]] == ["large", "small"]
    line = answer["candidates"][0]
    assert line["eligible"] and line["quality"] == pytest.approx(0.9)
    assert line["cost_usd"] == pytest.approx((6 * 10 + 50 * 30) / 1e6)
    assert "large" in answer["reason"]
    assert not small.requests and not large.requests
    assert gateway.metric("pointsman_cost_usd_total") == 0


def test_route_says_why_an_expert_is_out(gateway: Gateway) -> None:
    answer = gateway.post("/v1/route", model="auto", messages=HELLO, routing={"exclude": ["large"]}).json()
    assert [(line["expert"], line["eligible"], line["reason"]) for line in answer["candidates"]] == [
        ("small", True, None),
        ("large", False, "in routing.exclude"),
    ]


def test_route_says_of_a_named_expert_what_chat_would_do(gateway: Gateway) -> None:
    alone = gateway.post("/v1/route", model="small", messages=HELLO).json()
    assert alone["expert"] == "small" and alone["candidates"] == []
    allowed = gateway.post("/v1/route", model="small", messages=HELLO, routing={"fallback": True}).json()
    assert allowed["expert"] == "small" and len(allowed["candidates"]) == 2


VECTORS = [[0.25, -0.5, 1.0], [1.0, 0.0, 0.125]]


def embedded(wire_format: str) -> dict[str, Any]:
    import base64
    import struct

    def written(vector: list[float]) -> Any:
        return vector if wire_format == "float" else base64.b64encode(struct.pack("<3f", *vector)).decode()

    rows = [{"object": "embedding", "index": i, "embedding": written(v)} for i, v in enumerate(VECTORS)]
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    return {"object": "list", "data": rows, "model": "up-model", "usage": usage}


@pytest.fixture
def embedding(world: World) -> Gateway:
    experts = [
        expert("small", world.small.url),
        expert("embed", world.large.url, serves="embeddings", tier="large", price={"input": 4.0}),
    ]
    return world.start(experts=experts)


@pytest.mark.parametrize("wire_format", ["base64", "float"])
def test_embeddings_pass_through_for_the_real_client(wire_format: str, embedding: Gateway, large: Upstream) -> None:
    large.script(answers(embedded(wire_format)))
    client = openai.OpenAI(base_url=embedding.url + "/v1", api_key="x", max_retries=0)
    asked: Any = {} if wire_format == "base64" else {"encoding_format": "float"}
    answer = client.embeddings.create(model="embed", input=["a", "b"], dimensions=3, **asked)
    assert [row.embedding for row in answer.data] == VECTORS
    assert answer.model == "embed" and answer.usage.total_tokens == 7
    sent = large.requests[0].json()
    assert sent["model"] == "up-model" and sent["encoding_format"] == wire_format and sent["dimensions"] == 3


def test_embeddings_are_billed_by_their_input(embedding: Gateway, large: Upstream) -> None:
    large.script(answers(embedded("float")))
    answer = embedding.post("/v1/embeddings", model="auto", input="hello")
    assert answer.headers["x-pointsman-cost-usd"] == "0.000028000"
    assert answer.headers["x-pointsman-expert"] == "embed"
    assert embedding.metric("pointsman_tokens_total", expert="embed", kind="input") == 7


@pytest.mark.parametrize(("spaces", "asked"), [(("s", "s"), "cheap"), (("s", "t"), "dear"), ((None, None), "dear")])
def test_auto_chooses_among_embedding_experts_of_one_space(spaces: Any, asked: str, world: World) -> None:
    dear, cheap = (
        expert(
            name, upstream.url, serves="embeddings", tier="large", space=space, price={"input": usd, "output": 0.0}
        )
        for name, upstream, space, usd in zip(
            ("dear", "cheap"), (world.large, world.small), spaces, (4.0, 1.0), strict=True
        )
    )
    gateway = world.start(experts=[dear, cheap, expert("small", world.small.url)])
    world.small.always = world.large.always = answers(embedded("float"))
    answer = gateway.post("/v1/embeddings", model="auto", input="hello")
    assert answer.headers["x-pointsman-expert"] == asked
    assert gateway.post("/v1/embeddings", model="dear", input="x").headers["x-pointsman-expert"] == "dear"
    world.small.always = refuses(500)
    served = gateway.post("/v1/embeddings", model="auto", input="hello").headers["x-pointsman-expert"]
    assert served == "dear", "one of the space takes over"


@pytest.mark.parametrize(
    "given",
    [None, "", [], [""], ["a", 1], [["a"]], [1.5], {}, 5, [[]], [[1], []], ["a"] * 2049, [True]],
)
def test_embeddings_of_nothing_are_refused(given: Any, embedding: Gateway, large: Upstream) -> None:
    answer = embedding.post("/v1/embeddings", model="embed", input=given)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "input"
    assert not large.requests


@pytest.mark.parametrize("given", ["a", ["a", "b"], [1, 2, 3], [[1, 2], [3]]])
def test_every_form_of_input_passes(given: Any, embedding: Gateway, large: Upstream) -> None:
    assert embedding.post("/v1/embeddings", model="embed", input=given).status_code == 200
    assert large.requests[0].json()["input"] == given


def test_an_embedding_expert_takes_no_chat_and_a_chat_expert_embeds_nothing(embedding: Gateway) -> None:
    assert embedding.chat("embed").status_code == 404
    answer = embedding.post("/v1/embeddings", model="small", input="x")
    assert answer.status_code == 404 and "embed" in answer.json()["error"]["message"]


def test_without_an_embedding_model_the_surface_says_so(gateway: Gateway) -> None:
    answer = gateway.post("/v1/embeddings", model="auto", input="x")
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"


def test_a_failing_embedding_expert_is_told_of(embedding: Gateway, large: Upstream) -> None:
    large.script(refuses(500))
    answer = embedding.post("/v1/embeddings", model="embed", input="x")
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "expert_server")
    assert embedding.metric("pointsman_attempt_failures_total", expert="embed") == 1


def test_leaving_cancels_an_embedding_too(embedding: Gateway, large: Upstream) -> None:
    large.script(hang)
    client = embedding.connect()
    client.sendall(request_bytes(json.dumps({"model": "embed", "input": "x"}).encode(), path="/v1/embeddings"))
    received = large.wait_for(1)
    client.close()
    assert received.gone.wait(WAIT_S)


def test_health_says_ok(gateway: Gateway) -> None:
    answer = gateway.client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_ready_says_what_is_there(gateway: Gateway) -> None:
    answer = gateway.client.get("/readyz")
    state = answer.json()
    assert answer.status_code == 200 and state["status"] == "ok"
    assert state["policy"].startswith("static@") and state["encoder"] is None
    assert state["ledger"] == {"status": "ok", "reason": None, "owed": 0}
    assert state["experts"] == {"small": "ok", "large": "ok"}


def test_a_ledger_that_goes_away_degrades_and_loses_nothing(redis_process: RedisProcess, world: World) -> None:
    gateway = world.start(ledger={"url": redis_process.url})
    redis_process.kill()
    until(lambda: gateway.client.get("/readyz").json()["status"] == "degraded", "degrading")
    assert [gateway.chat("small").status_code for _ in range(3)] == [200] * 3
    state = gateway.client.get("/readyz")
    assert state.status_code == 200 and state.json()["ledger"]["owed"] >= 3 and state.json()["ledger"]["reason"]
    assert gateway.metric("pointsman_ledger_up") == 0 and gateway.metric("pointsman_ledger_owed") >= 3
    redis_process.start()
    until(lambda: gateway.client.get("/readyz").json()["status"] == "ok", "recovering")
    until(lambda: gateway.metric("pointsman_ledger_owed") == 0, "writing what is owed")
    assert until(lambda: gateway.service.ledger.load("small").requests) == 3


def test_metrics_are_what_prometheus_reads(gateway: Gateway, small: Upstream) -> None:
    small.script(refuses(500))
    for model in ("small", "small", "auto:best", "none"):
        gateway.chat(model)
    gateway.chat("small", stream=True)
    answer = gateway.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    requests = {
        (sample.labels["expert"], sample.labels["status"]): sample.value
        for sample in families["pointsman_requests"].samples
        if sample.name.endswith("_total")
    }
    assert requests == {("small", "502"): 1, ("small", "200"): 2, ("large", "200"): 1, ("", "404"): 1}
    assert gateway.metric("pointsman_decisions_total", preference="best", expert="large") == 1
    assert gateway.metric("pointsman_overhead_seconds_count") == 3
    assert gateway.metric("pointsman_first_byte_seconds_count", expert="small") == 2
    assert gateway.metric("pointsman_in_flight") == 0


def test_the_description_of_the_api_names_every_surface(gateway: Gateway) -> None:
    paths = gateway.client.get("/openapi.json").json()["paths"]
    for path in ("/v1/chat/completions", "/v1/models", "/v1/route", "/v1/embeddings", "/healthz", "/readyz"):
        assert path in paths


def test_the_embedded_ledger_comes_up_with_the_gateway(
    world: World, short_folder: Path, redis_binary: Path
) -> None:
    gateway = world.start(ledger={"data_dir": str(short_folder / "embedded")})
    gateway.chat("small")
    until(lambda: gateway.service.ledger.load("small").requests == 1)
    assert gateway.client.get("/readyz").json()["status"] == "ok"
