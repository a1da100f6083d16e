"""What was spent, asked of running gateways: the sums that upstreams counted, by whom, to the nano-dollar."""

import json
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from redis_process import RedisProcess
from serving import HELLO, Gateway, World, expert, request_bytes, until
from upstream import HELLO as EVENTS
from upstream import Behaviour, Upstream, Wire, answers, chunk, completion, hang, refuses, sse, streams

from gateway.spend_command import spend

CREDENTIAL = "admin-credential-marker"
ADMIN = {"authorization": f"Bearer {CREDENTIAL}"}
PRICES = {
    "small": {"input": 1.5, "output": 2.0, "cached_input": 0.375, "reasoning": 3.0, "audio_input": 40},
    "large": {"input": 10.0, "output": 30.0, "cached_input": 2.5, "cache_write": 12.5, "cache_write_1h": 20},
    "vectors": {"input": 0.02, "output": 0},
    "order": {"input": 0.05, "output": 0},
}
SEEN = 9  # events of a stream that is cut after them: its role, then words


@pytest.fixture
def alone(world: World, redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world with a Redis of its own, virtual keys, and experts that serve all that is served."""
    monkeypatch.setenv("POINTSMAN_TEST_SECRET", "a-server-secret-marker")
    monkeypatch.setenv("POINTSMAN_TEST_ADMIN", CREDENTIAL)
    monkeypatch.setenv("POINTSMAN_TEST_KEY", "configured-key-marker")
    world.settings |= {
        "ledger": {"url": redis_process.url},
        "auth": {
            "secret": {"env": "POINTSMAN_TEST_SECRET"},
            "admin": {"env": "POINTSMAN_TEST_ADMIN"},
            "keys": [{"name": "configured", "env": "POINTSMAN_TEST_KEY"}],
        },
        "experts": [
            expert("small", world.small.url, price=PRICES["small"]),
            expert("large", world.large.url, price=PRICES["large"]),
            expert("vectors", world.small.url, price=PRICES["vectors"], tier=None, serves="embeddings"),
            expert("order", world.small.url, price=PRICES["order"], tier=None, serves="rerank"),
        ],
    }
    return world


def made(gateway: Gateway, name: str, **fields: Any) -> tuple[str, dict[str, str]]:
    """A virtual key's id, and the headers that carry it."""
    answer = gateway.client.post("/admin/api/keys", json={"name": name, **fields}, headers=ADMIN)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"], {"authorization": f"Bearer {answer.json()['key']}"}


def team(gateway: Gateway, name: str) -> None:
    assert gateway.client.post("/admin/api/teams", json={"name": name}, headers=ADMIN).status_code == 201


def asked(gateway: Gateway, path: str = "/admin/api/spend", headers: Any = ADMIN, **query: str) -> httpx.Response:
    return gateway.client.get(path, params=query, headers=headers)


def costs(gateway: Gateway, by: str, **query: str) -> dict[Any, int]:
    """Nano-dollars by what was asked for, once all is written."""
    until(lambda: not gateway.service.ledger.owed, "writing")
    answer = asked(gateway, by=by, **query)
    assert answer.status_code == 200, answer.text
    names = by.split(",")
    return {
        tuple(row[name] for name in names) if len(names) > 1 else row[by]: row["cost_nano"]
        for row in answer.json()["data"]
    }


class Counting:
    """An upstream that uses tokens of all kinds at random, and adds up by itself what they cost whom."""

    def __init__(self, prices: dict[str, dict[str, float]]) -> None:
        self.rng = random.Random(11)
        self.prices = {name: {k: Decimal(str(v)) for k, v in price.items()} for name, price in prices.items()}
        self.usd: Counter[tuple[str, str]] = Counter()  # by caller and expert, in millionths of a dollar
        self.calls = 0
        self.lock = threading.Lock()

    def behave(self, name: str) -> Behaviour:
        async def behave(wire: Wire) -> None:
            with self.lock:
                behaviour = self.next(name, wire)
            await behaviour(wire)

        return behave

    def next(self, name: str, wire: Wire) -> Behaviour:
        body, rng = wire.request.json(), self.rng
        who = body.get("user", "")
        self.calls += 1
        if wire.request.path.endswith(("/embeddings", "/rerank")):
            served = "vectors" if wire.request.path.endswith("/embeddings") else "order"
            tokens = rng.randrange(1, 5000)
            self.usd[who, served] += tokens * self.prices[served]["input"]
            rows = {"data": [{"index": 0, "embedding": [0.5]}]} if served == "vectors" else {"results": []}
            return answers({**rows, "usage": {"total_tokens": tokens}})
        fate = rng.random()
        if name == "large" and fate < 0.3:
            return refuses(rng.choice([429, 500, 503]))
        if body.get("stream") and body.get("seed") == 1:  # whose caller leaves
            self.usd[who, name] += 6 * self.prices[name]["input"] + (SEEN - 1) * self.prices[name]["output"]
            words = [chunk("x") for _ in range(SEEN - 2)]
            return streams(*map(sse, [EVENTS[0], *words, chunk("last")]), then=hang)
        usage = self.usage(name)
        self.usd[who, name] += self.cost(name, usage)
        if body.get("stream"):
            return streams(*map(sse, [*EVENTS, chunk(choices=[], usage=usage)]), b"data: [DONE]\n\n")
        return answers(completion(usage=usage))

    def usage(self, name: str) -> dict[str, Any]:
        rng = self.rng
        given, said = rng.randrange(100, 100_000), rng.randrange(1, 5000)
        read: dict[str, Any] = {"cached_tokens": rng.randrange(given // 2)}
        wrote: dict[str, Any] = {"reasoning_tokens": rng.randrange(said)}
        if name == "small":
            read["audio_tokens"] = rng.randrange(given // 4)
        else:
            hour, five = rng.randrange(given // 5), rng.randrange(given // 5)
            read["cache_creation_tokens"] = hour + five
            read["cache_creation_token_details"] = {
                "ephemeral_5m_input_tokens": five,
                "ephemeral_1h_input_tokens": hour,
            }
        return {
            "prompt_tokens": given,
            "completion_tokens": said,
            "total_tokens": given + said,
            "prompt_tokens_details": read,
            "completion_tokens_details": wrote,
        }

    def cost(self, name: str, usage: dict[str, Any]) -> Decimal:
        price, read = self.prices[name], usage["prompt_tokens_details"]
        thought = usage["completion_tokens_details"]["reasoning_tokens"]
        kinds = {"cached_input": read["cached_tokens"], "audio_input": read.get("audio_tokens", 0)}
        split = read.get("cache_creation_token_details", {})
        kinds["cache_write"] = split.get("ephemeral_5m_input_tokens", 0)
        kinds["cache_write_1h"] = split.get("ephemeral_1h_input_tokens", 0)
        fresh = usage["prompt_tokens"] - sum(kinds.values())
        total = fresh * price["input"] + (usage["completion_tokens"] - thought) * price["output"]
        total += thought * price.get("reasoning", price["output"])
        return total + sum((tokens * price.get(kind, Decimal(0)) for kind, tokens in kinds.items()), Decimal(0))

    def nano(self) -> dict[tuple[str, str], int]:
        """To the nano-dollar that each call is rounded to; the prices here need no rounding."""
        return {who: int(usd * 1000) for who, usd in self.usd.items()}


def leave(gateway: Gateway, headers: dict[str, str], **body: Any) -> None:
    """Reads a stream up to its last word so far, and closes the connection."""
    client = gateway.connect()
    data = json.dumps({"messages": HELLO, "stream": True, "seed": 1, **body}).encode()
    client.sendall(request_bytes(data, *(f"{name}: {value}" for name, value in headers.items())))
    seen = b""
    while b'"last"' not in seen:
        read = client.recv(65_536)
        assert read, seen
        seen += read
    client.close()


def ask(gateway: Gateway, kind: int, who: str, headers: dict[str, str]) -> None:
    """One request of one of the kinds; `user` tells the upstream who it is from."""
    mine = {"user": who}
    streamed = {**mine, "stream": True, "stream_options": {"include_usage": True}}
    if kind == 0:
        gateway.chat("small", headers=headers, **mine)
    elif kind == 1:
        gateway.chat("small", headers=headers, **streamed)
    elif kind == 2:
        gateway.chat("auto:best", headers=headers, **mine)  # the large one fails at times: then the small one
    elif kind == 3:
        gateway.chat("auto:best", headers=headers, **streamed)
    elif kind == 4:
        leave(gateway, headers, model="small", **mine)
    elif kind == 5:
        gateway.post("/v1/embeddings", headers=headers, model="vectors", input="hello", **mine)
    elif kind == 6:
        gateway.post("/v1/rerank", headers=headers, model="order", query="q", documents=["d"], **mine)
    elif kind == 7:
        body = {"model": "auto:best", "messages": HELLO, "max_tokens": 50, "metadata": {"user_id": who}}
        gateway.post("/v1/messages", headers=headers, **body)
    elif kind == 8:
        gateway.post("/v1/responses", headers=headers, model="small", input="hello", stream=True, **mine)
    else:
        gateway.post("/v1/completions", headers=headers, model="small", prompt="hello", **mine)


def test_hundreds_of_calls_of_every_kind_cost_what_the_upstreams_counted(
    alone: World, redis_process: RedisProcess
) -> None:
    """Two replicas, three callers at once; Redis is killed in the middle and comes back."""
    counting = Counting(PRICES)
    alone.small.always, alone.large.always = counting.behave("small"), counting.behave("large")
    replicas = [alone.start(), alone.start()]
    team(replicas[0], "lab")
    callers = {
        "configured": ("configured", {"authorization": "Bearer configured-key-marker"}),
        "ann": made(replicas[0], "ann", team="lab", tags=["prod", "eu"]),
        "bob": made(replicas[0], "bob", team="lab", tags=["prod"]),
    }
    for replica in replicas:
        for _, headers in callers.values():
            until(lambda r=replica, h=headers: r.client.get("/v1/models", headers=h).status_code == 200, "the key")

    def many(who: str) -> None:
        rng = random.Random(who)
        for i in range(100):
            ask(rng.choice(replicas), i % 10, who, callers[who][1])

    with ThreadPoolExecutor() as pool:
        asking = [pool.submit(many, who) for who in callers]
        until(lambda: counting.calls > 100)
        redis_process.kill()
        until(lambda: counting.calls > 200)
        redis_process.start()
        for one in asking:
            one.result()
    until(lambda: not any(replica.busy() or replica.service.ledger.owed for replica in replicas), "writing")
    counted = counting.nano()
    ids = {who: key for who, (key, _) in callers.items()}
    expected = {(ids[who], name): nano for (who, name), nano in counted.items()}
    assert counting.calls > 300 and all((who, name) in counted for who in callers for name in PRICES)
    found = {group: cost for group, cost in costs(replicas[1], "key,expert").items() if cost}
    assert found == expected
    by_who = {who: sum(nano for (one, _), nano in counted.items() if one == who) for who in callers}
    assert costs(replicas[0], "team") == {"": by_who["configured"], "lab": by_who["ann"] + by_who["bob"]}
    assert costs(replicas[0], "tag") == {
        "": by_who["configured"],
        "eu": by_who["ann"],
        "prod": by_who["ann"] + by_who["bob"],
    }
    total = asked(replicas[0]).json()["total"]
    assert total["cost_nano"] == sum(counted.values())
    assert total["calls"] == counting.calls, "each time that an upstream was asked is a call"
    assert total["estimated"] == 30 and total["cache_write_1h_tokens"] > 0 and total["reasoning_tokens"] > 0
    thoughts = sum(replica.metric("pointsman_tokens_total", kind="reasoning") for replica in replicas)
    assert thoughts == total["reasoning_tokens"]
    mine = asked(replicas[0], "/v1/spend", callers["ann"][1], by="expert").json()
    assert mine["total"]["cost_nano"] == by_who["ann"]


def test_a_key_that_changes_team_and_name_leaves_its_past_where_it_was(alone: World) -> None:
    gateway = alone.start()
    for name in ("lab", "sales"):
        team(gateway, name)
    key, headers = made(gateway, "ann", team="lab", tags=["old"])
    gateway.chat("small", headers=headers)
    cost = costs(gateway, "key")[key]
    changed = {"name": "anna", "team": "sales", "tags": ["new"]}
    assert gateway.client.patch(f"/admin/api/keys/{key}", json=changed, headers=ADMIN).status_code == 200
    gateway.chat("small", headers=headers)
    assert costs(gateway, "team") == {"lab": cost, "sales": cost}
    assert costs(gateway, "tag") == {"old": cost, "new": cost}
    (row,) = asked(gateway, by="key").json()["data"]
    assert (row["key"], row["key_name"], row["cost_nano"]) == (key, "anna", 2 * cost)


def test_a_call_that_the_caller_did_not_wait_for_is_on_their_account(alone: World) -> None:
    gateway = alone.start()
    alone.small.script(hang, hang)
    for count, (path, body) in enumerate(
        [
            ("/v1/embeddings", {"model": "vectors", "input": "h" * 400}),
            ("/v1/chat/completions", {"model": "small", "messages": HELLO}),
        ],
        1,
    ):
        client = gateway.connect()
        key = "authorization: Bearer configured-key-marker"
        client.sendall(request_bytes(json.dumps(body).encode(), key, path=path))
        received = alone.small.wait_for(count)
        client.close()
        assert received.gone.wait(20)
    until(lambda: not gateway.busy(), "the requests' end")
    found = costs(gateway, "expert,key")
    assert found["vectors", "configured"] == 100 * 20
    assert found["small", "configured"] == 6 * 1500


def test_an_expert_that_was_given_up_on_is_paid_for_what_it_had_read(alone: World) -> None:
    slow = expert("large", alone.large.url, price=PRICES["large"], first_byte_timeout_s=0.05)
    gateway = alone.start(experts=[alone.settings["experts"][0], slow])
    alone.large.script(hang)
    answer = gateway.chat("auto:best", headers={"authorization": "Bearer configured-key-marker"}, max_tokens=1)
    assert answer.headers["x-pointsman-expert"] == "small"
    found = costs(gateway, "expert")
    assert found["small"] == 11 * 1500 + 2 * 2000
    assert found["large"] in (6 * 10_000, 6 * 10_000 + 30_000), "its prompt, and a word if it had the time"
    total = asked(gateway).json()["total"]
    assert (total["calls"], total["estimated"]) == (2, 1)
    assert total["estimated_nano"] == found["large"] and total["estimated_usd"] == found["large"] / 1e9


def test_an_expert_priced_by_the_second_costs_the_time_it_took(alone: World) -> None:
    local = expert("small", alone.small.url, price={"per_second": 0.002})
    gateway = alone.start(experts=[local, *alone.settings["experts"][1:]])
    key = {"authorization": "Bearer configured-key-marker"}
    alone.small.script(answers(), streams(pause_s=0.02))
    answer = gateway.chat("small", headers=key)
    whole = Decimal(answer.headers["x-pointsman-cost-usd"])
    assert 0 < whole < Decimal("0.02")
    events = gateway.chat("small", headers=key, stream=True, stream_options={"include_usage": True}).text
    said = json.loads(events.split("data: ")[-2])["usage"]["cost_usd"]
    assert said >= 0.002 * 4 * 0.02  # the usage comes after four pauses
    total = costs(gateway, "expert")["small"] / 1e9 - float(whole)
    assert total == pytest.approx(said, abs=0.002 * 0.5)
    decision = gateway.client.post("/v1/route", json={"model": "auto", "messages": HELLO}, headers=key).json()
    (small,) = (one for one in decision["candidates"] if one["expert"] == "small")
    assert small["cost_usd"] > 0, "the choice knows what the time will cost"


def test_nobody_sees_another_keys_spend(alone: World) -> None:
    gateway = alone.start()
    _, ann = made(gateway, "ann")
    _, bob = made(gateway, "bob")
    gateway.chat("small", headers=ann)
    until(lambda: not gateway.service.ledger.owed, "writing")
    assert asked(gateway, "/v1/spend", ann).json()["total"]["calls"] == 1
    assert asked(gateway, "/v1/spend", bob).json()["total"]["calls"] == 0
    assert asked(gateway, "/v1/spend", {}).status_code == 401
    assert asked(gateway, "/admin/api/spend", ann).status_code == 401
    assert asked(gateway, "/v1/spend", ann, by="key").json()["error"]["message"] == (
        "by: no 'key'; there are: day, expert"
    )


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"from": "yesterday"}, "from: expected a day as"),
        ({"to": "2026-02-30"}, "got '2026-02-30'"),
        ({"from": "0001-01-01"}, "got '0001-01-01'"),
        ({"from": "2026-03-02", "to": "2026-03-01"}, "2026-03-02 is after 2026-03-01"),
        ({"from": "2020-01-01", "to": "2026-01-01"}, "2193 days, at most 400"),
        ({"by": "month"}, "no 'month'; there are: day, expert, key, team, tag"),
        ({"by": ""}, "no ''"),
        ({"since": "2026-01-01"}, "unknown parameter; there are: from, to, by"),
    ],
)
def test_a_wrong_question_is_told_what_may_be_asked(query: dict[str, str], said: str, alone: World) -> None:
    answer = asked(alone.start(), **query)
    assert answer.status_code == 400 and said in answer.json()["error"]["message"]


def test_without_redis_the_answer_is_that_it_is_away(alone: World, redis_process: RedisProcess) -> None:
    gateway = alone.start()
    redis_process.kill()
    answer = asked(gateway)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ledger_unavailable")
    redis_process.start()


def run(gateway: Gateway, *args: str) -> Result:
    env = {"POINTSMAN_URL": gateway.url, "POINTSMAN_ADMIN_KEY": CREDENTIAL, "COLUMNS": "160"}
    result: Result = CliRunner().invoke(spend, args, env=env)
    return result


def test_the_command_prints_a_table_and_json(alone: World, small: Upstream) -> None:
    gateway = alone.start()
    _, headers = made(gateway, "ann", tags=["prod"])
    usage = {"prompt_tokens": 1000, "completion_tokens": 50, "prompt_tokens_details": {"cached_tokens": 400}}
    small.script(answers(completion(usage=usage)))
    gateway.chat("small", headers=headers)
    costs(gateway, "day")
    table = run(gateway, "--by", "key,day")
    assert table.exit_code == 0, table.output
    heads, row, total = (line.split() for line in table.stdout.splitlines()[1:] if line.strip())
    assert heads == ["key", "day", "calls", "input", "cached", "output", "USD"]
    today = datetime.now(UTC).date().isoformat()
    assert row == ["ann", today, "1", "1,000", "400", "50", "0.001150000"]
    assert total == ["all", *row[2:]]
    found = json.loads(run(gateway, "--by", "tag", "--json").stdout)
    assert [one["tag"] for one in found["data"]] == ["prod"] and found["total"]["cost_nano"] == 1_150_000
    wrong = run(gateway, "--from", "tomorrow")
    assert wrong.exit_code != 0 and "expected a day" in str(wrong.exception)


def test_the_decision_log_says_of_which_kinds_the_tokens_were(alone: World, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    gateway = alone.start(decisions={"folder": str(tmp_path), "rotate_rows": 1})
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 30},
        "completion_tokens_details": {"reasoning_tokens": 20},
    }
    alone.small.script(answers(completion(usage=usage)))
    gateway.chat("small", headers={"authorization": "Bearer configured-key-marker"})
    (path,) = until(lambda: list(tmp_path.glob("day=*/*.parquet")), "the row")
    (row,) = parquet.ParquetFile(path).read().to_pylist()
    names = ("input_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens", "audio_input_tokens")
    assert [row[name] for name in names] == [100, 40, 30, 20, 0]
