"""A change of the configuration's file takes effect while the gateway serves, and drops no request."""

import asyncio
import gc
import json
import shutil
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from processes import Running, written
from redis_process import RedisProcess
from serving import HELLO, Gateway, World, expert, on, save_artifact, until
from upstream import WAIT_S, Upstream, Wire, answers, hello_events, parse_events, refuses, said, streams

from router.errors import ConfigError, Conflict, PointsmanError

CALLERS = 32
CREDENTIAL = "admin-credential-marker"


@pytest.fixture
def live(world: World, tmp_path: Path) -> Gateway:
    return world.start(file=tmp_path / "pointsman.yaml")


def state(gateway: Gateway) -> str:
    return str(gateway.client.get("/readyz").json()["experts"]["large"])


def models(gateway: Gateway) -> list[str]:
    return [one["id"] for one in gateway.client.get("/v1/models").json()["data"]]


def priced(one: dict[str, Any], usd: float) -> dict[str, Any]:
    return {**one, "price": {"input": usd, "output": usd}}


def test_an_expert_that_is_added_is_asked_and_one_that_is_removed_is_not(live: Gateway, world: World) -> None:
    extra = expert("extra", world.small.url, tier="small")
    assert live.reload(world.having(experts=[*world.settings["experts"], extra]))
    assert "extra" in models(live) and live.chat("extra").status_code == 200
    assert live.reload(world.having(experts=[world.settings["experts"][0], extra]))
    assert "large" not in models(live) and live.chat("large").status_code == 404
    assert live.chat("auto:best").status_code == 200
    until(lambda: not live.app.state.configuration.retiring, "letting the old ones go")


def test_the_same_again_changes_nothing(live: Gateway, world: World) -> None:
    service = live.service
    assert not live.reload(world.having())
    assert live.service is service


def test_a_stream_ends_on_the_expert_and_at_the_price_that_it_began_with(
    live: Gateway, world: World, large: Upstream
) -> None:
    go_on = threading.Event()

    async def slowly(wire: Wire) -> None:
        first, *rest = hello_events()
        await streams(first, *rest[:1], then=after(*rest[1:]))(wire)

    def after(*events: bytes) -> Any:
        async def behave(wire: Wire) -> None:
            await asyncio.to_thread(go_on.wait, WAIT_S)
            for piece in events:
                await wire.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await wire.write(b"0\r\n\r\n")

        return behave

    large.script(slowly)
    with live.client.stream("POST", "/v1/chat/completions", json=asked("large", stream=True)) as answer:
        parts = answer.iter_bytes()
        body = next(parts)
        assert live.reload(world.having(experts=[priced(world.settings["experts"][0], 5.0)]))
        assert live.chat("large").status_code == 404 and live.app.state.configuration.retiring == 1
        go_on.set()
        body += b"".join(parts)
    assert said(body) == "Hello" and "error" not in parse_events(body)[-1]
    until(lambda: not live.app.state.configuration.retiring, "letting the old one go")
    spent = live.metric("pointsman_cost_usd_total", expert="large")
    assert spent == pytest.approx((11 * 10 + 2 * 30) / 1e6)
    assert live.chat("small").headers["x-pointsman-cost-usd"] == "0.000065000"


def test_what_was_at_work_is_forgotten(live: Gateway, world: World) -> None:
    earlier = []
    for usd in range(4):
        earlier.append(weakref.ref(live.service))
        assert live.reload(world.having(experts=[priced(one, 3.0 + usd) for one in world.settings["experts"]]))
        assert live.chat(stream=True).status_code == live.chat().status_code == 200

    def forgotten() -> bool:
        gc.collect()
        return not any(service() for service in earlier)

    until(forgotten, "forgetting them")
    assert len(live.app.state.configuration._tasks) == 2, "those that follow changes"


def asked(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": HELLO, **more}


def test_an_unchanged_expert_keeps_its_rest_and_its_connections(
    live: Gateway, world: World, small: Upstream
) -> None:
    assert live.chat("small").status_code == 200
    world.large.always = refuses(500)
    for _ in range(3):
        assert live.chat("large").status_code == 502
    assert state(live) == "resting"
    connections = small.connections
    assert live.reload(world.having(experts=[*world.settings["experts"], expert("extra", small.url, tier="small")]))
    assert state(live) == "resting"
    assert live.chat("small").status_code == 200 and small.connections == connections


def test_a_new_price_forgets_no_rest_and_a_new_address_does(live: Gateway, world: World) -> None:
    small, large = world.settings["experts"]
    world.large.always = refuses(500)
    for _ in range(3):
        live.chat("large")
    assert live.reload(world.having(experts=[small, priced(large, 7.0)]))
    assert state(live) == "resting"
    assert live.reload(world.having(experts=[small, {**large, "url": small["url"]}]))
    assert state(live) == "ok" and live.chat("large").status_code == 200


def test_one_of_several_addresses_goes_on_resting(live: Gateway, world: World) -> None:
    small, large = world.settings["experts"]
    places = [{"url": large["url"]}, {"url": small["url"]}]
    several = {key: value for key, value in large.items() if key != "url"} | {"endpoints": places}
    assert live.reload(world.having(experts=[small, several]))
    world.large.always = refuses(500)
    until(lambda: live.chat("large").status_code == 200 and state(live) != "ok", "resting one")
    assert live.reload(world.having(experts=[small, priced(several, 7.0)]))
    assert state(live) == "1 of 2 endpoints resting"
    assert live.reload(world.having(experts=[small, {**several, "endpoints": places[::-1]}]))
    assert state(live) == "1 of 2 endpoints resting"
    assert live.reload(world.having(experts=[small, {**several, "endpoints": places[1:]}]))
    assert state(live) == "ok"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("experts: [", "is not YAML"),
        ("", "expected keys"),
        ("experts: []", "the pool is empty"),
        ("expertz: []", "unknown key"),
    ],
)
def test_a_bad_file_is_refused_and_the_old_one_stays(
    text: str, message: str, live: Gateway, world: World, logged: list[str]
) -> None:
    with pytest.raises(ConfigError, match=message):
        live.reload(text)
    assert live.chat("large").status_code == 200
    assert live.metric("pointsman_config_refused") == 1
    assert [line for line in logged if "refused" in line and message in line]
    extra = expert("extra", world.small.url, tier="small")
    assert live.reload(world.having(experts=[*world.settings["experts"], extra]))
    assert live.metric("pointsman_config_refused") == 0 and live.chat("extra").status_code == 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": {"artifact": "/nowhere"}}, "cannot read /nowhere"),
        (
            {"auth": {"keys": [{"name": "app", "env": "POINTSMAN_TEST_NOT_SET"}]}},
            "POINTSMAN_TEST_NOT_SET is not set",
        ),
        ({"guards": [{"kind": "nope"}]}, "no guard is called 'nope'"),
        (
            {"port": 1, "limits": {"drain_s": 3}, "ledger": {"url": "redis://h"}},
            "port, ledger.url, limits.drain_s: ",
        ),
    ],
)
def test_what_cannot_be_put_to_work_is_refused_whole(
    change: dict[str, Any], message: str, live: Gateway, world: World
) -> None:
    service = live.service
    extra = expert("extra", world.small.url, tier="small")
    with pytest.raises(PointsmanError, match=message):
        live.reload(world.having(experts=[*world.settings["experts"], extra], **change))
    assert live.service is service and live.chat("large").status_code == 200


def test_an_expert_without_its_secret_is_refused(live: Gateway, world: World) -> None:
    keyed = expert("extra", world.small.url, tier="small", api_key={"env": "POINTSMAN_TEST_NOT_SET"})
    with pytest.raises(ConfigError, match=r"experts.extra.api_key: .*POINTSMAN_TEST_NOT_SET"):
        live.reload(world.having(experts=[*world.settings["experts"], keyed]))


def test_a_signal_and_what_came_of_it_are_told_in_the_log(
    live: Gateway, world: World, tmp_path: Path, logged: list[str]
) -> None:
    def ask(said: str) -> None:
        logged.clear()
        world.loop.call_soon_threadsafe(live.app.state.configuration.ask, "SIGHUP")
        until(lambda: any(said in line for line in logged), said)
        assert any("SIGHUP: a reload of the file is asked for" in line for line in logged)

    ask("SIGHUP: what the file says is at work already")
    (tmp_path / "pointsman.yaml").write_text("expertz: []")
    for _ in range(2):  # who asks twice is told twice
        ask("(from: SIGHUP)")


def test_a_gateway_without_a_file_has_nothing_to_read(gateway: Gateway, world: World) -> None:
    with pytest.raises(Conflict, match="not started from a configuration file"):
        on(world.loop, gateway.app.state.configuration.reload("test"))


def test_limits_that_are_turned_on_hold_and_those_turned_off_do_not(live: Gateway, world: World) -> None:
    assert live.service.admission is None
    limits = {"requests_per_minute": 2}
    small, large = world.settings["experts"]
    assert live.reload(world.having(experts=[{**small, "limits": limits}, large], ledger=world.settings["ledger"]))
    assert [live.chat("small").status_code for _ in range(3)] == [200, 200, 429]
    assert live.reload(world.having())
    assert live.service.admission is None and live.chat("small").status_code == 200


def test_keys_of_the_file_change(
    live: Gateway, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("first-secret-marker")
    auth = {"keys": [{"name": "app", "file": str(secret)}]}

    def status(key: str) -> int:
        return live.chat("small", headers={"x-api-key": key}).status_code

    assert live.reload(world.having(auth=auth))
    assert (status("first-secret-marker"), status("second-secret-marker"), status("")) == (200, 401, 401)
    secret.write_text("second-secret-marker")
    assert live.reload(world.having(auth=auth)), "the file that it names has changed"
    assert (status("first-secret-marker"), status("second-secret-marker")) == (401, 200)


def test_an_upstreams_key_that_was_replaced_is_used(live: Gateway, world: World, tmp_path: Path) -> None:
    secret = tmp_path / "upstream-key"
    secret.write_text("old")
    keyed = {**world.settings["experts"][0], "api_key": {"file": str(secret)}}
    settings = world.having(experts=[keyed, world.settings["experts"][1]])
    assert live.reload(settings)
    live.chat("small")
    secret.write_text("new")
    assert live.reload(settings)
    live.chat("small")
    assert [one.headers["authorization"] for one in world.small.requests] == ["Bearer old", "Bearer new"]


def test_a_policy_that_is_trained_again_into_its_folder_is_taken(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(world.settings["policy"]["artifact"], folder)
    settings = world.having(policy={"artifact": str(folder)})
    live = world.start(file=tmp_path / "pointsman.yaml", policy={"artifact": str(folder)})
    policy, label = live.service.router.use.policy, live.service.router.use.label
    assert live.reload({**settings, "policy": {**settings["policy"], "preference": "best"}})
    assert live.service.router.use.policy is policy, "the same policy is not read again"
    save_artifact(folder, seen=60)
    assert live.reload({**settings, "policy": {**settings["policy"], "preference": "best"}})
    assert live.service.router.use.label != label and live.chat().status_code == 200


def test_stores_of_a_changed_section_are_replaced(live: Gateway, world: World, tmp_path: Path) -> None:
    sessions, responses = live.service.sessions, live.service.responses
    assert live.reload(world.having(cache={"ttl_s": 60}, decisions={"folder": str(tmp_path / "log")}))
    assert live.service.sessions is sessions and live.service.responses is responses
    first, second = live.chat("auto:best"), live.chat("auto:best")
    assert (first.headers["x-pointsman-cache"], first.status_code) == ("miss", 200)
    until(lambda: live.chat("auto:best").headers["x-pointsman-cache"] == "hit", "keeping it")
    assert second.status_code == 200
    decisions = live.service.decisions
    assert decisions is not None
    until(lambda: not decisions.owed, "sending the rows")
    assert live.reload(world.having(policy={**world.settings["policy"], "sticky": {"margin": 0.5}}))
    assert live.service.decisions is None and live.service.sessions is not sessions
    assert live.chat("auto:best").status_code == 200


class Caller(threading.Thread):
    """Asks without a pause, every second time for a stream."""

    def __init__(self, url: str, first: int, over: threading.Event) -> None:
        super().__init__()
        self.url, self.first, self.over = url, first, over
        self.answered = 0
        self.failed: list[str] = []

    def run(self) -> None:
        turn = self.first
        with httpx.Client(base_url=self.url, timeout=WAIT_S, trust_env=False) as client:
            while not self.over.is_set():
                turn += 1
                try:
                    self.ask(client, ("auto:best", "auto:cheap", "small")[turn % 3], stream=turn % 2 == 0)
                except Exception as error:  # whatever it is, no caller may see it
                    self.failed.append(repr(error))

    def ask(self, client: httpx.Client, model: str, *, stream: bool) -> None:
        answer = client.post("/v1/chat/completions", json=asked(model, stream=stream))
        assert answer.status_code == 200, answer.text
        text = said(answer.content) if stream else json.loads(answer.content)["choices"][0]["message"]["content"]
        assert text == "Hello", answer.text
        self.answered += 1


Serve = Callable[[str], Running]


@pytest.fixture
def serve(
    world: World, tmp_path: Path, redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Serve]:
    """Starts gateways in processes of their own, each with a file and all with one Redis."""
    monkeypatch.setenv("POINTSMAN_TEST_ADMIN", CREDENTIAL)
    auth = {"admin": {"env": "POINTSMAN_TEST_ADMIN"}}
    world.settings |= {"watch_s": 0.1, "auth": auth, "ledger": {"url": redis_process.url}}
    started: list[Running] = []

    def start(name: str) -> Running:
        (tmp_path / name).mkdir()
        config = written(tmp_path / name, world.settings)
        started.append(Running("serve", "--config", config, "--port", "0"))
        return started[-1]

    yield start
    for running in started:
        running.kill()


async def slow(wire: Wire) -> None:
    """An answer that is under way when the configuration changes."""
    if wire.request.json().get("stream"):
        await streams(pause_s=0.02)(wire)
    else:
        await asyncio.sleep(0.05)
        await answers()(wire)


def test_changes_under_load_fail_no_request(serve: Serve, world: World, tmp_path: Path) -> None:
    serving = serve("one")
    world.small.always = world.large.always = slow
    small, large = world.settings["experts"]
    extra = expert("extra", world.large.url, tier="large")
    over = threading.Event()
    callers = [Caller(serving.url, i, over) for i in range(CALLERS)]
    for caller in callers:
        caller.start()
    try:
        for turn in range(12):
            experts = ([small, large], [small, extra], [priced(small, turn), large, extra])[turn % 3]
            names = {one["name"] for one in experts}
            changed = {**world.settings, "experts": experts, "limits": {"attempts": 2 + turn % 2}}
            (tmp_path / "next").write_text(yaml.safe_dump(changed))
            (tmp_path / "next").replace(tmp_path / "one" / "pointsman.yaml")
            if turn % 2:
                serving.tell(signal.SIGHUP)
            passing = {**extra, "name": f"passing-{turn}"}
            admin(serving.url, "PUT", f"experts/{passing['name']}", passing)
            names.add(passing["name"])
            until(lambda names=names: at_work(serving.url) == names, f"change {turn}")
            done = sum(caller.answered for caller in callers)
            until(lambda done=done: sum(caller.answered for caller in callers) > done + CALLERS, "answers")
            admin(serving.url, "DELETE", f"experts/{passing['name']}")
    finally:
        over.set()
        for caller in callers:
            caller.join()
    assert not [failure for caller in callers for failure in caller.failed]
    assert serving.stop() == 0, serving.text
    assert CREDENTIAL not in serving.text and "ERROR" not in serving.text


def admin(url: str, method: str, path: str, body: Any = None) -> None:
    headers = {"authorization": f"Bearer {CREDENTIAL}"}
    answer = httpx.request(
        method, f"{url}/admin/api/{path}", json=body, headers=headers, timeout=WAIT_S, trust_env=False
    )
    assert answer.status_code == 200, answer.text


def at_work(url: str) -> set[str]:
    data = httpx.get(f"{url}/v1/models", timeout=WAIT_S, trust_env=False).json()["data"]
    return {one["id"] for one in data if one["owned_by"] == "expert"}


def test_a_half_written_file_is_refused_and_the_whole_one_is_taken(
    serve: Serve, world: World, tmp_path: Path
) -> None:
    serving, path = serve("one"), tmp_path / "one" / "pointsman.yaml"
    extra = expert("extra", world.large.url, tier="large")
    whole = yaml.safe_dump({**world.settings, "experts": [*world.settings["experts"], extra]})
    path.write_text(whole[: whole.index("name: extra") + 3])
    until(lambda: "pointsman_config_refused 1.0" in httpx.get(f"{serving.url}/metrics", trust_env=False).text)
    assert at_work(serving.url) == {"small", "large"}
    path.write_text(whole)
    until(lambda: at_work(serving.url) == {"small", "large", "extra"}, "the whole file")
    assert serving.stop() == 0 and "refused" in serving.text


def test_replicas_in_processes_of_their_own_take_an_expert_and_so_does_one_that_starts_later(
    serve: Serve, world: World
) -> None:
    one, two = serve("one"), serve("two")
    everyone = {"small", "large", "extra"}
    admin(one.url, "PUT", "experts/extra", expert("extra", world.large.url, tier="large"))
    assert at_work(one.url) == everyone
    until(lambda: at_work(two.url) == everyone, "the other replica")
    assert at_work(serve("three").url) == everyone
    admin(two.url, "DELETE", "experts/extra")
    until(lambda: at_work(one.url) == {"small", "large"}, "letting it go")
    assert one.stop() == two.stop() == 0
