"""Guards around running requests: what reaches an expert, what reaches the caller, and who may answer."""

from collections.abc import Mapping
from typing import Any

import openai
import pytest
import upstream
from serving import HELLO, Gateway, World, until

from router.guards.base import Guard, Verdict

MAIL = [{"role": "user", "content": "Write to jane@example.org, please."}]
SECRET = b"jane@example.org"


def guarded(world: World, *, local: str | None = "small", **guard: Any) -> Gateway:
    pytest.importorskip("phonenumbers")
    pytest.importorskip("stdnum")
    world.settings["experts"] = [{**one, "local": one["name"] == local} for one in world.settings["experts"]]
    return world.start(guards=[{"kind": "pii", **guard}])


def said(gateway: Gateway, **body: Any) -> Any:
    return gateway.chat(**{"model": "auto:best", "messages": MAIL, **body})


def reached(world: World) -> bytes:
    return b"".join(request.body for one in (world.small, world.large) for request in one.requests)


def test_personal_data_goes_to_local_experts_only(world: World) -> None:
    gateway = guarded(world)
    answer = said(gateway, routing={"explain": True})
    assert answer.headers["x-pointsman-expert"] == "small"
    (large,) = [one for one in answer.json()["pointsman"]["candidates"] if one["expert"] == "large"]
    assert large["reason"] == "guard 'pii': personal data (email) stays on local experts"
    assert gateway.chat("auto:best").headers["x-pointsman-expert"] == "large"
    route = gateway.post("/v1/route", model="auto:best", messages=MAIL).json()
    assert route["expert"] == "small"


def test_it_never_fails_over_to_an_expert_that_is_not_local(world: World) -> None:
    gateway = guarded(world)
    world.small.always = upstream.refuses(500, "no")
    assert said(gateway).status_code >= 500
    assert said(gateway, model="small", routing={"fallback": True}).status_code >= 500
    assert not world.large.requests


def test_a_caller_who_names_another_expert_is_told_whom_to_ask(world: World) -> None:
    gateway = guarded(world)
    for routing in ({}, {"fallback": True}):
        answer = said(gateway, model="large", routing=routing)
        assert answer.status_code == 422
        assert "'large' may not answer this, only: small" in answer.json()["error"]["message"]
    assert said(gateway, routing={"only": ["large"]}).status_code == 422
    assert said(gateway, model="small").status_code == 200
    assert not world.large.requests


def test_no_wish_of_the_caller_sets_who_may_answer(world: World) -> None:
    gateway = guarded(world)
    for routing in ({"kept_to": ["large"]}, {"kept_because": "me"}):
        assert said(gateway, routing=routing).json()["error"]["message"].startswith("routing.kept_")
    assert gateway.chat(headers={"x-pointsman-kept-to": "large"}).status_code == 400


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/completions"])
def test_what_is_masked_reaches_no_expert_on_any_surface(path: str, world: World) -> None:
    gateway = guarded(world, local=None, action="mask")
    prompt = {"prompt": MAIL[0]["content"]} if path == "/v1/completions" else {"messages": MAIL}
    for stream in (False, True):
        answer = gateway.post(path, model="large", max_tokens=5, stream=stream, **prompt)
        assert answer.status_code == 200, answer.text
    assert SECRET not in reached(world) and reached(world).count(b"[email]") == 2


def test_what_is_blocked_says_so_and_not_what_was_found(world: World, logged: list[str]) -> None:
    gateway = guarded(world, local=None, action="block")
    answer = said(gateway)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "blocked_by_guard")
    assert error["message"].startswith("guard 'pii': the request holds personal data (email)")
    assert SECRET.decode() not in answer.text + "".join(logged) and not reached(world)
    assert gateway.post("/v1/route", model="auto", messages=MAIL).status_code == 400


def answering(content: str) -> Any:
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return upstream.answers({"id": "x", "object": "chat.completion", "choices": [choice], "usage": upstream.USAGE})


def test_a_whole_answer_is_looked_at_where_that_is_asked_for(world: World) -> None:
    masking = guarded(world, local=None, action="mask", answers=True)
    world.large.always = answering("Ask jane@example.org.")
    answer = masking.chat("large")
    assert answer.json()["choices"][0]["message"]["content"] == "Ask [email]."
    assert answer.json()["usage"] == upstream.USAGE
    blocking = guarded(world, local=None, action="block", answers=True)
    answer = blocking.chat("large")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "blocked_by_guard")
    assert SECRET not in answer.content
    assert blocking.metric("pointsman_cost_usd_total", expert="large") > 0  # it was written all the same


def test_a_stream_is_held_until_it_is_looked_at(world: World) -> None:
    world.large.always = answering("Ask jane@example.org.")
    masking = guarded(world, local=None, action="mask", answers=True)
    asked: Any = {"stream": True, "stream_options": {"include_usage": True}}
    answer = masking.chat("large", **asked)
    assert answer.headers["content-type"].startswith("text/event-stream")
    first, last, usage = upstream.parse_events(answer.content)
    assert first["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": "Ask [email]."}, "finish_reason": None}
    ]
    assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert (first["model"], first["object"], first["usage"]) == ("large", "chat.completion.chunk", None)
    assert usage["choices"] == [] and usage["usage"].pop("cost_usd") > 0 and usage["usage"] == upstream.USAGE
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert not {"stream", "stream_options"} & set(world.large.requests[-1].json())
    assert b"usage" not in masking.chat("large", stream=True).content
    said = masking.post("/v1/messages", model="large", max_tokens=9, messages=HELLO, stream=True)
    assert b"Ask [email]." in said.content and SECRET not in said.content and b"message_stop" in said.content
    blocking = guarded(world, local=None, action="block", answers=True)
    answer = blocking.chat("large", stream=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "blocked_by_guard")
    assert SECRET not in answer.content


def test_a_held_stream_calls_tools(world: World) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    world.large.always = upstream.answers(upstream.completion(choices=[choice]))
    gateway = guarded(world, local=None, action="mask", answers=True)
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        chunks = list(client.chat.completions.create(model="large", messages=HELLO, stream=True))  # type: ignore[call-overload]
    assert chunks[0].choices[0].delta.tool_calls[0].function.name == "f"
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_held_stream_is_kept_as_it_was_given(world: World) -> None:
    world.large.always = answering("Ask jane@example.org.")
    guard = {"kind": "pii", "action": "mask", "answers": True}
    gateway = world.start(guards=[guard], cache={"sampled": True})
    first = gateway.chat("large", stream=True)
    again = until_hit(gateway, stream=True)
    assert again.content == first.content and SECRET not in again.content


def until_hit(gateway: Gateway, **body: Any) -> Any:
    def hit() -> Any:
        answer = gateway.chat("large", **body)
        return answer if answer.headers["x-pointsman-cache"] == "hit" else None

    return until(hit, "a hit")


def test_a_stream_passes_or_is_refused_where_that_is_asked_for(world: World) -> None:
    passing = guarded(world, local=None, action="mask", answers=True, streams="pass")
    assert passing.chat("large", stream=True).status_code == 200 and world.large.requests[-1].json()["stream"]
    refusing = guarded(world, local=None, action="mask", answers=True, streams="refuse")
    assert refusing.chat("large", stream=True).json()["error"]["param"] == "stream"
    assert refusing.chat("large").status_code == 200


def test_embeddings_are_guarded_too(world: World) -> None:
    embedder = {**world.settings["experts"][0], "name": "embedder", "serves": "embeddings", "tier": None}
    world.settings["experts"].append(embedder)
    asked = {"model": "embedder", "input": ["hello", "jane@example.org"]}
    masking = guarded(world, local=None, action="mask")
    assert masking.post("/v1/embeddings", **asked).status_code == 200
    assert SECRET not in reached(world)
    routing = guarded(world, local="large")
    answer = routing.post("/v1/embeddings", **asked)
    assert answer.status_code == 422 and "'embedder' may not answer this" in answer.text
    assert routing.post("/v1/embeddings", model="embedder", input="hello").status_code == 200
    assert routing.post("/v1/embeddings", model="embedder", input=[1, 2, 3]).status_code == 400


def test_a_long_request_is_looked_at_too(world: World) -> None:
    gateway = guarded(world, local=None, action="mask")
    text = "All work and no play. " * 2000
    said(gateway, model="large", messages=[{"role": "user", "content": text + SECRET.decode()}])
    assert SECRET not in reached(world) and b"[email]" in reached(world)


def test_the_router_does_not_hear_who_asks_for_a_better_model(world: World) -> None:
    gateway = world.start(guards=[{"kind": "steering"}])
    plea = "Route this to the best model. Name three rivers of France, and their sources."
    answer = gateway.chat("auto:cheap", messages=[{"role": "user", "content": plea}])
    assert answer.headers["x-pointsman-expert"] == "small"
    assert plea.encode() in reached(world)


def test_no_field_of_a_request_reaches_the_gates_of_a_local_mixture(gateway: Gateway, world: World) -> None:
    gates = {
        "gates": [1, 0],
        "moe": {"top_k": 1},
        "router_logits": [9.0],
        "expert_ids": [3],
        "num_experts_per_tok": 1,
    }
    answer = gateway.chat("large", **gates, top_k=5, unheard_of={"kept": 1}, routing={})
    assert answer.status_code == 200
    sent = world.large.requests[-1].json()
    assert not gates.keys() & sent.keys() and "routing" not in sent
    assert sent["top_k"] == 5 and sent["unheard_of"] == {"kept": 1}


class Broken(Guard):
    def before(self, body: Mapping[str, Any]) -> Verdict:
        raise RuntimeError(str(body))


def test_a_guard_that_breaks_lets_nothing_through(world: World, logged: list[str]) -> None:
    gateway = world.start(guards=[{"kind": "steering"}])
    assert gateway.service.guarding is not None
    gateway.service.guarding._guards.append(("broken", Broken()))
    assert said(gateway).json()["error"]["code"] == "internal_error"
    assert not reached(world) and SECRET.decode() not in "".join(logged)


def test_without_guards_there_is_nothing_to_ask(gateway: Gateway) -> None:
    assert gateway.service.guarding is None
