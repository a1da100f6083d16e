"""`GET /admin/api/spend`: what was spent, by whom. `GET /v1/spend`: what the caller's own key spent."""

import re
from datetime import date, timedelta
from typing import Any

from fastapi import APIRouter, Request, Response

from gateway.admin import BASE, Admin
from gateway.service import Service
from gateway.surfaces import In, Known, answer
from router.errors import InvalidRequest
from router.ledger.account import today
from router.ledger.spending import DIMENSIONS, Spend

DAYS = 30  # where no `from` is given
OWN_DAYS_MOST = 92
OWN = ("day", "expert")

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

api = APIRouter(prefix=BASE)
own = APIRouter()


def _parameters(choices: tuple[str, ...]) -> dict[str, Any]:
    day = {"type": "string", "format": "date"}
    return {
        "parameters": [
            {"name": "from", "in": "query", "schema": day},
            {"name": "to", "in": "query", "schema": day},
            {
                "name": "by",
                "in": "query",
                "schema": {"type": "string", "default": "day", "example": ",".join(choices)},
            },
        ]
    }


@api.get("/spend", openapi_extra=_parameters(DIMENSIONS))
async def spend(service: In, exchange: Admin, request: Request) -> Response:
    """What was spent from one UTC day to another, both counted, by any of day, expert, key, team and tag."""
    return answer(await _spent(service, request, DIMENSIONS, service.settings.ledger.accounts_days), exchange)


@own.get("/v1/spend", openapi_extra=_parameters(OWN))
async def own_spend(service: In, exchange: Known, request: Request) -> Response:
    """What the caller's own key spent, by day or expert."""
    most = min(OWN_DAYS_MOST, service.settings.ledger.accounts_days)
    return answer(await _spent(service, request, OWN, most, exchange.payer.key), exchange)


async def _spent(
    service: Service, request: Request, choices: tuple[str, ...], days_most: int, key: str | None = None
) -> dict[str, Any]:
    for name in request.query_params:
        if name not in ("from", "to", "by"):
            raise InvalidRequest(f"{name[:100]}: unknown parameter; there are: from, to, by", param=name[:100])
    first, last = _range(request, days_most)
    by = _dimensions(request.query_params.get("by", "day"), choices)
    spending = service.foundation.spending
    rows, total = await spending.read(first, last, by, key)
    names = {} if service.registry is None else {one.id: one.name for one in service.registry.book.keys.values()}
    return {
        "object": "list",
        "from": first.isoformat(),
        "to": last.isoformat(),
        "by": by,
        "data": [_shown(row, by, names) for row in rows],
        "total": _amounts(total),
    }


def _shown(row: Spend, by: tuple[str, ...], names: dict[str, str]) -> dict[str, Any]:
    group = dict(zip(by, row.group, strict=True))
    if "key" in group:
        group["key_name"] = names.get(group["key"], group["key"])  # as it is called now
    return group | _amounts(row)


def _amounts(row: Spend) -> dict[str, Any]:
    amounts = row.amounts()
    usd = {f"{name}_usd": amounts[f"{name}_nano"] / 1e9 for name in ("cost", "estimated")}
    return {**amounts, **usd}


def _range(request: Request, days_most: int) -> tuple[date, date]:
    given = request.query_params
    last = _day(given["to"], "to") if "to" in given else today()
    first = _day(given["from"], "from") if "from" in given else last - timedelta(days=min(DAYS, days_most) - 1)
    if first > last:
        raise InvalidRequest(f"from: {first} is after {last}, the last day asked for", param="from")
    if (last - first).days >= days_most:
        raise InvalidRequest(
            f"from: {first} to {last} are {(last - first).days + 1} days, at most {days_most} can be asked for",
            param="from",
        )
    return first, last


def _day(text: str, name: str) -> date:
    try:
        if _DAY.fullmatch(text) and (found := date.fromisoformat(text)).year > 1970:
            return found
    except ValueError:
        pass
    raise InvalidRequest(f"{name}: expected a day as {today()}, got {text[:100]!r}", param=name)


def _dimensions(text: str, choices: tuple[str, ...]) -> tuple[str, ...]:
    asked = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for one in asked:
        if one not in choices:
            raise InvalidRequest(f"by: no {one[:100]!r}; there are: {', '.join(choices)}", param="by")
    return asked
