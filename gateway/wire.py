"""The caller's end of an ASGI connection: the body that comes in, the error that goes out, the hanging up."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from gateway.errors import Failure
from router.errors import BodyTooLarge, InvalidRequest

T = TypeVar("T")
Headers = list[tuple[bytes, bytes]]
JSON = (b"content-type", b"application/json")
#: Where official clients say their own timeout in seconds: those of Python, and those of Node.
_TIMEOUTS = (b"x-stainless-read-timeout", b"x-stainless-timeout")
LEAST_PATIENCE_S = 1.0
MARGIN_S = 0.5  # taken off the client's own read timeout, so that our answer comes before it gives up


class ClientGone(Exception):
    """The caller closed the connection; nobody is there to be told."""


async def until_gone(work: Coroutine[Any, Any, T], receive: Any) -> T:
    """Runs `work` in this task; cancels it, and raises `ClientGone`, when the caller closes the connection."""
    task = asyncio.current_task()
    assert task is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watcher = asyncio.get_running_loop().create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if gone and not task.uncancel():
            raise ClientGone from None
        raise
    finally:
        watcher.cancel()


def patience_s(headers: Sequence[tuple[bytes, bytes]], limit_s: float) -> float:
    """How long all attempts together may take: our limit, or the client's own timeout if that is less."""
    for name, value in headers:
        if name in _TIMEOUTS:
            try:
                theirs_s = float(value)
            except ValueError:
                continue
            if theirs_s > 0:
                theirs_s = max(theirs_s, LEAST_PATIENCE_S)
                limit_s = min(limit_s, max(theirs_s - MARGIN_S, theirs_s / 2))
    return limit_s


async def send_failure(failure: Failure, headers: Headers, send: Any) -> None:
    length = (b"content-length", b"%d" % len(failure.body))
    all_headers = [JSON, length, *headers, *failure.headers]
    await send({"type": "http.response.start", "status": failure.status, "headers": all_headers})
    await send({"type": "http.response.body", "body": failure.body})


async def read_body(headers: Headers, receive: Any, limit: int) -> bytes:
    """The whole body. Raises `BodyTooLarge`, `InvalidRequest` or `ClientGone`.

    The server bounds its time: see `gateway.protocol`.
    """
    for name, value in headers:
        if name == b"content-length" and value.isdigit() and (len(value) > 18 or int(value) > limit):
            raise BodyTooLarge(f"the body of {value[:18].decode()} bytes is larger than the limit of {limit}")
        if name == b"content-encoding" and value.lower() != b"identity":
            raise InvalidRequest("content-encoding: send the body uncompressed")
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise BodyTooLarge(f"the body is larger than the limit of {limit} bytes")
        return body
    parts: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise BodyTooLarge(f"the body is larger than the limit of {limit} bytes")
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()
