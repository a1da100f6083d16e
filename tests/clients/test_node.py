"""The official Node client against the gateway. `make test-node` installs it under build/ and runs this."""

import base64
import json
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from serving import Gateway, World, expert
from upstream import HELLO, USAGE, USAGE_CHUNK, WAIT_S, answers, chunk, close, hang, refuses, sse, streams

FOLDER = Path(__file__).parents[2] / "build" / "node"
SCRIPT = Path(__file__).parent / "node" / "client.mjs"
KEY = "sk-of-the-caller"
DONE = b"data: [DONE]\n\n"

installed = shutil.which("node") is not None and (FOLDER / "node_modules" / "openai").is_dir()
pytestmark = pytest.mark.skipif(
    not installed and "POINTSMAN_TEST_NODE" not in os.environ, reason="`make test-node` installs the Node client"
)


@pytest.fixture
def gateway(world: World, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    monkeypatch.setenv("CALLER", KEY)
    embed = expert("embed", world.large.url, serves="embeddings", tier="large")
    experts = [*world.settings["experts"], embed]
    return world.start(experts=experts, auth={"keys": [{"name": "ann", "env": "CALLER"}]})


def node(gateway: Gateway, scenario: str) -> Any:
    command = ["node", str(SCRIPT), str(FOLDER), gateway.url + "/v1", KEY, scenario]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_it_answers_and_shows_the_headers(gateway: Gateway) -> None:
    answer = node(gateway, "answer")
    assert (answer["model"], answer["expert"], answer["text"]) == ("large", "large", "Hello")
    assert answer["id"].startswith("req_")


def test_it_streams(gateway: Gateway) -> None:
    assert node(gateway, "stream") == {"text": "Hello"}


def test_it_gathers_streamed_tool_calls(world: World, gateway: Gateway) -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    events = [
        chunk(role="assistant", delta={"tool_calls": [call]}),
        chunk(delta={"tool_calls": [{"index": 0, "function": {"arguments": '{"city":"Ulm"}'}}]}),
        chunk(finish="tool_calls"),
    ]
    world.small.script(streams(*map(sse, events), sse(USAGE_CHUNK), DONE))
    (got,) = node(gateway, "tools")["calls"]
    assert got["id"] == "call_1" and got["function"]["arguments"] == '{"city":"Ulm"}'


def test_leaving_a_stream_cancels_it(world: World, gateway: Gateway) -> None:
    world.small.script(streams(*map(sse, HELLO[:3]), then=hang))
    node(gateway, "leave")
    assert world.small.requests[0].gone.wait(WAIT_S)


def test_it_raises_for_an_error_midway(world: World, gateway: Gateway) -> None:
    world.small.script(streams(*map(sse, HELLO[:3]), then=close))
    assert node(gateway, "broken") == {"error": "APIError", "status": None, "code": "expert_cut"}


def test_it_raises_the_right_errors(world: World, gateway: Gateway) -> None:
    world.small.script(refuses(429))
    assert node(gateway, "unknown") == {"error": "NotFoundError", "status": 404, "code": "model_not_found"}
    assert node(gateway, "limited") == {"error": "RateLimitError", "status": 429, "code": "rate_limit_exceeded"}


def test_it_keeps_a_conversation_of_responses(gateway: Gateway) -> None:
    assert node(gateway, "responses") == {"texts": ["Hello"] * 3, "previous": True, "items": ["Again."]}


def test_it_lists_models(gateway: Gateway) -> None:
    assert {"auto", "auto:best", "small", "large"} <= set(node(gateway, "models")["ids"])


def test_it_reads_embeddings(world: World, gateway: Gateway) -> None:
    vector = base64.b64encode(struct.pack("<2f", 0.25, -0.5)).decode()
    row = {"object": "embedding", "index": 0, "embedding": vector}
    world.large.script(answers({"object": "list", "data": [row], "model": "m", "usage": USAGE}))
    assert node(gateway, "embeddings") == {"vector": [0.25, -0.5]}
