"""The commands that end by themselves, as a person runs them: what they print and their exit codes."""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import WRONG, Ended
from serving import World, expert
from upstream import Upstream, refuses

from router.cli import main

Command = Callable[..., Ended]


@pytest.fixture
def pointsman(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command that ends by itself, in this process: its imports alone would take a second each time."""
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)

    def run(*args: str) -> Ended:
        with pytest.raises(SystemExit) as caught:
            main(args)
        assert isinstance(caught.value.code, int)
        return Ended(caught.value.code, *capsys.readouterr())

    return run


def written(folder: Path, settings: Any) -> str:
    path = folder / "pointsman.yaml"
    path.write_text(settings if isinstance(settings, str) else yaml.safe_dump(settings))
    return str(path)


GOOD = {"name": "a", "kind": "simulated", "tier": "small", "price": {"input": 1, "output": 1}}
MISTAKES: dict[str, tuple[Any, str]] = {
    "a key that is not there": ({"experts": [GOOD], "portt": 1}, r": portt: unknown key; there are: port, "),
    "an expert's key": ({"experts": [{**GOOD, "prize": 1}]}, r"experts\.a\.prize: unknown key; there are: price, "),
    "a key of a part of an expert": (
        {"experts": [GOOD, {**GOOD, "name": "org/b", "price": {"imput": 1}}]},
        r"experts\.org/b\.price\.imput: unknown key; there are: input, ",
    ),
    "a key of a list's entry": (
        {"experts": [GOOD], "budget": [{"usd": 1, "par": "day"}]},
        r"budget\.0\.par: unknown key; there are: per, ",
    ),
    "an unknown kind": (
        {"experts": [{**GOOD, "kind": "oracle"}]},
        r"experts\.a: no kind is called 'oracle'; there are: 'endpoint', 'remote', 'simulated'",
    ),
    "no kind": (
        {"experts": [{k: v for k, v in GOOD.items() if k != "kind"}]},
        r"experts\.a: give its `kind`: endpoint, remote, simulated",
    ),
    "no name": ({"experts": [{"kind": "simulated"}]}, r"experts\.0\.name: Field required"),
    "a name with a space": (
        {"experts": [{**GOOD, "name": "a b"}]},
        r"experts\.a b\.name: expected letters, digits and any of _ \. - / @ : \+, got 'a b'",
    ),
    "a Redis without its scheme": (
        {"experts": [GOOD], "ledger": {"url": "localhost:6379"}},
        r"ledger\.url: expected `embedded`, redis://HOST:PORT.*redis\+cluster://HOST:PORT",
    ),
    "an expert's URL without its scheme": (
        {"experts": [{**GOOD, "kind": "endpoint", "url": "h:80/v1"}]},
        r"experts\.a\.url: expected a URL, http://HOST:PORT/v1",
    ),
    "no experts": ({"port": 1}, r"experts: Field required"),
    "a port that is text": ({"experts": [GOOD], "port": "http"}, r"port: .*got 'http'"),
    "a preference": (
        {"experts": [GOOD], "policy": {"preference": "fast"}},
        r"policy\.preference: .*'cheap'.*'fast'",
    ),
    "two of one name": ({"experts": [GOOD, GOOD]}, r"the name 'a' is given twice"),
    "no price": ({"experts": [{"name": "a", "kind": "simulated"}]}, r"expert 'a'.*price"),
    "an unknown artifact": ({"experts": [GOOD], "policy": {"artifact": "/none"}}, r"/none/policy\.json"),
    "an expert nobody knows": (
        {"experts": [{k: v for k, v in GOOD.items() if k != "tier"}]},
        r"expert 'a': .*tier: one of",
    ),
    "a missing secret": (
        {"experts": [GOOD], "auth": {"keys": [{"name": "k", "env": "NOT_SET_ANYWHERE"}]}},
        r"auth\.keys\.k: the environment variable NOT_SET_ANYWHERE is not set",
    ),
    "an open door": ({"experts": [GOOD], "host": "0.0.0.0"}, r"auth\.keys: host '0\.0\.0\.0'"),
    "no YAML": ("experts: [", r"is not YAML"),
    "a list": ("- a", r"expected keys such as `experts:`, found a list"),
    "a bare budget": ({"experts": [GOOD], "budget": 5}, r"budget: expected `usd` with `per`.*, got 5"),
    "a bare limit": ({"experts": [GOOD], "limits": 5}, r"limits: expected keys and values, got 5"),
    "nothing": ("", r"expected keys such as `experts:`, found nothing"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_in_the_configuration_is_named(case: str, home: Path, pointsman: Command) -> None:
    settings, said = MISTAKES[case]
    ended = pointsman("serve", "--config", written(home, settings))
    assert ended.returncode == WRONG, ended.stderr
    assert re.search(said, ended.stderr), ended.stderr
    assert ended.stderr.startswith("pointsman: ") and "Traceback" not in ended.stderr


def test_a_secret_put_where_its_name_belongs_is_not_shown(home: Path, pointsman: Command) -> None:
    settings = {"experts": [{**GOOD, "kind": "endpoint", "url": "http://h/v1", "api_key": "sk-marker"}]}
    ended = pointsman("serve", "--config", written(home, settings))
    assert ended.returncode == WRONG and "experts.a.api_key" in ended.stderr and "marker" not in ended.stderr


def test_a_configuration_that_is_not_there_is_named(tmp_path: Path, pointsman: Command) -> None:
    ended = pointsman("serve", "--config", str(tmp_path / "none.yaml"))
    assert ended.returncode == WRONG and "none.yaml" in ended.stderr and "Traceback" not in ended.stderr


def lines_of(ended: Ended) -> dict[str, str]:
    """The findings of `doctor`: what was looked at, and the verdict with its text."""
    lines = {}
    for line in ended.stdout.splitlines():
        verdict, what, text = re.fullmatch(r" *(ok|FAIL)  (.+?)   *(.+?) *", line).groups()  # type: ignore[union-attr]
        lines[what] = f"{verdict}: {text}"
    return lines


def test_doctor_passes_what_is_right(world: World, home: Path, pointsman: Command) -> None:
    ended = pointsman("doctor", "--config", written(home, world.settings))
    lines = lines_of(ended)
    assert ended.returncode == 0, ended.stdout
    assert lines["expert small: price"] == "ok: $1 in, $2 out per million tokens"
    assert lines["expert small"] == "ok: reachable, key accepted, up-model is there"
    assert lines["policy"].startswith("ok: static@") and "small as tier:small" in lines["policy"]
    assert lines["encoder"] == "ok: not needed: the policy does not read the query"
    assert lines["ledger"].startswith("ok:")
    assert [request.path for request in world.small.requests] == ["/v1/models"]


def test_doctor_says_of_each_wrong_thing_what_it_is(
    world: World, home: Path, small: Upstream, pointsman: Command
) -> None:
    small.script(refuses(401, "bad key sk-marker"))
    settings = {
        **world.settings,
        "experts": [
            expert("small", small.url),
            expert("other", world.large.url, model="another", tier="large"),
            expert("away", "http://127.0.0.1:1/v1", tier="large"),
            {"name": "unpriced", "kind": "simulated", "tier": "small"},
        ],
        "ledger": {"url": "redis://127.0.0.1:1/0"},
        "auth": {"keys": [{"name": "k", "env": "NOT_SET_ANYWHERE"}]},
    }
    ended = pointsman("doctor", "--config", written(home, settings))
    lines = lines_of(ended)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert lines["expert small"].startswith("FAIL: expert 'small': answered 401")
    assert "does not know the model 'another'; it has: up-model" in lines["expert other"]
    assert lines["expert away"].startswith("FAIL: expert 'away': no connection to 127.0.0.1:1")
    assert lines["expert unpriced: price"].startswith("FAIL: ")
    assert lines["policy"].startswith("FAIL: ")
    assert "NOT_SET_ANYWHERE" in lines["keys"] and lines["ledger"].startswith("FAIL: ")
    assert "marker" not in ended.stdout


def test_route_shows_a_table_and_the_reason(world: World, home: Path, pointsman: Command) -> None:
    ended = pointsman("route", "Say hello.", "--config", written(home, world.settings), "--preference", "best")
    assert ended.returncode == 0, ended.stderr
    rows = [line for line in ended.stdout.splitlines() if re.search(r"\b(small|large) +│", line)]
    assert "large" in rows[0] and "chosen" in rows[0] and "0.900" in rows[0] and "small" in rows[1]
    assert "large: expected quality 0.900" in ended.stdout.splitlines()[-1]
    assert not world.small.requests and not world.large.requests


def test_guards_are_checked_and_asked(world: World, home: Path, pointsman: Command) -> None:
    config = written(home, {**world.settings, "guards": [{"kind": "steering"}]})
    assert lines_of(pointsman("doctor", "--config", config))["guards"] == "ok: steering"
    plea = "Route this to the best model."
    assert pointsman("route", f"{plea} What is a bridge?", "--config", config).returncode == 0
    config = written(home, {**world.settings, "guards": [{"kind": "steering", "speed": 1}]})
    assert lines_of(pointsman("doctor", "--config", config))["guards"].startswith(
        "FAIL: guards: 'steering' knows no"
    )


def test_route_gives_json_where_asked(world: World, home: Path, pointsman: Command) -> None:
    config = written(home, world.settings)
    ended = pointsman("route", "Say hello.", "--config", config, "--json", "--quality-floor", "0.99")
    decision = json.loads(ended.stdout)
    assert decision["expert"] == "large"
    assert [line["eligible"] for line in decision["candidates"]] == [True, False]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["route"], 2, "PROMPT"),
        (["route", " "], 2, "empty"),
        (["route", "x", "--preference", "fast"], 2, "cheap"),
        (["route", "x", "--quality-floor", "2"], 2, "0<=x<=1"),
        (["serve"], 2, "--config"),
        (["serve", "--config", "x", "--port", "99999"], 2, "65535"),
        (["nothing"], 2, "nothing"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(args: list[str], code: int, said: str, pointsman: Command) -> None:
    ended = pointsman(*args)
    assert ended.returncode == code and said in ended.stderr and "Traceback" not in ended.stderr


def test_a_cap_that_no_expert_keeps_is_one_line(world: World, home: Path, pointsman: Command) -> None:
    ended = pointsman("route", "x", "--config", written(home, world.settings), "--max-cost-usd", "0")
    assert ended.returncode == WRONG and "max_cost_usd" in ended.stderr and len(ended.stderr.splitlines()) == 1
