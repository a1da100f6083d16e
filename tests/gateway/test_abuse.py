"""What a hostile caller tries against the other callers: each attempt stays its own affair."""

import json
from typing import Any

import pytest
from serving import HELLO, Gateway, answer_on, until
from upstream import Upstream, hang


def test_a_body_is_never_changed_so_no_second_request_hides_in_it(gateway: Gateway) -> None:
    hidden = b"GET /smuggled HTTP/1.1\r\nHost: ab\r\n\r\n"
    body = b"\r\nupgrade:" * (len(hidden) // 2) + hidden
    client = gateway.connect()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
    client.sendall(head % len(body) + body)
    assert answer_on(client)[0] == 400
    client.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    status, answer = answer_on(client)
    assert status == 200 and b"smuggled" not in answer


def test_a_caller_in_haste_rests_no_expert(gateway: Gateway, small: Upstream) -> None:
    for _ in range(4):
        small.script(hang)
        answer = gateway.chat("small", headers={"x-stainless-read-timeout": "0.001"})
        assert answer.status_code == 504
    assert gateway.client.get("/readyz").json()["experts"]["small"] == "ok"


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": [[]] * 900_000},
        {"metadata": [1] * 2_000_000},
        {"routing": {"only": ["small"] * 2_000}},
    ],
)
def test_more_values_than_any_request_needs_are_refused(fields: dict[str, Any], gateway: Gateway) -> None:
    body = {"model": "small", "messages": HELLO, **fields}
    answer = gateway.send(json.dumps(body, separators=(",", ":")).encode())
    assert answer.status_code == 400 and len(answer.content) < 2_000


def test_a_caller_that_goes_on_after_its_answer_is_cut_off(gateway: Gateway) -> None:
    client = gateway.connect()
    client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n")
    assert answer_on(client)[0] == 413
    with pytest.raises(OSError):
        for _ in range(1_000):
            client.sendall(bytes(1024 * 1024))
    until(lambda: gateway.busy() == 0)
    gateway.still_works()


def test_a_path_writes_no_control_characters_into_the_log(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="pointsman"):
        gateway.client.get("/v1/responses/%1b%5b31mred%e2%80%a8forged%c2%85")
    (line,) = (one.getMessage() for one in caplog.records if "red" in one.getMessage())
    assert "path=/v1/responses/?[31mred?forged?" in line
