"""API keys: who may call what, and that no answer or log line shows one."""

from typing import Any

import pytest
from serving import HELLO, Gateway, World
from upstream import Upstream, refuses

from router.config import parse_settings
from router.errors import ConfigError

KEYS = {"keys": [{"name": "alice", "env": "ALICE"}, {"name": "bob", "env": "BOB"}]}


@pytest.fixture
def locked(world: World, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    monkeypatch.setenv("ALICE", "sk-alice-marker")
    monkeypatch.setenv("BOB", "sk-bob-marker")
    return world.start(auth=KEYS)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer sk-alice-marker"},
        {"authorization": "bearer  sk-bob-marker"},
        {"x-api-key": "sk-bob-marker"},
    ],
)
def test_a_known_key_may_call(headers: dict[str, str], locked: Gateway) -> None:
    assert locked.chat("small", headers=headers).status_code == 200


WRONG = [
    {},
    {"authorization": "Bearer wrong-marker"},
    {"authorization": "Bearer"},
    {"authorization": "sk-alice-marker"},
    {"authorization": "Basic c2stYWxpY2UtbWFya2Vy"},
    {"authorization": "Bearer sk-alice-marke"},
    {"authorization": "Bearer SK-ALICE-MARKER"},
    {"x-api-key": ""},
    {"authorization": "Bearer wrong-marker", "x-api-key": "sk-alice-marker"},
    {"authorization": b"Bearer \xff\xfe"},
]


@pytest.mark.parametrize("headers", WRONG)
def test_without_a_known_key_nothing_is_told(
    headers: dict[str, str], locked: Gateway, small: Upstream, logged: list[str]
) -> None:
    answer = locked.chat("small", headers=headers)
    assert answer.status_code == 401 and not small.requests
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == ("invalid_api_key", "authentication_error")
    assert "marker" not in answer.text and "marker" not in "".join(logged)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/route"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/small"),
    ],
)
def test_every_surface_asks_for_the_key(method: str, path: str, locked: Gateway) -> None:
    body = {"model": "small", "messages": HELLO, "input": "x"} if method == "POST" else None
    assert locked.client.request(method, path, json=body).status_code == 401
    key = {"authorization": "Bearer sk-alice-marker"}
    assert locked.client.request(method, path, json=body, headers=key).status_code != 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_who_watches_over_it_needs_no_key(path: str, locked: Gateway) -> None:
    assert locked.client.get(path).status_code == 200


def test_the_body_of_a_stranger_is_not_read(locked: Gateway) -> None:
    """A stranger with a body over the limit learns that the key is wrong, and nothing of the limit."""
    assert locked.send(b"x" * 9_000_000).status_code == 401


def test_the_callers_key_is_not_handed_to_the_expert(locked: Gateway, small: Upstream) -> None:
    locked.chat("small", headers={"authorization": "Bearer sk-alice-marker"})
    assert "sk-alice-marker" not in str(small.requests[0].headers)


def test_the_log_names_the_caller_and_not_the_key(locked: Gateway, small: Upstream, logged: list[str]) -> None:
    small.script(refuses(400))
    locked.chat("small", headers={"authorization": "Bearer sk-bob-marker"})
    text = "".join(logged)
    assert "caller=bob" in text and "marker" not in text


def test_without_keys_everyone_may_call(gateway: Gateway) -> None:
    assert gateway.chat("small", headers={"authorization": "Bearer anything"}).status_code == 200


def test_a_key_that_is_not_there_stops_the_start(world: World) -> None:
    with pytest.raises(ConfigError, match=r"auth\.keys\.alice: the environment variable ALICE is not set"):
        world.start(auth=KEYS)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "gateway.example"])
def test_an_open_door_to_the_world_must_be_asked_for(host: str, world: World) -> None:
    open_door = {**world.settings, "host": host}
    with pytest.raises(ConfigError, match=r"auth\.keys"):
        parse_settings(open_door)
    assert parse_settings({**open_door, "auth": {"allow_anonymous": True}}).host == host
    assert parse_settings({**open_door, "auth": KEYS}).host == host
    assert parse_settings({**open_door, "auth": {"secret": {"env": "X"}}}).host == host


@pytest.mark.parametrize("auth", [{"secret": "marker"}, {"admin": "marker"}, {"admin": ["marker"]}])
def test_a_secret_in_the_configuration_is_not_shown(auth: dict[str, Any], world: World) -> None:
    with pytest.raises(ConfigError, match="a secret is never written here") as refused:
        parse_settings({**world.settings, "auth": auth})
    assert "marker" not in str(refused.value)


def test_a_weak_server_secret_and_a_shared_credential_stop_the_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALICE", "sk-alice-marker")
    for auth, said in (
        ({"secret": {"env": "ALICE"}}, r"auth\.secret: too short"),
        (
            {"admin": {"env": "ALICE"}, "keys": [{"name": "alice", "env": "ALICE"}]},
            r"auth\.admin: .* one of its own",
        ),
    ):
        with pytest.raises(ConfigError, match=said):
            world.start(auth=auth)
