"""LiteLLM's client against the gateway. It is no dependency of the tests: `make test-remote` has it."""

import os
from typing import Any

import pytest
from serving import HELLO, Gateway, World
from upstream import Upstream, refuses

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else its import asks the internet
litellm = pytest.importorskip("litellm")


@pytest.fixture
def gateway(world: World, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    monkeypatch.setenv("CALLER", "sk-of-the-caller")
    return world.start(auth={"keys": [{"name": "ann", "env": "CALLER"}]})


def ask(gateway: Gateway, **fields: Any) -> Any:
    return litellm.completion(
        **{"model": "openai/auto:cheap", "messages": HELLO, "max_retries": 0, **fields},
        api_base=gateway.url + "/v1",
        api_key="sk-of-the-caller",
    )


def test_it_answers(gateway: Gateway) -> None:
    answer = ask(gateway)
    assert answer.choices[0].message.content == "Hello" and answer.usage.total_tokens == 13


def test_it_streams(gateway: Gateway) -> None:
    chunks = list(ask(gateway, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello"
    assert [chunk.usage.total_tokens for chunk in chunks if getattr(chunk, "usage", None)][-1] == 13


def test_it_carries_wishes(gateway: Gateway) -> None:
    assert ask(gateway, model="openai/auto", extra_body={"routing": {"preference": "best"}}).model == "large"


def test_it_raises_the_right_errors(gateway: Gateway, small: Upstream) -> None:
    with pytest.raises(litellm.NotFoundError):
        ask(gateway, model="openai/none")
    small.script(refuses(429))
    with pytest.raises(litellm.RateLimitError):
        ask(gateway, model="openai/small")
