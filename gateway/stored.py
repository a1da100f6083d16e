"""What of the Responses API is about responses that are stored: read one, its input, delete it."""

from typing import Any

from fastapi import APIRouter, Response

from gateway.surfaces import In, Known, answer
from router.errors import InvalidRequest

stored = APIRouter(prefix="/v1/responses")


@stored.get("/{name}")
async def response(name: str, service: In, exchange: Known, stream: str | None = None) -> Response:
    """A stored response of the caller's key, as it was answered; never as a stream."""
    if stream not in (None, "false", "0"):
        raise InvalidRequest("stream: a stored response is answered whole", param="stream")
    return answer(await service.responses.response(exchange.owner, name), exchange)


@stored.delete("/{name}")
async def delete(name: str, service: In, exchange: Known) -> Response:
    """Forgets a stored response. Conversations that went on from it cannot go on any more."""
    await service.responses.delete(exchange.owner, name)
    return answer({"id": name, "object": "response", "deleted": True}, exchange)


@stored.get("/{name}/input_items")
async def input_items(
    name: str,
    service: In,
    exchange: Known,
    limit: str = "20",
    order: str = "desc",
    after: str | None = None,
) -> Response:
    """The items that the response's own request sent, newest first; those of earlier requests are with theirs."""
    most = _limit(limit)
    if order not in ("asc", "desc"):
        raise InvalidRequest("order: expected asc or desc", param="order")
    items = await service.responses.input(exchange.owner, name)
    if order == "desc":
        items.reverse()
    names = [item["id"] for item in items]
    if after is not None:
        if after not in names:
            raise InvalidRequest("after: the response's input has no such item", param="after")
        items = items[names.index(after) + 1 :]
    page = items[:most]
    found: dict[str, Any] = {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(items) > most,
    }
    return answer(found, exchange)


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:4]) <= 100:
        raise InvalidRequest("limit: expected an integer from 1 to 100", param="limit")
    return int(text)
