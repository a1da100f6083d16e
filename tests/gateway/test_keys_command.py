"""`pointsman keys` and `pointsman teams` against a running gateway."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from redis_process import RedisProcess
from serving import Gateway, World

from gateway.keys_command import keys, teams

CREDENTIAL = "admin-credential-marker"


@pytest.fixture
def gateway(world: World, redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    monkeypatch.setenv("POINTSMAN_TEST_SECRET", "a-server-secret-marker")
    monkeypatch.setenv("POINTSMAN_TEST_ADMIN", CREDENTIAL)
    auth = {"secret": {"env": "POINTSMAN_TEST_SECRET"}, "admin": {"env": "POINTSMAN_TEST_ADMIN"}}
    gateway = world.start(ledger={"url": redis_process.url}, auth=auth)
    monkeypatch.setenv("POINTSMAN_URL", gateway.url)
    monkeypatch.setenv("POINTSMAN_ADMIN_KEY", CREDENTIAL)
    return gateway


def run(group: Any, *args: str, **options: Any) -> Result:
    result: Result = CliRunner().invoke(group, args, **options)
    return result


def done(group: Any, *args: str) -> str:
    result = run(group, *args)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def status(gateway: Gateway, key: str) -> int:
    return gateway.chat("small", headers={"x-api-key": key}).status_code


def test_the_life_of_a_key(gateway: Gateway) -> None:
    done(teams, "create", "lab", "--budget", "100/month", "--budget", "5/1h")
    options = ("--team", "lab", "--expires", "30d", "--model", "small", "--tag", "prod", "--concurrency", "2")
    key = done(keys, "create", "app", *options).strip()
    assert key.startswith("pmk_") and status(gateway, key) == 200
    said = json.loads(done(keys, "show", "app"))
    assert (said["team"], said["models"], said["tags"], said["limits"]["concurrency"]) == (
        "lab",
        ["small"],
        ["prod"],
        2,
    )
    assert "app" in done(keys, "list", "--team", "lab") and key not in done(keys, "list", "--json")
    done(keys, "update", "app", "--owner", "Ada", "--clear", "limits")
    again = json.loads(done(keys, "show", said["id"]))
    assert (again["owner"], again["limits"]["concurrency"], again["tags"]) == ("Ada", None, ["prod"])
    new = done(keys, "rotate", "app", "--overlap", "0").strip()
    assert (status(gateway, key), status(gateway, new)) == (401, 200)
    done(keys, "revoke", "app")
    assert status(gateway, new) == 401
    done(teams, "delete", "lab")
    actions = [entry["action"] for entry in json.loads(done(keys, "audit"))]
    assert actions[::-1] == [
        "team.create", "key.create", "key.update", "key.rotate", "key.revoke", "team.delete",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "args",
    [
        ("create", "app", "--budget", "-5/day"),
        ("create", "app", "--budget", "5/year"),
        ("create", "app", "--expires", "tomorrow"),
        ("create", "app", "--concurrency", "0"),
        ("rotate", "app", "--overlap", "a day"),
    ],
)
def test_a_mistake_is_told_before_anyone_is_asked(args: tuple[str, ...], gateway: Gateway) -> None:
    assert run(keys, *args).exit_code == 2
    assert json.loads(done(keys, "list", "--json")) == []


def test_the_gateways_refusal_is_told_and_the_credential_is_not(gateway: Gateway, tmp_path: Path) -> None:
    refused = run(keys, "create", "app", "--team", "nope")
    assert "no team is called 'nope'" in str(refused.exception)
    wrong = tmp_path / "credential"
    wrong.write_text("wrong-marker\n")
    refused = run(keys, "list", "--admin-file", str(wrong), env={"POINTSMAN_ADMIN_KEY": ""})
    assert "admin credential" in str(refused.exception) and "marker" not in str(refused.exception)
    nobody = run(keys, "list", "--url", "http://127.0.0.1:9")
    assert "no gateway answers on http://127.0.0.1:9" in str(nobody.exception)
    assert run(keys, "list", env={"POINTSMAN_ADMIN_KEY": ""}).exit_code == 2
