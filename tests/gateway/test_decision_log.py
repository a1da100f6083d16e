"""The decision log: every routed request is one row of a Parquet file, whoever is killed on the way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from redis_process import RedisProcess
from serving import HELLO, World, until
from upstream import HELLO as EVENTS
from upstream import Upstream, close, refuses, sse, streams

from router.config import DecisionSettings, parse_settings
from router.errors import ConfigError
from router.ledger.decision_rows import Row, write
from router.ledger.decision_stream import LEASE
from router.ledger.decisions import Decisions
from router.ledger.store import connect
from training.import_command import import_

parquet = pytest.importorskip("pyarrow.parquet")
WRITER = Path(__file__).with_name("decision_writer.py")
ROOT = Path(__file__).parents[2]


def logged_rows(folder: Path) -> list[Row]:
    found = sorted(folder.glob("day=*/*.parquet"))
    return [row for path in found for row in parquet.ParquetFile(path).read().to_pylist()]


def row(number: int, at: float) -> Row:
    return {"decision_id": f"dec_{number:05}", "at": at, "expert": "small", "ok": True}


def start_writer(url: str, folder: Path, pause_s: float) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(WRITER), url, str(folder), "100", str(pause_s)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def sending(url: str, folder: Path) -> Decisions:
    """One that only sends: the writers are processes of their own."""
    sender = Decisions(DecisionSettings(folder=str(folder), rotate_rows=1_000_000), lambda: connect(url, None))
    sender.open()
    sender._tasks[1].cancel()
    return sender


async def test_a_killed_writer_and_a_restarted_redis_neither_lose_nor_double_a_row(
    redis_process: RedisProcess, tmp_path: Path
) -> None:
    folder, url = tmp_path / "log", redis_process.url
    first = start_writer(url, folder, pause_s=600)
    second: subprocess.Popen[str] | None = None
    sender = sending(url, tmp_path)
    days = (1_700_000_000.0, 1_700_086_400.0)
    try:
        for number in range(1000):
            sender.record(row(number, days[number % 2]))
        await async_until(lambda: not sender.owed)
        assert first.stdout is not None and first.stdout.readline().startswith("wrote")
        first.kill()  # its first file is there, and not acknowledged
        first.wait()
        before = len(logged_rows(folder))
        assert before == 100
        redis_process.kill()
        for number in range(1000, 1100):
            sender.record(row(number, days[0]))
        redis_process.start()
        redis_process.command(f"DEL {LEASE}")  # as if its time had passed
        second = start_writer(url, folder, pause_s=0)
        await async_until(lambda: len(logged_rows(folder)) >= 1100 and not sender.owed)
        ids = [one["decision_id"] for one in logged_rows(folder)]
        assert sorted(ids) == [f"dec_{number:05}" for number in range(1100)]
        assert {path.parent.name for path in folder.glob("*/*")} == {"day=2023-11-14", "day=2023-11-15"}
    finally:
        await ended(sender, first, second)


async def test_of_two_living_writers_one_that_stalled_changes_nothing_when_it_wakes(
    redis_process: RedisProcess, tmp_path: Path
) -> None:
    folder, url = tmp_path / "log", redis_process.url
    stalled = start_writer(url, folder, pause_s=0.5)
    second: subprocess.Popen[str] | None = None
    sender = sending(url, tmp_path)
    try:
        for number in range(500):
            sender.record(row(number, 1.7e9))
        await async_until(lambda: not sender.owed)
        assert stalled.stdout is not None and stalled.stdout.readline().startswith("wrote")
        stalled.send_signal(signal.SIGSTOP)  # written, not yet acknowledged, and the lease runs out
        redis_process.command(f"DEL {LEASE}")
        second = start_writer(url, folder, pause_s=0)
        await async_until(lambda: len(logged_rows(folder)) == 500)
        stalled.send_signal(signal.SIGCONT)  # acknowledges what is no longer its own
        for number in range(500, 900):
            sender.record(row(number, 1.7e9))
        await async_until(lambda: not sender.owed and len(logged_rows(folder)) >= 900)
        assert sorted(one["decision_id"] for one in logged_rows(folder)) == [f"dec_{n:05}" for n in range(900)]
        stalled.kill()
        stalled.wait()
        assert len(stalled.stdout.read().splitlines()) == 0  # the lease was never its own again
    finally:
        await ended(sender, stalled, second)


async def ended(sender: Decisions, *writers: "subprocess.Popen[str] | None") -> None:
    for process in writers:
        if process is not None:
            process.kill()
            process.wait()
    await sender.close()


async def async_until(condition: Callable[[], Any]) -> None:
    import asyncio

    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def test_from_the_gateway_to_an_outcome_table(
    world: World, small: Upstream, large: Upstream, redis_process: RedisProcess, tmp_path: Path
) -> None:
    folder = tmp_path / "log"
    gateway = world.start(
        ledger={"url": redis_process.url},
        decisions={"folder": str(folder), "prompt": "full", "rotate_s": 0.1},
    )
    large.script(refuses(500))
    answers = [gateway.chat("auto:best", stream=False), gateway.chat("auto:cheap")]
    small.script(streams(*map(sse, EVENTS[:2]), then=close))
    gateway.chat("small", stream=True)
    rows = until(lambda: len(found := logged_rows(folder)) == 3 and found, "three rows")
    moved, cheap, cut = sorted(rows, key=lambda one: one["at"])
    assert [one["decision_id"] for one in (moved, cheap)] == [
        answer.headers["x-pointsman-decision"] for answer in answers
    ]
    assert (moved["chosen"], moved["expert"], moved["propensity"]) == ("large", "small", None)
    assert moved["attempts"] == [{"expert": "large", "failure": "server"}, {"expert": "small", "failure": None}]
    assert {one["expert"] for one in cheap["candidates"]} == {"small", "large"}
    assert (cheap["propensity"], cheap["ended"], cheap["cost_nano"]) == (1.0, "ok", 15_000)
    assert (cut["ended"], cut["ok"], cut["streamed"]) == ("cut", False, True)
    assert cheap["prompt"] == HELLO[0]["content"]
    out = tmp_path / "table.parquet"
    done = CliRunner().invoke(import_, [str(folder), "--out", str(out)])
    assert done.exit_code == 0, done.output or done.exception
    table = parquet.ParquetFile(out).read().to_pylist()
    assert [(one["model"], one["query_id"]) for one in table] == [
        ("small", moved["decision_id"]),
        ("small", cheap["decision_id"]),
    ]


def test_only_the_own_key_may_rate_and_the_last_rating_is_imported(
    world: World, redis_process: RedisProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ONE", "TWO"):
        monkeypatch.setenv(f"POINTSMAN_TEST_{name}", f"secret-of-{name}")
    keys = [{"name": name, "env": f"POINTSMAN_TEST_{name.upper()}"} for name in ("one", "two")]
    folder = tmp_path / "log"
    settings = {"folder": str(folder), "prompt": "full", "rotate_s": 0.1}
    gateway = world.start(ledger={"url": redis_process.url}, decisions=settings, auth={"keys": keys})
    mine, theirs = ({"authorization": f"Bearer secret-of-{name}"} for name in ("ONE", "TWO"))
    decision = gateway.chat(headers=mine).headers["x-pointsman-decision"]

    def rate(headers: dict[str, str], name: str, **rating: Any) -> Any:
        return gateway.post("/v1/feedback", headers=headers, decision=name, **rating)

    assert rate(mine, decision, score=0.25).json()["score"] == 0.25
    assert rate(mine, decision, thumb="up").status_code == 200
    anothers, unknown = rate(theirs, decision, score=0), rate(theirs, "dec_none", score=0)
    assert anothers.status_code == unknown.status_code == 404
    assert anothers.json()["error"]["message"].replace(decision, "dec_none") == unknown.json()["error"]["message"]
    for wrong in ({}, {"score": 2}, {"score": True}, {"thumb": "sideways"}, {"score": 1, "thumb": "up"}):
        assert rate(mine, decision, **wrong).status_code == 400
    until(lambda: len(logged_rows(folder)) == 3, "three rows")
    out = tmp_path / "table.parquet"
    done = CliRunner().invoke(import_, [str(folder), "--out", str(out)])
    assert done.exit_code == 0, done.output or done.exception
    assert [one["score"] for one in parquet.ParquetFile(out).read().to_pylist()] == [1.0]


def test_feedback_without_a_decision_log_says_so(steady: World) -> None:
    answer = steady.running[0].post("/v1/feedback", decision="dec_x", score=1)
    assert answer.status_code == 400 and "decisions" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("keep", "column"), [("none", None), ("hash", "prompt_hash")])
def test_of_the_prompt_only_what_was_chosen_is_kept(
    keep: str, column: str | None, world: World, redis_process: RedisProcess, tmp_path: Path
) -> None:
    settings = {"folder": str(tmp_path), "prompt": keep, "rotate_s": 0.1}
    world.start(ledger={"url": redis_process.url}, decisions=settings).chat()
    (found,) = until(lambda: logged_rows(tmp_path), "a row")
    kept = {name for name in ("prompt", "prompt_hash", "embedding") if found[name] is not None}
    assert kept == ({column} if column else set())


def test_by_default_the_vector_of_a_routed_prompt_is_kept(
    world: World, redis_process: RedisProcess, tmp_path: Path
) -> None:
    settings = {"folder": str(tmp_path), "rotate_s": 0.1}
    world.start(policy={"artifact": "default"}, ledger={"url": redis_process.url}, decisions=settings).chat("auto")
    (found,) = until(lambda: logged_rows(tmp_path), "a row")
    assert (found["prompt"], found["prompt_hash"]) == (None, None)
    assert sum(one * one for one in found["embedding"]) == pytest.approx(1, abs=1e-3)


def test_rows_go_to_any_file_system_by_its_url() -> None:
    fsspec = pytest.importorskip("fsspec")
    for _ in range(2):  # whoever writes a range again leaves the same file
        write("memory://decisions", "1-2", [row(1, 1.7e9), row(2, 1.7e9 + 86_400)])
    files = fsspec.filesystem("memory").glob("/decisions/*/*.parquet")
    assert [name.split("/")[-2:] for name in sorted(files)] == [
        ["day=2023-11-14", "1-2.parquet"],
        ["day=2023-11-15", "1-2.parquet"],
    ]
    with fsspec.open(f"memory://{sorted(files)[0]}") as file:
        assert [one["decision_id"] for one in parquet.read_table(file).to_pylist()] == ["dec_00001"]


async def test_rows_beyond_the_bound_are_dropped_and_counted(redis_process: RedisProcess, tmp_path: Path) -> None:
    settings = DecisionSettings(folder=str(tmp_path), stream_rows=10)
    sender = Decisions(settings, lambda: connect(redis_process.url, None))
    sender.open()
    for number in range(12):
        sender.record(row(number, 1.7e9))
    await async_until(lambda: not sender.owed)
    sender.record(row(12, 1.7e9))
    await async_until(lambda: not sender.owed)
    assert sender.dropped == 3
    await sender.close()


def test_without_pyarrow_the_start_says_what_is_missing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    from gateway.service import Service

    with pytest.raises(ConfigError, match=r"pointsman\[decisions\]"):
        Service(parse_settings({**world.settings, "decisions": {"folder": str(tmp_path)}}))
