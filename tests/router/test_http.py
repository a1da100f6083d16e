"""The small HTTP client alone, against a server that says any bytes."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from upstream import WAIT_S, Behaviour, Upstream, Wire, answers, close, hang, streams, writes

from router.experts.http import HIGH_WATER_BYTES, Origin, TransportError

HEAD = b"POST /v1 HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
async def origin(upstream: Upstream) -> AsyncIterator[Origin]:
    origin = Origin(upstream.url, connections=2)
    yield origin
    origin.close()


async def ask(origin: Origin, timeout_s: float = WAIT_S) -> bytes:
    exchange = await origin.exchange(HEAD, b"{}", streaming=False, timeout_s=timeout_s)
    body = exchange.body()
    exchange.finish()
    return body


async def read(origin: Origin) -> bytes:
    exchange = await origin.exchange(HEAD, b"{}", streaming=True, timeout_s=WAIT_S)
    try:
        parts = []
        while part := await exchange.next():
            parts.append(part)
        return b"".join(parts)
    finally:
        exchange.finish()


RIGHT: dict[str, bytes] = {
    "with a length": OK + b"content-length: 5\r\n\r\nhello",
    "without a body": OK + b"content-length: 0\r\n\r\n",
    "in chunks": OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=1\r\nllo\r\n0\r\n\r\n",
    "until closed": OK + b"\r\nhello",
    "after 100 Continue": b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"content-length: 5\r\n\r\nhello",
    "after early hints": b"HTTP/1.1 103 Hints\r\nlink: x\r\n\r\n" + OK + b"content-length: 5\r\n\r\nhello",
    "over HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\nhello",
}


@pytest.mark.parametrize("at_once", [0, 1])
@pytest.mark.parametrize("case", RIGHT)
async def test_every_right_answer_is_read(case: str, at_once: int, origin: Origin, upstream: Upstream) -> None:
    want = b"" if case == "without a body" else b"hello"
    upstream.script(writes(RIGHT[case], close, at_once=at_once), writes(RIGHT[case], close, at_once=at_once))
    assert await ask(origin) == want
    assert await read(origin) == want


WRONG: dict[str, tuple[Behaviour, str]] = {
    "no word": (close, "cut"),
    "half a head": (writes(OK, close), "cut"),
    "half a body": (writes(OK + b"content-length: 9\r\n\r\nhello", close), "cut"),
    "half a chunk": (writes(OK + b"transfer-encoding: chunked\r\n\r\n9\r\nhello", close), "cut"),
    "no last chunk": (writes(OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", close), "cut"),
    "no HTTP": (writes(b"* OK IMAP4rev1\r\n", hang), "garbage"),
    "a chunk that is none": (writes(OK + b"transfer-encoding: chunked\r\n\r\nxyz\r\n", hang), "garbage"),
    "a length that is none": (writes(OK + b"content-length: many\r\n\r\n", hang), "garbage"),
    "two lengths": (writes(OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello", hang), "garbage"),
    "a head without end": (writes(OK + b"x: y\r\n" * 20_000, hang), "garbage"),
    "a second answer": (writes((OK + b"content-length: 5\r\n\r\nhello") * 2, hang), "garbage"),
    "another protocol": (
        writes(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", hang),
        "garbage",
    ),
}


@pytest.mark.parametrize("case", WRONG)
async def test_every_wrong_answer_says_what_is_wrong(case: str, origin: Origin, upstream: Upstream) -> None:
    behave, stage = WRONG[case]
    upstream.script(behave)
    with pytest.raises(TransportError) as caught:
        await ask(origin)
    assert caught.value.stage == stage
    upstream.script(answers(b"next"))
    assert await ask(origin) == b"next"


async def test_silence_ends_at_the_time_given(origin: Origin, upstream: Upstream) -> None:
    upstream.script(hang)
    with pytest.raises(TransportError) as caught:
        await ask(origin, timeout_s=0.05)
    assert caught.value.stage == "timeout"
    assert await asyncio.to_thread(upstream.requests[0].gone.wait, WAIT_S)


async def test_cancelling_closes_the_connection(origin: Origin, upstream: Upstream) -> None:
    upstream.script(hang)
    task = asyncio.create_task(ask(origin))
    received = await asyncio.to_thread(upstream.wait_for, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(received.gone.wait, WAIT_S)


async def test_more_calls_than_connections_wait_their_turn(origin: Origin, upstream: Upstream) -> None:
    await asyncio.gather(*(ask(origin) for _ in range(8)))
    assert len(upstream.requests) == 8 and upstream.connections == 2


async def test_waiting_for_a_turn_counts_as_waiting(origin: Origin, upstream: Upstream) -> None:
    upstream.script(hang, hang)
    held = [asyncio.create_task(ask(origin)) for _ in range(2)]
    await asyncio.to_thread(upstream.wait_for, 2)
    with pytest.raises(TransportError) as caught:
        await ask(origin, timeout_s=0.05)
    assert caught.value.stage == "busy" and len(upstream.requests) == 2
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    assert await ask(origin)


async def test_failures_of_every_kind_give_their_turn_back(origin: Origin, upstream: Upstream) -> None:
    for behave, _ in WRONG.values():
        upstream.script(behave)
        with pytest.raises(TransportError):
            await ask(origin)
    assert await asyncio.gather(ask(origin), ask(origin))


async def test_a_stream_whose_last_packet_is_late_keeps_its_connection(origin: Origin, upstream: Upstream) -> None:
    upstream.script(streams(b"hello", then=writes(b"0\r\n\r\n")))
    exchange = await origin.exchange(HEAD, b"{}", streaming=True, timeout_s=WAIT_S)
    assert await exchange.next() == b"hello"
    exchange.finish(read_out=True)
    for _ in range(3):
        await ask(origin)
    assert upstream.connections <= 2


async def test_a_stream_left_early_loses_its_connection(origin: Origin, upstream: Upstream) -> None:
    upstream.script(streams(b"hello", then=hang))
    exchange = await origin.exchange(HEAD, b"{}", streaming=True, timeout_s=WAIT_S)
    await exchange.next()
    exchange.finish()
    assert await asyncio.to_thread(upstream.requests[0].gone.wait, WAIT_S)


async def test_finishing_twice_is_finishing_once(origin: Origin, upstream: Upstream) -> None:
    for _ in range(4):
        exchange = await origin.exchange(HEAD, b"{}", streaming=False, timeout_s=WAIT_S)
        exchange.finish()
        exchange.finish()
    assert upstream.connections == 1


async def test_what_nobody_reads_is_not_fetched_without_end(origin: Origin, upstream: Upstream) -> None:
    sent: list[int] = []
    part = b"x" * 65_536

    async def pour(wire: Wire) -> None:
        await wire.head(200, {})
        for _ in range(1000):
            await wire.write(part)
            sent.append(1)
        wire.writer.close()

    upstream.script(pour)
    exchange = await origin.exchange(HEAD, b"{}", streaming=True, timeout_s=WAIT_S)
    while True:
        before = len(sent)
        await asyncio.sleep(0.1)
        if before and len(sent) == before:
            break
    assert len(sent) < 1000
    size = 0
    while data := await exchange.next():
        assert len(data) < HIGH_WATER_BYTES * 4
        size += len(data)
    assert size == 1000 * len(part)
    exchange.finish()


async def test_silence_in_a_stream_is_bounded_where_asked(origin: Origin, upstream: Upstream) -> None:
    upstream.script(streams(b"hello", then=hang))
    exchange = await origin.exchange(HEAD, b"{}", streaming=True, timeout_s=WAIT_S)
    exchange.limit_silence(0.05)
    assert await exchange.next() == b"hello"
    with pytest.raises(TransportError) as caught:
        await exchange.next()
    assert caught.value.stage == "timeout"
    exchange.finish()


async def test_a_reader_that_takes_its_time_is_not_silence(origin: Origin, upstream: Upstream) -> None:
    upstream.script(streams(*[b"x" * 100_000] * 20))
    exchange = await origin.exchange(HEAD, b"{}", streaming=True, timeout_s=WAIT_S)
    exchange.limit_silence(0.02)
    await asyncio.sleep(0.1)
    size = 0
    while data := await exchange.next():
        size += len(data)
    assert size == 2_000_000
    exchange.finish()


async def test_nobody_listening_is_said_with_the_address(origin: Origin, upstream: Upstream) -> None:
    upstream.stop()
    with pytest.raises(TransportError, match=f"127.0.0.1:{upstream.port}") as caught:
        await ask(origin)
    assert caught.value.stage == "connect"


@pytest.mark.parametrize("url", ["http://a..b/v1", "http://nowhere.invalid/v1", "https://127.0.0.1:1/v1"])
async def test_no_connection_is_said_so_whatever_the_reason(url: str) -> None:
    origin = Origin(url, connections=1)
    with pytest.raises(TransportError) as caught:
        await ask(origin)
    assert caught.value.stage == "connect"


async def test_a_server_that_speaks_no_tls_is_no_connection(upstream: Upstream) -> None:
    origin = Origin(upstream.url.replace("http:", "https:"), connections=1, connect_timeout_s=0.5)
    with pytest.raises(TransportError) as caught:
        await ask(origin)
    assert caught.value.stage == "connect"


@pytest.fixture
def secure(other_loop: asyncio.AbstractEventLoop, tmp_path: Path) -> Iterator[tuple[Upstream, Path]]:
    """An upstream over TLS, and the certificate to trust."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    )
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    upstream = Upstream(other_loop, context)
    yield upstream, certificate
    upstream.stop()


async def test_https_is_spoken_where_the_certificate_is_trusted(
    secure: tuple[Upstream, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream, certificate = secure
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    upstream.script(answers(b"x" * 3_000_000), streams(*[b"y" * 100_000] * 10))
    origin = Origin(upstream.url, connections=1)
    assert len(await ask(origin)) == 3_000_000
    assert await read(origin) == b"y" * 1_000_000
    assert upstream.connections == 1
    origin.close()


async def test_a_certificate_nobody_trusts_is_no_connection(secure: tuple[Upstream, Path]) -> None:
    origin = Origin(secure[0].url, connections=1)
    with pytest.raises(TransportError) as caught:
        await ask(origin)
    assert caught.value.stage == "connect" and "certificate" in str(caught.value).lower()


async def test_the_address_shows_no_password() -> None:
    assert Origin("http://user:secret@host:81/v1", connections=1).authority == "host:81"
