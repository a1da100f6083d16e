"""The configuration through the admin API: read back, read anew, and experts changed on every replica."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis_process import RedisProcess
from serving import Gateway, World, expert, until
from upstream import refuses

from gateway.config_command import config, experts
from router.config import parse_expert, parse_settings
from router.config_experts import EndpointSettings, RemoteSettings, SimulatedSettings
from router.errors import ConfigError
from router.experts.overlay import ExpertRecord, Overlay, overlaid

ADMIN = {"authorization": "Bearer admin-credential-marker"}
AUTH = {"secret": {"env": "POINTSMAN_TEST_SECRET"}, "admin": {"name": "root", "env": "POINTSMAN_TEST_ADMIN"}}
FIXED_AUTH = {"admin": {"env": "POINTSMAN_TEST_ADMIN"}, "keys": [{"name": "app", "env": "POINTSMAN_TEST_APP"}]}
APP = {"x-api-key": "app-key-marker"}


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_TEST_SECRET", "a-server-secret-marker")
    monkeypatch.setenv("POINTSMAN_TEST_ADMIN", "admin-credential-marker")
    monkeypatch.setenv("POINTSMAN_TEST_APP", "app-key-marker")
    monkeypatch.setenv("POINTSMAN_TEST_UPSTREAM", "upstream-key-marker")


@pytest.fixture
def alone(world: World, redis_process: RedisProcess) -> World:
    world.settings |= {"ledger": {"url": redis_process.url, "wait_ms": 1000}, "auth": FIXED_AUTH}
    return world


@pytest.fixture
def live(alone: World, tmp_path: Path) -> Gateway:
    return alone.start(file=tmp_path / "one.yaml")


def admin(gateway: Gateway, method: str, path: str, body: Any = None, headers: Any = ADMIN) -> httpx.Response:
    return gateway.client.request(method, f"/admin/api/{path}", json=body, headers=headers)


def done(gateway: Gateway, method: str, path: str, body: Any = None) -> dict[str, Any]:
    answer = admin(gateway, method, path, body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def extra(world: World, **fields: Any) -> dict[str, Any]:
    return expert("extra", world.small.url, tier="small", **fields)


def serves(gateway: Gateway, name: str) -> bool:
    return gateway.chat(name, headers=APP).status_code == 200


def test_the_configuration_at_work_can_be_read_back(live: Gateway, tmp_path: Path) -> None:
    said = done(live, "GET", "config")
    assert (said["number"], said["from"], said["refused"]) == (1, "start", [])
    assert said["file"] == str(tmp_path / "one.yaml")
    assert [one["name"] for one in said["settings"]["experts"]] == ["small", "large"]
    assert said["settings"]["auth"]["admin"][0]["env"] == "POINTSMAN_TEST_ADMIN"


def test_a_reload_tells_whether_anything_changed_and_what_is_refused(
    live: Gateway, alone: World, tmp_path: Path
) -> None:
    first = done(live, "POST", "config/reload")
    assert not first["changed"]
    file = tmp_path / "one.yaml"
    file.write_text(yaml.safe_dump(alone.having(experts=[*alone.settings["experts"], extra(alone)])))
    second = done(live, "POST", "config/reload")
    assert second["changed"] and second["number"] == 2 and second["digest"] != first["digest"]
    assert serves(live, "extra") and second["from"] == "the admin API (admin)"
    file.write_text(yaml.safe_dump(alone.having(port=1)))
    refused = admin(live, "POST", "config/reload")
    assert refused.status_code == 409 and "port: cannot change" in refused.json()["error"]["message"]
    said = done(live, "GET", "config")
    assert said["number"] == 2 and "port" in said["refused"][0]["message"] and serves(live, "extra")
    entry = done(live, "GET", "audit")["data"][0]
    assert (entry["who"], entry["action"]) == ("admin", "config.reload")
    assert (entry["before"], entry["after"]) == (first["digest"], second["digest"])


def test_no_secret_is_shown_or_logged(alone: World, tmp_path: Path, logged: list[str]) -> None:
    token = tmp_path / "token"
    token.write_text("token-marker")
    keyed = {
        **extra(alone),
        "api_key": {"file": str(token)},
        "headers": {"x-extra": "header-marker"},
        "url": alone.small.url.replace("http://", "http://user:url-marker@")
        + "/token-path-marker?key=query-marker",
    }
    auth = {**FIXED_AUTH, "secret": {"env": "POINTSMAN_TEST_SECRET"}}
    live = alone.start(file=tmp_path / "one.yaml", auth=auth, experts=[*alone.settings["experts"], keyed])
    texts = [admin(live, "GET", "config").text, admin(live, "GET", "experts").text]
    assert "x-extra" in texts[0] and "***" in texts[0]
    for wrong in (
        yaml.safe_dump(alone.having(auth=auth, experts=[{**keyed, "api_key": "literal-marker"}])),
        yaml.safe_dump(alone.having(auth=auth, experts=[{**keyed, "headers": {"x": ["header-marker"]}}])),
        "experts: [{name: a, url: 'http://u:url-marker@h', api_key: literal-marker",
        yaml.safe_dump(alone.having(auth=auth, ledger={"url": "redis://:password-marker@h"})),
    ):
        (tmp_path / "one.yaml").write_text(wrong)
        texts.append(admin(live, "POST", "config/reload").text)
    bodies = [
        {"api_key": "literal-marker"},
        {"headers": {"x": "header-marker"}},
        {"url": "http://u:url-marker@h/v1"},
    ]
    texts += [admin(live, "PUT", "experts/extra", {**extra(alone), **body}).text for body in bodies]
    texts += [admin(live, "GET", "config").text, admin(live, "GET", "audit").text, *logged]
    assert not [text for text in texts if "marker" in text]


def test_an_expert_of_the_api_serves_on_every_replica_and_on_one_that_starts_later(
    live: Gateway, alone: World, tmp_path: Path
) -> None:
    two = alone.start(file=tmp_path / "two.yaml")
    said = done(live, "PUT", "experts/extra", extra(alone))
    assert (said["from"], said["changed_by"], said["state"]) == ("api", "admin", "ok")
    assert serves(live, "extra")
    until(lambda: serves(two, "extra"), "the other replica")
    later = alone.start()
    assert serves(later, "extra")
    digests = {done(gateway, "GET", "config")["digest"] for gateway in (live, two, later)}
    assert len(digests) == 1
    done(live, "DELETE", "experts/extra")
    for gateway in (live, two, later):
        until(lambda gateway=gateway: not serves(gateway, "extra"), "letting it go")
    assert admin(live, "DELETE", "experts/extra").status_code == 404


def test_an_expert_of_the_file_is_overlaid_and_comes_back(live: Gateway, alone: World) -> None:
    small = alone.settings["experts"][0]
    done(live, "PUT", "experts/small", {**small, "price": {"input": 100, "output": 100}})
    assert live.chat("small", headers=APP).headers["x-pointsman-cost-usd"] == "0.001300000"
    assert live.reload(alone.having(policy={**alone.settings["policy"], "preference": "best"}))
    assert done(live, "GET", "experts/small")["settings"]["price"]["input"] == 100, "a reload keeps it"
    done(live, "DELETE", "experts/small")
    assert live.chat("small", headers=APP).headers["x-pointsman-cost-usd"] == "0.000015000"
    refused = admin(live, "DELETE", "experts/small")
    assert refused.status_code == 409 and "enabled: false" in refused.json()["error"]["message"]
    told = done(live, "GET", "audit")["data"]
    assert [[one[when]["price"]["input"] for when in ("before", "after")] for one in told] == [[100, 1], [1, 100]]
    done(live, "PUT", "experts/small", {**small, "enabled": False})
    assert not serves(live, "small") and serves(live, "large")
    assert done(live, "GET", "experts/small")["state"] == "disabled"


def test_every_change_is_in_the_audit_log(live: Gateway, alone: World) -> None:
    done(live, "PUT", "experts/extra", extra(alone))
    done(live, "PUT", "experts/extra", extra(alone, local=True))
    done(live, "DELETE", "experts/extra")
    entries = done(live, "GET", "audit")["data"]
    assert [(one["action"], one["who"], one["name"]) for one in entries] == [
        ("expert.delete", "admin", "extra"),
        ("expert.put", "admin", "extra"),
        ("expert.put", "admin", "extra"),
    ]
    assert [one["before"] and one["before"]["local"] for one in entries] == [True, False, None]
    assert [one["after"] and one["after"]["local"] for one in entries] == [None, True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": None}, "exactly one of `url`"),
        ({"name": "other"}, "the path says 'extra'"),
        ({"kind": "nope"}, "kind"),
        ({"price": {"input": -1, "output": 1}}, "price.input"),
        ({"prize": {}}, "prize: unknown key; there are: price, "),
        ({"api_key": "sk-literal"}, "a secret is never written here"),
        ({"api_key": {"env": "POINTSMAN_TEST_ADMIN"}}, "no expert of the file names the secret"),
        ({"headers": {"x": "y"}}, "may hold a secret"),
        ({"url": "http://user:pw@h/v1"}, "may be a secret"),
        ({"endpoints": [{"url": "http://h/v1?key=1"}], "url": None}, "may be a secret"),
        ({"kind": "remote", "model": "huggingface/https://h/v1", "url": None}, "belongs in api_base"),
        ({"tier": None, "like": "nobody"}, "nobody"),
        ({"url": "http://["}, "experts.extra.url"),
        ({"url": "http://h:99999/v1"}, "experts.extra.url"),
        ({"price": None}, "price"),
    ],
)
def test_a_bad_expert_is_refused_and_nothing_changes(
    change: dict[str, Any], message: str, live: Gateway, alone: World
) -> None:
    body = {key: value for key, value in {**extra(alone), **change}.items() if value is not None}
    before = done(live, "GET", "config")
    refused = admin(live, "PUT", "experts/extra", body)
    assert refused.status_code == 400 and message in refused.json()["error"]["message"], refused.text
    after = done(live, "GET", "config")
    assert (after["number"], after["digest"], after["refused"]) == (1, before["digest"], [])
    assert done(live, "GET", "audit")["data"] == []


def test_the_field_at_fault_is_named(live: Gateway, alone: World) -> None:
    for change, param in (({"price": {"input": "much"}}, "price.input"), ({"kind": "nope"}, None)):
        refused = admin(live, "PUT", "experts/extra", {**extra(alone), **change})
        assert refused.json()["error"]["param"] == param


def test_an_empty_body_and_the_last_chat_expert_are_refused(live: Gateway, alone: World) -> None:
    assert admin(live, "PUT", "experts/extra", {}).status_code == 400
    small, large = alone.settings["experts"]
    done(live, "PUT", "experts/small", {**small, "enabled": False})
    refused = admin(live, "PUT", "experts/large", {**large, "enabled": False})
    assert refused.status_code == 400 and "none of them serves chat" in refused.text


def test_an_expert_of_the_api_may_use_a_secret_that_the_file_names(alone: World, tmp_path: Path) -> None:
    keyed = {**alone.settings["experts"][0], "api_key": {"env": "POINTSMAN_TEST_UPSTREAM"}}
    live = alone.start(file=tmp_path / "one.yaml", experts=[keyed, alone.settings["experts"][1]])
    done(live, "PUT", "experts/extra", extra(alone, api_key={"env": "POINTSMAN_TEST_UPSTREAM"}))
    assert serves(live, "extra")
    assert alone.small.requests[-1].headers["authorization"] == "Bearer upstream-key-marker"
    refused = admin(live, "PUT", "experts/extra", extra(alone, api_key={"env": "HOME"}))
    assert "no expert of the file names the secret" in refused.text


HOME, OTHER = {"env": "POINTSMAN_TEST_UPSTREAM"}, {"env": "POINTSMAN_TEST_APP"}


@pytest.mark.parametrize(
    ("change", "fine"),
    [
        ({"url": "https://known.example:8443/other/v1", "api_key": HOME}, True),
        ({"url": "https://KNOWN.example:8443", "api_key": HOME}, True),
        ({"url": "https://other.example/v1", "api_key": OTHER}, True),
        ({"url": "https://other.example/v1"}, True),
        ({"url": "https://evil.example/v1", "api_key": HOME}, False),
        ({"url": "https://other.example/v1", "api_key": HOME}, False),  # another expert's host
        ({"url": "http://known.example:8443/v1", "api_key": HOME}, False),  # in the clear
        ({"url": "https://known.example/v1", "api_key": HOME}, False),  # another port
        ({"url": "https://known.example:8443.evil.example/v1", "api_key": HOME}, False),
        ({"url": None, "api_key": HOME, "endpoints": [{"url": "https://evil.example/v1"}]}, False),
        ({"url": None, "endpoints": [{"url": "https://evil.example/v1", "api_key": HOME}]}, False),
        ({"url": None, "endpoints": [{"url": "https://known.example:8443/v1", "api_key": HOME}]}, True),
        ({"kind": "remote", "url": None, "model": "acme/new", "api_key": {"env": "POINTSMAN_TEST_SECRET"}}, True),
        ({"kind": "remote", "url": None, "model": "evil/new", "api_key": {"env": "POINTSMAN_TEST_SECRET"}}, False),
        ({"kind": "remote", "url": None, "model": "acme/new", "api_key": HOME}, False),
        (
            {
                "kind": "remote",
                "url": None,
                "model": "acme/new",
                "api_base": "https://evil.example",
                "api_key": {"env": "POINTSMAN_TEST_SECRET"},
            },
            False,
        ),
    ],
)
def test_a_secret_of_the_file_is_sent_only_where_the_file_sends_it(change: dict[str, Any], fine: bool) -> None:
    price = {"input": 1, "output": 1}
    entries = [
        {**expert("one", "https://known.example:8443/v1", tier="small"), "api_key": HOME},
        {**expert("two", "https://other.example/v1", tier="small"), "api_key": OTHER},
        {
            "name": "three",
            "kind": "remote",
            "model": "acme/old",
            "tier": "small",
            "price": price,
            "api_key": {"env": "POINTSMAN_TEST_SECRET"},
        },
    ]
    given = {**expert("extra", "https://h/v1", tier="small"), **change}
    added = parse_expert({key: value for key, value in given.items() if value is not None})
    record = ExpertRecord(settings=added, changed_at=datetime.now(UTC), changed_by="root")
    book = Overlay(experts={"extra": record})
    if fine:
        assert overlaid(parse_settings({"experts": entries}), book).experts[-1] == added
        return
    with pytest.raises(ConfigError, match=r"experts.extra: the file sends the secret {env: \w+} to .*, not to "):
        overlaid(parse_settings({"experts": entries}), book)


def test_a_secret_for_elsewhere_is_refused_with_the_places_there_are(alone: World) -> None:
    keyed = {**alone.settings["experts"][0], "api_key": HOME}
    live = alone.start(experts=[keyed, alone.settings["experts"][1]])
    to = {"url": alone.large.url, "api_key": HOME}
    refused = admin(live, "PUT", "experts/extra", {**extra(alone), **to})
    message = refused.json()["error"]["message"]
    assert refused.status_code == 400
    assert f"to http://127.0.0.1:{alone.small.port}, not to http://127.0.0.1:{alone.large.port}" in message
    assert not serves(live, "extra")


def test_a_replica_that_cannot_take_an_expert_keeps_what_it_has_and_says_so(
    alone: World, tmp_path: Path, logged: list[str]
) -> None:
    keyed = {**alone.settings["experts"][0], "api_key": {"env": "POINTSMAN_TEST_UPSTREAM"}}
    one = alone.start(experts=[keyed, alone.settings["experts"][1]])
    two = alone.start(file=tmp_path / "two.yaml")
    done(one, "PUT", "experts/extra", extra(alone, api_key={"env": "POINTSMAN_TEST_UPSTREAM"}))
    until(lambda: two.metric("pointsman_config_refused") == 1, "the refusal")
    said = done(two, "GET", "config")
    assert "no expert of the file names" in said["refused"][0]["message"] and said["number"] == 1
    assert serves(two, "small") and not serves(two, "extra")
    assert [line for line in logged if "refused, the configuration at work stays" in line]
    later = alone.start()
    assert serves(later, "small") and done(later, "GET", "config")["refused"]
    assert two.reload(alone.having(experts=[keyed, alone.settings["experts"][1]]))
    assert serves(two, "extra") and two.metric("pointsman_config_refused") == 0


def test_an_expert_that_a_replica_refuses_is_listed_there_with_the_reason(
    alone: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyed = {**alone.settings["experts"][0], "api_key": {"env": "POINTSMAN_TEST_UPSTREAM"}}
    one = alone.start(experts=[keyed, alone.settings["experts"][1]])
    two = alone.start()
    done(one, "PUT", "experts/extra", extra(alone, api_key={"env": "POINTSMAN_TEST_UPSTREAM"}))
    done(one, "PUT", "experts/small", {**keyed, "local": True})
    until(lambda: two.metric("pointsman_config_refused") == 1, "the refusal")
    assert [shown["name"] for shown in done(two, "GET", "experts")["data"]] == ["small", "large", "extra"]
    said = done(two, "GET", "experts/extra")
    assert (said["state"], said["from"], said["changed_by"]) == ("refused", "api", "admin")
    assert "experts.extra: no expert of the file names the secret" in said["reason"]
    until(lambda: done(two, "GET", "experts/small")["reason"], "the other's reason")
    said = done(two, "GET", "experts/small")
    assert (said["state"], said["from"], said["settings"]["local"]) == ("ok", "file", False)
    assert said["reason"].startswith("not as the API has it: ")
    assert not [shown for shown in done(one, "GET", "experts")["data"] if shown["reason"]]
    monkeypatch.setenv("POINTSMAN_URL", two.url)
    monkeypatch.setenv("POINTSMAN_ADMIN_KEY", "admin-credential-marker")
    listed = told(experts, "list")
    assert "refused" in listed and "extra: experts.extra: no expert of the file names" in listed


def test_without_redis_nothing_changes_and_the_gateway_serves(
    live: Gateway, alone: World, redis_process: RedisProcess
) -> None:
    done(live, "PUT", "experts/extra", extra(alone))
    redis_process.kill()
    refused = admin(live, "PUT", "experts/extra", extra(alone, local=True))
    assert refused.status_code == 503 and serves(live, "extra")
    assert not done(live, "GET", "experts/extra")["settings"]["local"]
    redis_process.start()
    until(lambda: admin(live, "PUT", "experts/extra", extra(alone, local=True)).status_code == 200, "Redis")


def test_changes_at_the_same_time_are_all_kept(live: Gateway, alone: World) -> None:
    two = alone.start()
    names = [f"extra-{i}" for i in range(6)]

    def put(name: str, gateway: Gateway) -> None:
        done(gateway, "PUT", f"experts/{name}", {**extra(alone), "name": name})

    with ThreadPoolExecutor(len(names)) as at_once:
        list(at_once.map(put, names, [live, two] * 3))
    for gateway in (live, two):
        until(lambda gateway=gateway: all(serves(gateway, name) for name in names), "all of them")
    assert len(done(live, "GET", "audit")["data"]) == len(names)


def test_a_key_may_be_kept_to_an_expert_of_the_api(alone: World) -> None:
    live = alone.start(auth=AUTH)
    unknown = admin(live, "POST", "keys", {"name": "app", "models": ["extra"]})
    assert unknown.status_code == 400 and "none is called 'extra'" in unknown.text
    done(live, "PUT", "experts/extra", extra(alone))
    key = admin(live, "POST", "keys", {"name": "app", "models": ["extra"]}).json()["key"]
    headers = {"x-api-key": key}
    assert live.chat("extra", headers=headers).headers["x-pointsman-expert"] == "extra"
    assert live.chat("auto:best", headers=headers).headers["x-pointsman-expert"] == "extra"
    assert live.chat("large", headers=headers).status_code == 403
    limited = extra(alone, limits={"requests_per_minute": 1})
    done(live, "PUT", "experts/extra", limited)
    assert [live.chat("extra", headers=headers).status_code for _ in range(2)] == [200, 429]


def test_foreign_data_under_our_keys_is_refused_at_the_change(
    live: Gateway, alone: World, redis_process: RedisProcess
) -> None:
    client = Redis.from_url(redis_process.url)
    done(live, "PUT", "experts/extra", extra(alone))
    client.hset("pointsman:{ledger}:experts:records", "extra", json.dumps({"settings": {"kind": "later"}}))
    client.hincrby("pointsman:{ledger}:experts:state", "number", 1)
    client.zadd("pointsman:{ledger}:experts:changed", {"extra": 2})
    until(lambda: done(live, "GET", "config")["refused"], "the refusal")
    assert "cannot read extra" in done(live, "GET", "config")["refused"][0]["message"] and serves(live, "extra")
    assert "cannot read extra" in done(live, "GET", "experts/extra")["reason"]
    done(live, "DELETE", "experts/extra")
    assert done(live, "GET", "config")["refused"] == [] and not serves(live, "extra")


def test_who_has_no_admin_credential_learns_nothing(live: Gateway, alone: World) -> None:
    asked = [("GET", "config"), ("POST", "config/reload"), ("GET", "experts"), ("GET", "experts/small"),
             ("PUT", "experts/extra"), ("DELETE", "experts/small")]  # fmt: skip
    for method, path in asked:
        for headers in ({}, APP):
            assert admin(live, method, path, {}, headers).status_code == 401
    off = alone.start(auth={"keys": FIXED_AUTH["keys"]})
    assert admin(off, "GET", "config").json()["error"]["code"] == "admin_off"


def test_a_rest_survives_a_change_of_experts(live: Gateway, alone: World) -> None:
    alone.large.always = refuses(500)
    for _ in range(3):
        live.chat("large", headers=APP)
    done(live, "PUT", "experts/extra", extra(alone))
    assert done(live, "GET", "experts/large")["state"] == "resting"


def told(group: Any, *args: str) -> str:
    result = CliRunner().invoke(group, args)
    assert result.exit_code == 0, (result.output, result.exception)
    return str(result.stdout)


def test_the_commands(live: Gateway, alone: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_URL", live.url)
    monkeypatch.setenv("POINTSMAN_ADMIN_KEY", "admin-credential-marker")
    file = tmp_path / "extra.yaml"
    file.write_text(yaml.safe_dump(extra(alone)))
    assert told(experts, "set", str(file)) == "expert extra is ok\n"
    assert serves(live, "extra") and "extra" in told(experts, "list")
    assert json.loads(told(experts, "show", "extra"))["from"] == "api"
    told(experts, "remove", "extra")
    assert not serves(live, "extra")
    assert "was at work already" in told(config, "reload")
    assert json.loads(told(config, "show"))["refused"] == []
    assert "can be put to work" in told(config, "check", str(tmp_path / "one.yaml"))
    file.write_text(yaml.safe_dump(alone.having(policy={"artifact": "/nowhere"})))
    refused = CliRunner().invoke(config, ["check", str(file)])
    assert "cannot read /nowhere" in str(refused.exception)
    refused = CliRunner().invoke(experts, ["set", str(file)])
    assert "expected one expert with a `name`" in str(refused.exception)


JSON: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
SECTIONS = [{"env": "HOME"}, {"file": "/etc/passwd"}, {"input": 0, "output": 0}, [{"url": "http://h"}], 1e308, -1]
WORDS = (
    "small",
    "endpoint",
    "simulated",
    "remote",
    "rerank",
    "http://127.0.0.1:9/v1",
    "http://[",
    "http://h:99999",
)
LIKELY: Any = st.sampled_from([*WORDS, *SECTIONS])
FIELDS = ("name", *EndpointSettings.model_fields, *RemoteSettings.model_fields, *SimulatedSettings.model_fields)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["extra", "a/b", "auto", "%", "small", "é"]),
    fields=st.dictionaries(st.sampled_from(FIELDS), JSON | LIKELY, max_size=3),
)
def test_no_body_of_whatever_shape_is_an_error_of_ours(
    name: str, fields: dict[str, Any], live: Gateway, alone: World
) -> None:
    path = f"experts/{quote(name, safe='')}"
    answer = admin(live, "PUT", path, {**extra(alone), "name": name, **fields})
    assert answer.status_code < 500, answer.text
    assert answer.status_code == 200 or answer.json()["error"]["message"], answer.text
    if answer.status_code == 200:
        done(live, "DELETE", path)
    assert done(live, "GET", "config")["refused"] == []
