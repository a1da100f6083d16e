"""The benchmark's own instruments: what they count must be true before anything is measured with them."""

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mix import resamples, static_mix, weighted_means
from native import Shape, build, load, read_log
from prompts import body, in_turn, unseen, write_bodies
from report import Figure, judged
from rounds import alternate, over_rounds
from servers import Server, upstream

needs_cc = pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(tmp_path_factory.mktemp("programs"))


@pytest.fixture
def direct(programs: dict[str, Path]) -> Iterator[Server]:
    with upstream(programs["upstream"], 30) as server:
        yield server


@needs_cc
def test_every_request_is_answered_and_logged(programs: dict[str, Path], direct: Server, tmp_path: Path) -> None:
    bodies = write_bodies(tmp_path / "bodies", in_turn(unseen(5, seed=1), "one", "two"))
    run = load(programs["load"], direct.port, Shape(4, 5, 100), bodies, log=tmp_path / "log")
    answers = read_log(tmp_path / "log")
    assert (run.requests, run.errors, len(answers)) == (100, 0, 100)
    assert sorted({a.body for a in answers}) == list(range(10))
    assert all(a.latency_ms >= a.first_ms > 0 and a.overhead_ms is None for a in answers)


@needs_cc
def test_streams_have_the_chunks_that_the_model_name_asks_for(
    programs: dict[str, Path], direct: Server, tmp_path: Path
) -> None:
    bodies = write_bodies(tmp_path / "bodies", [body("x-c7", "hello", stream=True)])
    run = load(programs["load"], direct.port, Shape(3, 5, 30), bodies)
    assert (run.requests, run.chunks, run.errors) == (30, 210, 0)


@needs_cc
def test_paced_streams_take_their_time_and_say_their_usage(
    programs: dict[str, Path], direct: Server, tmp_path: Path
) -> None:
    asked = json.loads(body("x-c5-p20", "hello", stream=True)) | {"stream_options": {"include_usage": True}}
    bodies = write_bodies(tmp_path / "bodies", [json.dumps(asked)])
    run = load(programs["load"], direct.port, Shape(2, 5, 2), bodies)
    assert (run.chunks, run.errors) == (2 * 6, 0)
    assert run.p50_ms > 75
    assert run.gap_ms > 15


def answering(answer: bytes) -> Server:
    """A server on a thread that gives one connection after another the same bytes, and closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return Server("fake", listener.getsockname()[1], 0, 0.0)


@needs_cc
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 500 Oops\r\ncontent-length: 2\r\n\r\n{}", "not a 200"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "no JSON"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nb\r\ndata: {}\n\n\r\n0\r\n\r\n", "no [DONE]"),
        (b'HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"choices"', "ended early"),
    ],
)
def test_a_wrong_answer_is_counted_as_an_error(
    programs: dict[str, Path], tmp_path: Path, answer: bytes, why: str
) -> None:
    bodies = write_bodies(tmp_path / "bodies", [body("x", "hello")])
    run = load(programs["load"], answering(answer).port, Shape(1, 5, 3), bodies)
    assert (run.requests, run.errors) == (0, 3)
    assert why in run.error


def test_unseen_prompts_differ_within_and_between_seeds() -> None:
    assert len({*unseen(300, seed=1), *unseen(300, seed=2)}) == 600


def test_rounds_alternate_their_order() -> None:
    seen: list[tuple[str, int]] = []
    alternate(2, {"a": lambda n: seen.append(("a", n)), "b": lambda n: seen.append(("b", n))})
    assert seen == [("a", 0), ("b", 0), ("b", 1), ("a", 1)]


def test_nothing_measured_is_neither_held_nor_failed() -> None:
    assert over_rounds("speed", [], "ms", "< 5").holds is None
    assert judged(Figure("speed", 5.0, goal="< 5")).holds is False
    assert over_rounds("speed", [3.0, 9.0, 4.0], "ms", "< 5").holds is True


def test_the_static_mix_lies_on_the_hull_and_ignores_models_beneath_it() -> None:
    cost = np.array([[1.0, 2.0, 3.0]])
    quality = np.array([[0.2, 0.1, 0.6]])
    at = [0.5, 1.0, 2.0, 9.0]
    reached = [float(static_mix(cost, quality, np.array([x]))[0]) for x in at]
    assert reached == pytest.approx([-np.inf, 0.2, 0.4, 0.6])


def test_means_leave_out_what_was_not_observed() -> None:
    values = np.array([[1.0, np.nan], [0.0, 1.0], [0.5, 0.0]])
    weights = resamples(3, 10, seed=0)
    assert weighted_means(values, weights)[0] == pytest.approx([0.5, 0.5])
    assert weights.sum(axis=1) == pytest.approx(3.0)
