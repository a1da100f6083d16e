"""Virtual keys and teams through running gateways: two replicas, one Redis, OpenAI's client."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis_process import RedisProcess
from serving import HELLO, Gateway, Loop, World, on, until

ADMIN = {"authorization": "Bearer admin-credential-marker"}
AUTH = {"secret": {"env": "POINTSMAN_TEST_SECRET"}, "admin": {"env": "POINTSMAN_TEST_ADMIN"}}
SOON_S = 1.0


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_TEST_SECRET", "a-server-secret-marker")
    monkeypatch.setenv("POINTSMAN_TEST_ADMIN", "admin-credential-marker")


@pytest.fixture
def alone(world: World, redis_process: RedisProcess) -> World:
    """A world with a Redis of its own, and time to wait for it on a busy machine."""
    world.settings |= {"ledger": {"url": redis_process.url, "wait_ms": 1000}, "auth": AUTH}
    return world


def admin(gateway: Gateway, method: str, path: str, body: Any = None, headers: Any = ADMIN) -> httpx.Response:
    return gateway.client.request(method, f"/admin/api/{path}", json=body, headers=headers)


def created(gateway: Gateway, name: str = "app", **fields: Any) -> dict[str, Any]:
    answer = admin(gateway, "POST", "keys", {"name": name, **fields})
    assert answer.status_code == 201, answer.text
    key: dict[str, Any] = answer.json()
    return key


def ask(gateway: Gateway, key: str, model: str = "small", **more: Any) -> Any:
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0)
    return client.chat.completions.with_raw_response.create(model=model, messages=HELLO, **more)  # type: ignore[call-overload]


def status(gateway: Gateway, key: str) -> int:
    return gateway.chat("small", headers={"authorization": f"Bearer {key}"}).status_code


def soon(gateway: Gateway, key: str, expected: int) -> None:
    """The gateway answers so within a second, busy machine or not: it is asked without a pause."""
    began = time.monotonic()
    until(lambda: status(gateway, key) == expected, f"status {expected}")
    assert time.monotonic() - began < SOON_S + 0.5


def settled(gateway: Gateway) -> None:
    owed = gateway.service.admission
    assert owed is not None
    until(lambda: not owed.owed, "settling")


def test_a_created_key_serves_an_official_client_on_every_replica(alone: World) -> None:
    one, two = alone.start(), alone.start()
    key = created(one, owner="Ada", tags=["prod"])
    assert key["key"].startswith("pmk_") and key["status"] == "active"
    assert ask(one, key["key"]).status_code == 200
    soon(two, key["key"], 200)
    assert ask(two, key["key"]).status_code == 200


def test_a_secret_is_kept_nowhere(alone: World, redis_process: RedisProcess, logged: list[str]) -> None:
    gateway = alone.start()
    key = created(gateway)
    plain, rotated = key["key"], admin(gateway, "POST", "keys/app/rotate", {}).json()["key"]
    assert status(gateway, plain) == 200
    for path in ("keys", f"keys/{key['id']}", "audit"):
        said = admin(gateway, "GET", path).text
        assert plain not in said and rotated not in said and "digest" not in said
    redis_process.command("BGREWRITEAOF")
    stored = b"".join(path.read_bytes() for path in redis_process.folder.rglob("*") if path.is_file())
    assert key["id"].encode() in stored
    for secret in (plain, rotated, "admin-credential-marker", "a-server-secret-marker"):
        assert secret.encode() not in stored and secret not in "".join(logged)


def test_revoking_is_heard_on_the_other_replica_within_a_second(alone: World) -> None:
    one, two = alone.start(), alone.start()
    key = created(one)["key"]
    soon(two, key, 200)
    assert admin(one, "POST", "keys/app/revoke").json()["status"] == "revoked"
    assert status(one, key) == 401
    soon(two, key, 401)


def test_a_revoked_an_expired_a_wrong_and_a_missing_key_are_told_the_same(alone: World) -> None:
    gateway = alone.start()
    revoked = created(gateway, "first")["key"]
    admin(gateway, "POST", "keys/first/revoke")
    ends = datetime.now(UTC) + timedelta(seconds=0.3)
    expired = created(gateway, "second", expires_at=ends.isoformat())["key"]
    soon(gateway, expired, 401)
    assert admin(gateway, "GET", "keys/second").json()["status"] == "expired"
    bodies = [
        gateway.chat("small", headers=headers)
        for headers in (*({"x-api-key": key} for key in (revoked, expired, "pmk_wrong")), {})
    ]
    assert {answer.status_code for answer in bodies} == {401}
    assert len({answer.text for answer in bodies}) == 1


def test_after_rotation_both_secrets_are_valid_until_the_overlap_ends(alone: World) -> None:
    gateway = alone.start()
    old = created(gateway)["key"]
    new = admin(gateway, "POST", "keys/app/rotate", {"overlap_s": 0.7}).json()["key"]
    assert (status(gateway, old), status(gateway, new)) == (200, 200)
    until(lambda: status(gateway, old) == 401, "the overlap's end")
    assert status(gateway, new) == 200
    newest = admin(gateway, "POST", "keys/app/rotate", {"overlap_s": 0}).json()["key"]
    assert (status(gateway, new), status(gateway, newest)) == (401, 200)


def test_a_team_budget_counts_all_its_keys_on_all_replicas(alone: World) -> None:
    one, two = alone.start(), alone.start()
    # an answer is 11 in and 2 out of `small`: 15 millionths of a dollar; about 104 are expected
    assert (
        admin(one, "POST", "teams", {"name": "lab", "budget": {"usd": 0.000125, "per": "day"}}).status_code == 201
    )
    first, second = (created(one, name, team="lab")["key"] for name in ("a", "b"))
    other = created(one, "c")["key"]
    soon(two, other, 200)
    assert ask(one, first).status_code == 200
    settled(one)
    assert ask(two, second).status_code == 200
    settled(two)
    for gateway, key in ((one, first), (two, second)):
        with pytest.raises(openai.RateLimitError, match=r"team 'lab' has \$0\.000095 left of its budget"):
            ask(gateway, key)
    assert ask(two, other).status_code == 200
    admin(one, "PATCH", "teams/lab", {"budget": {"usd": 1, "per": "day"}})
    soon(two, second, 200)


def test_limits_of_a_key_hold_and_change_without_a_restart(alone: World) -> None:
    gateway = alone.start()
    key = created(gateway, limits={"requests_per_minute": 1})["key"]
    assert ask(gateway, key).headers["x-ratelimit-remaining-requests"] == "0"
    with pytest.raises(openai.RateLimitError, match="key 'app' is at its limit"):
        ask(gateway, key)
    assert admin(gateway, "PATCH", "keys/app", {"limits": None}).status_code == 200
    assert "x-ratelimit-limit-requests" not in ask(gateway, key).headers


def test_a_key_reaches_its_models_only(alone: World) -> None:
    gateway = alone.start()
    key = created(gateway, models=["small"])["key"]
    assert ask(gateway, key, "auto:best").headers["x-pointsman-expert"] == "small"
    assert ask(gateway, key, "small", extra_body={"routing": {"fallback": True}}).status_code == 200
    with pytest.raises(openai.PermissionDeniedError, match="may not use 'large'; it may use: small"):
        ask(gateway, key, "large")
    with pytest.raises(openai.UnprocessableEntityError, match="large: the key may not use it"):
        ask(gateway, key, "auto", extra_body={"routing": {"only": ["large"]}})
    headers = {"authorization": f"Bearer {key}"}
    listed = [one["id"] for one in gateway.client.get("/v1/models", headers=headers).json()["data"]]
    assert "small" in listed and "large" not in listed
    assert gateway.client.get("/v1/models/large", headers=headers).status_code == 404
    decision = gateway.post("/v1/route", model="auto:best", messages=HELLO, headers=headers).json()
    assert decision["expert"] == "small"
    assert not alone.large.requests


def test_an_embedding_model_is_one_of_its_models_too(alone: World) -> None:
    embedder = {**alone.settings["experts"][0], "name": "embedder", "serves": "embeddings", "tier": None}
    alone.settings["experts"].append(embedder)
    gateway = alone.start()
    headers = {"authorization": f"Bearer {created(gateway, models=['small'])['key']}"}
    answer = gateway.post("/v1/embeddings", model="auto", input="hello", headers=headers)
    assert answer.status_code == 403 and "may not use 'embedder'" in answer.json()["error"]["message"]
    assert not alone.small.requests
    assert created(gateway, "other", models=["embedder"])["models"] == ["embedder"]


def test_a_key_has_its_preferences_and_policies_only(alone: World) -> None:
    gateway = alone.start()
    key = created(gateway, preferences=["cheap"])["key"]
    assert ask(gateway, key, "auto").headers["x-pointsman-expert"] == "small"
    with pytest.raises(openai.PermissionDeniedError, match="may not ask for 'best'; it may for: cheap"):
        ask(gateway, key, "auto:best")
    other = created(gateway, "other", policies=["knn"])["key"]
    with pytest.raises(openai.PermissionDeniedError, match="may not be routed by static@"):
        ask(gateway, other, "auto")
    assert ask(gateway, other, "small").status_code == 200


def test_the_audit_log_says_who_when_before_and_after(alone: World) -> None:
    gateway = alone.start(auth=AUTH | {"admin": [{"env": "POINTSMAN_TEST_ADMIN", "name": "carol"}]})
    created(gateway, owner="Ada")
    admin(gateway, "PATCH", "keys/app", {"owner": "Bo"})
    admin(gateway, "POST", "keys/app/revoke")
    admin(gateway, "POST", "keys/app/revoke")
    entries = admin(gateway, "GET", "audit").json()["data"]
    assert [entry["action"] for entry in entries] == ["key.revoke", "key.update", "key.create"]
    assert {entry["who"] for entry in entries} == {"carol"}
    update = entries[1]
    assert (update["before"]["owner"], update["after"]["owner"]) == ("Ada", "Bo")
    assert abs(datetime.fromisoformat(update["at"]).timestamp() - time.time()) < 60
    assert admin(gateway, "GET", "audit?before=0-0").json()["data"] == []
    older = admin(gateway, "GET", f"audit?limit=1&before={entries[1]['id']}").json()["data"]
    assert older == entries[2:]


def test_the_admin_api_asks_for_its_own_credential(alone: World) -> None:
    gateway = alone.start()
    key = created(gateway)["key"]
    for headers in ({}, {"authorization": f"Bearer {key}"}, {"x-api-key": "admin-credential"}):
        for method, path in (("GET", "keys"), ("POST", "teams"), ("GET", "audit"), ("POST", "keys/app/revoke")):
            answer = admin(gateway, method, path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert status(gateway, "admin-credential-marker") == 401
    assert status(gateway, key) == 200


def test_without_an_admin_credential_there_is_no_admin_api(alone: World) -> None:
    gateway = alone.start(auth={"secret": AUTH["secret"]})
    answer = admin(gateway, "GET", "keys")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "admin_off")
    assert not [path for path in gateway.client.get("/openapi.json").json()["paths"] if "admin" in path]


def test_without_a_server_secret_keys_are_not_made(alone: World) -> None:
    gateway = alone.start(auth={"admin": AUTH["admin"]})
    answer = admin(gateway, "POST", "keys", {"name": "app"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "keys_off")
    assert "auth.secret" in answer.json()["error"]["message"]
    assert gateway.service.admission is None and gateway.service.registry is None


WRONG: list[tuple[str, str, Any, int, str | None]] = [
    ("POST", "keys", {}, 400, "name"),
    ("POST", "keys", {"name": "x", "budget": {"usd": -1, "per": "day"}}, 400, "budget.0.usd"),
    ("POST", "keys", {"name": "x", "budget": {"usd": 1}}, 400, "budget.0"),
    ("POST", "keys", {"name": "x", "limits": {"requests_per_minute": 0}}, 400, "limits.requests_per_minute"),
    ("POST", "keys", {"name": "x", "limits": 5}, 400, "limits"),
    ("POST", "keys", {"name": "x", "colour": 1}, 400, "colour"),
    ("POST", "keys", {"name": "key_1"}, 400, "name"),
    ("POST", "keys", {"name": "a/b"}, 400, "name"),
    ("POST", "keys", {"name": "x", "models": ["nope"]}, 400, "models"),
    ("POST", "keys", {"name": "x", "models": []}, 400, "models"),
    ("POST", "keys", {"name": "x", "team": "nope"}, 400, "team"),
    ("POST", "keys", {"name": "x", "expires_at": "2001-01-01T00:00:00Z"}, 400, "expires_at"),
    ("POST", "keys", {"name": "x", "expires_at": "2101-01-01T00:00:00"}, 400, "expires_at"),
    ("POST", "keys", {"name": "x", "expires_at": "nan"}, 400, "expires_at"),
    ("POST", "keys", {"name": "x", "expires_at": 1e300}, 400, "expires_at"),
    ("POST", "keys", {"name": "x", "owner": "a\nb"}, 400, "owner"),
    ("POST", "keys", [], 400, None),
    ("POST", "keys", {"name": "there"}, 409, "name"),
    ("POST", "keys", {"name": "anonymous"}, 409, "name"),
    ("GET", "keys/key_0", None, 404, "id"),
    ("PATCH", "keys/key_0", {}, 404, "id"),
    ("PATCH", "keys/there", {"name": None}, 400, "name"),
    ("PATCH", "keys/there", {"id": "key_1"}, 400, "id"),
    ("POST", "keys/nope/revoke", None, 404, "id"),
    ("POST", "keys/there/rotate", {"overlap_s": -1}, 400, "overlap_s"),
    ("POST", "keys/there/rotate", {"overlap_s": "long"}, 400, "overlap_s"),
    ("POST", "keys/there/rotate", {"overlap": 1}, 400, "overlap"),
    ("GET", "keys?team=nope", None, 404, "name"),
    ("GET", "keys?colour=red", None, 400, "colour"),
    ("GET", "teams/nope", None, 404, "name"),
    ("DELETE", "teams/lab", None, 409, None),
    ("PATCH", "teams/lab", {"name": "other"}, 400, "name"),
    ("GET", "audit?limit=0", None, 400, "limit"),
    ("GET", "audit?before=yesterday", None, 400, "before"),
    ("GET", "nothing", None, 404, None),
    ("PUT", "keys", {}, 405, None),
]


def test_what_is_wrong_is_told_with_its_field_and_changes_nothing(alone: World) -> None:
    gateway = alone.start()
    admin(gateway, "POST", "teams", {"name": "lab"})
    created(gateway, "there", team="lab")
    for method, path, body, code, field in WRONG:
        answer = admin(gateway, method, path, body)
        assert answer.status_code == code, (method, path, body, answer.text)
        assert answer.json()["error"]["param"] == field, (method, path, body, answer.text)
    assert len(admin(gateway, "GET", "audit").json()["data"]) == 2


def test_keys_outlive_a_restart_of_gateway_and_redis(alone: World, redis_process: RedisProcess) -> None:
    one = alone.start()
    key = created(one)["key"]
    one.stop()
    alone.running.remove(one)
    redis_process.command("SHUTDOWN")  # it writes what it holds, as a machine that is restarted lets it
    redis_process.kill()
    redis_process.start()
    assert status(alone.start(), key) == 200


def test_another_server_secret_stops_the_start(alone: World, monkeypatch: pytest.MonkeyPatch) -> None:
    created(alone.start())
    monkeypatch.setenv("POINTSMAN_TEST_SECRET", "quite-another-secret")
    with pytest.raises(Exception, match=r"auth\.secret is not the one under which the keys"):
        alone.start()


def test_a_record_that_is_not_ours_lets_nobody_in_and_stops_nothing(
    alone: World, redis_process: RedisProcess
) -> None:
    gateway = alone.start()
    key, other = created(gateway), created(gateway, "other")
    redis = Redis.from_url(redis_process.url)
    redis.hset("pointsman:{ledger}:keys:records", f"key:{key['id']}", b'{"name": 1}')
    redis.zadd("pointsman:{ledger}:keys:changed", {f"key:{key['id']}": 3})
    redis.hset("pointsman:{ledger}:keys:state", "number", 3)
    redis.close()
    soon(gateway, key["key"], 401)
    assert status(gateway, other["key"]) == 200


def test_a_frozen_redis_changes_nothing_for_known_keys(alone: World, redis_process: RedisProcess) -> None:
    alone.settings["ledger"]["wait_ms"] = 5
    gateway = alone.start()
    key = created(gateway)["key"]
    redis_process.freeze()
    try:
        assert (status(gateway, key), status(gateway, "pmk_wrong")) == (200, 401)
        answer = admin(gateway, "POST", "keys/app/revoke")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ledger_unavailable")
        until(lambda: gateway.client.get("/readyz").json()["keys"]["status"] == "degraded")
        assert status(gateway, key) == 200
    finally:
        redis_process.thaw()
    assert until(lambda: gateway.client.get("/readyz").json()["keys"]["status"] == "ok")


def test_until_redis_was_read_nobody_is_taken_for_a_stranger(alone: World, redis_process: RedisProcess) -> None:
    one = alone.start()
    key = created(one)["key"]
    redis_process.command("SHUTDOWN")
    redis_process.kill()
    two = alone.start()
    for one_key in (key, "pmk_wrong"):
        answer = two.chat("small", headers={"x-api-key": one_key})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ledger_unavailable")
        assert answer.headers["retry-after"] == "1"
    assert status(one, key) == 200
    redis_process.start()
    until(lambda: (status(two, key), status(two, "pmk_wrong")) == (200, 401))


class Cable:
    """A way to a Redis that can be cut while Redis goes on."""

    def __init__(self, loop: Loop, redis: RedisProcess) -> None:
        self.url = f"unix://{redis.folder}/cable.sock"
        self._loop, self._folder = loop, redis.folder
        self._pipes: set[asyncio.Task[None]] = set()
        self._server: asyncio.AbstractServer | None = None

    def mend(self) -> None:
        async def listen() -> None:
            self._server = await asyncio.start_unix_server(self._connected, f"{self._folder}/cable.sock")

        on(self._loop, listen())

    def cut(self) -> None:
        async def end() -> None:
            if self._server is not None:
                self._server.close()
            for pipe in self._pipes:
                pipe.cancel()
            (self._folder / "cable.sock").unlink(missing_ok=True)

        on(self._loop, end())

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(f"{self._folder}/redis.sock")
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            pipe = asyncio.create_task(self._pipe(source, sink))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    @staticmethod
    async def _pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            try:
                while data := await source.read(65_536):
                    sink.write(data)
            finally:
                sink.close()


@pytest.fixture
def cable(other_loop: Loop, redis_process: RedisProcess) -> Iterator[Cable]:
    cable = Cable(other_loop, redis_process)
    cable.mend()
    yield cable
    cable.cut()


def test_a_key_revoked_while_redis_was_away_is_refused_once_it_is_back(alone: World, cable: Cable) -> None:
    one, two = alone.start(), alone.start(ledger={"url": cable.url, "wait_ms": 5})
    key, other = created(one)["key"], created(one, "other")["key"]
    soon(two, other, 200)
    cable.cut()
    admin(one, "POST", "keys/app/revoke")
    until(lambda: two.client.get("/readyz").json()["keys"]["status"] == "degraded")
    assert (status(two, key), status(one, key)) == (200, 401)
    cable.mend()
    soon(two, key, 401)
    assert status(two, other) == 200


def test_of_changes_at_once_on_two_replicas_none_is_lost(alone: World) -> None:
    gateways = alone.start(), alone.start()

    def create(n: int) -> int:
        return admin(gateways[n % 2], "POST", "keys", {"name": f"app-{n // 2}"}).status_code

    with ThreadPoolExecutor(4) as threads:
        codes = list(threads.map(create, range(12)))
    for pair in range(6):
        assert sorted(codes[2 * pair : 2 * pair + 2]) == [201, 409]
    assert len(admin(gateways[0], "GET", "keys").json()["data"]) == 6
    assert len(admin(gateways[0], "GET", "audit").json()["data"]) == 6


FIELDS = (
    "name",
    "owner",
    "team",
    "expires_at",
    "models",
    "preferences",
    "limits",
    "budget",
    "tags",
    "overlap_s",
    "x",
)
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
)
JSON = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner))
LIKELY = st.sampled_from(
    ["app", "key_1", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", 1e12, {"usd": 1e-30, "per": "day"}]
)


@pytest.fixture(scope="module")
def fuzzed(one_for_all: World) -> Iterator[Gateway]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POINTSMAN_TEST_SECRET", "a-server-secret-marker")
        patch.setenv("POINTSMAN_TEST_ADMIN", "admin-credential-marker")
        yield one_for_all.start(auth=AUTH)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from([("POST", "keys"), ("PATCH", "keys/app"), ("POST", "keys/app/rotate"), ("POST", "teams")]),
    body=st.dictionaries(st.sampled_from(FIELDS), JSON | LIKELY, max_size=4).map(
        lambda body: {"name": "app"} | body
    ),
)
def test_no_body_of_whatever_shape_is_an_error_of_ours(
    path: tuple[str, str], body: dict[str, Any], fuzzed: Gateway
) -> None:
    answer = admin(fuzzed, *path, body)
    assert answer.status_code in (200, 201) or answer.json()["error"]["message"], answer.text
    assert answer.status_code < 500, answer.text
    assert admin(fuzzed, "GET", "keys").status_code == 200
