"""Every route, asked in the ways that the gateway's own OpenAPI description allows, and in some that it forbids."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import Running, written
from serving import World, expert
from upstream import USAGE, Wire, answers, polite

from policies import default_artifact

pytest.importorskip("schemathesis")
pytestmark = pytest.mark.slow

KEY, ADMIN = "sk-fuzz-key-of-the-tests", "admin-credential-of-the-tests"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)


async def helpful(wire: Wire) -> None:
    ranked = {"results": [{"index": 0, "relevance_score": 0.5}], "usage": USAGE}
    await (answers(ranked) if wire.request.path.endswith("/rerank") else polite)(wire)


@pytest.fixture
def served(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A gateway in a process of its own, with all that can be on, and experts that answer."""
    for name, value in (("KEY", KEY), ("ADMIN", ADMIN), ("SECRET", "s" * 32)):
        monkeypatch.setenv(name, value)
    world.small.always = helpful
    many = {"requests_per_minute": 10**6, "tokens_per_minute": 10**9, "concurrency": 10**4}
    settings: dict[str, Any] = {
        **world.settings,
        "experts": [
            *world.settings["experts"],
            expert("embed", world.small.url, serves="embeddings", tier="small"),
            expert("rank", world.small.url, serves="rerank", tier="small"),
        ],
        "policy": {"artifact": str(default_artifact())},
        "ledger": {**world.settings["ledger"], "wait_ms": 500},
        "auth": {
            "keys": [{"name": "fuzz", "env": "KEY", "limits": many, "budget": {"usd": 10**6, "per": "day"}}],
            "secret": {"env": "SECRET"},
            "admin": {"env": "ADMIN"},
        },
        "limits": many,
        "budget": {"usd": 10**6, "per": "month", "pace": True},
        "cache": {"semantic": {"threshold": 0.9}},
        "decisions": {"folder": str(tmp_path / "decisions"), "prompt": "full"},
        "guards": [{"kind": "steering"}],
    }
    running = Running("serve", "--config", written(tmp_path, settings), "--port", "0")
    # what a stranger sends is no news to a log, and a pipe that nobody reads fills up
    drain = subprocess.Popen(["cat"], stdin=running.output, stdout=subprocess.DEVNULL)
    yield running
    running.kill()
    drain.wait(10)


#: What a description need not say, and without which nearly every request would end at the first look.
NARROWED: dict[str, Any] = {
    "model": {"enum": ["auto", "auto:cheap", "auto:best", "small", "embed", "rank", "nobody", 7]},
    "previous_response_id": {"enum": [None, "resp_unknown"]},
    "only": {"enum": [["small"], ["small", "large"], ["nobody"], []]},
    "exclude": {"enum": [["small"], ["nobody"], [], "small"]},
    "policy": {"enum": ["default", "nobody"]},
    "quality_floor": {"enum": [0, 0.5, 1, 2]},
    "max_cost_usd": {"enum": [0, 1]},
    "max_latency_s": {"enum": [0, 600]},
    "team": {"enum": ["nobody"]},
    "x-pointsman-only": {"enum": ["small", "small,large", "nobody"]},
    "x-pointsman-exclude": {"enum": ["small", "nobody"]},
    "x-pointsman-policy": {"enum": ["default", "nobody"]},
    "x-pointsman-quality-floor": {"enum": [0, 0.5, 2]},
    "x-pointsman-max-cost-usd": {"enum": [0, 1]},
    "x-pointsman-max-latency-s": {"enum": [0, 600]},
}


def narrowed(node: Any) -> Any:
    """The description with names and wishes that lead somewhere."""
    if isinstance(node, list):
        return [narrowed(one) for one in node]
    if not isinstance(node, dict):
        return node
    if node.get("in") in ("header", "query") and node.get("name") in NARROWED:
        return {**node, "schema": NARROWED[node["name"]]}
    if isinstance(fields := node.get("properties"), dict):
        chosen = {name: NARROWED.get(name, narrowed(schema)) for name, schema in fields.items()}
        node = {**node, "properties": chosen}
    return {key: value if key == "properties" else narrowed(value) for key, value in node.items()}


@pytest.mark.parametrize(("paths", "key"), [("^/(v1/|healthz|readyz|metrics)", KEY), ("^/admin/", ADMIN)])
def test_no_route_fails_or_answers_what_it_does_not_say(
    paths: str, key: str, served: Running, tmp_path: Path
) -> None:
    description = tmp_path / "openapi.json"
    description.write_text(json.dumps(narrowed(httpx.get(f"{served.url}/openapi.json").json())))
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            *("run", str(description), "--url", served.url),
            *("--include-path-regex", paths),
            *("--header", f"Authorization: Bearer {key}"),
            *("--checks", ",".join(CHECKS)),
            *("--phases", "examples,coverage,fuzzing,stateful"),
            *("--max-examples", "40", "--seed", "7", "--no-shrink", "--continue-on-failure"),
            *("--suppress-health-check", "all", "--warnings", "off", "--request-timeout", "30"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    assert re.search(r"\d+ passed", done.stdout), done.stdout[-2_000:]
    assert httpx.get(f"{served.url}/readyz").status_code == 200
    if key == KEY:
        text = httpx.get(f"{served.url}/metrics").text
        answered = set(re.findall(r'pointsman_requests_total{.*status="200",surface="(.*?)"}', text))
        # the fuzz means nothing where nothing gets through
        assert {"chat/completions", "messages", "completions", "responses", "embeddings", "rerank"} <= answered
