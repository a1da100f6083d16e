"""`/admin/api/config` and `/admin/api/experts`: the configuration at work, and experts changed while it is."""

from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response

from gateway.admin import BASE, Admin, Body
from gateway.configuration import REFUSED, Configuration
from gateway.expert_office import ExpertOffice
from gateway.masking import masked
from gateway.surfaces import answer
from router.errors import Conflict, InvalidRequest, LedgerError

api = APIRouter(prefix=BASE)

_EXPERT = {"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}}


def configuration_of(request: Request, _: Admin) -> Configuration:
    found: Configuration = request.app.state.configuration
    return found


At = Annotated[Configuration, Depends(configuration_of)]


def office_of(configuration: At) -> ExpertOffice:
    assert configuration.experts is not None
    return ExpertOffice(configuration, configuration.experts)


Office = Annotated[ExpertOffice, Depends(office_of)]


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


def described(configuration: Configuration) -> dict[str, Any]:
    """The configuration at work; no secret is in it."""
    service, experts = configuration.service, configuration.experts
    source = configuration.source
    return {
        "object": "config",
        "number": configuration.number,
        "digest": configuration.digest,
        "since": _time(configuration.since),
        "from": configuration.origin,
        "file": None if source is None else str(source.path),
        "policy": service.router.use.label,
        "experts_change": None if experts is None else experts.book.number,
        "experts_behind": None if experts is None else experts.reason,
        "retiring": configuration.retiring,
        "refused": [
            {"what": what, "at": _time(one.at), "from": one.origin, "message": one.message}
            for what, one in configuration.refusals.items()
        ],
        "settings": masked(service.settings),
    }


@api.get("/config")
async def show_config(configuration: At, exchange: Admin) -> Response:
    """What is at work, since when and from where, and what was refused last if that is not at work."""
    return answer(described(configuration), exchange)


@api.post("/config/reload")
async def reload_config(configuration: At, exchange: Admin, body: Body) -> Response:
    """Reads this gateway's file now; `changed` tells whether anything in it did."""
    if body:
        raise InvalidRequest("a reload takes no fields; it reads the gateway's file")
    before = configuration.digest
    try:
        changed = await configuration.reload(f"the admin API ({exchange.caller})")
    except REFUSED as error:
        raise Conflict(f"refused, and the configuration at work stays: {error}", code="config_refused") from None
    if changed:
        await _note(configuration, exchange.caller, before)
    return answer(described(configuration) | {"changed": changed}, exchange)


async def _note(configuration: Configuration, who: str, before: str) -> None:
    assert configuration.experts is not None
    entry = {"who": who, "action": "config.reload", "before": before, "after": configuration.digest}
    try:
        await configuration.experts.store.note(orjson.dumps(entry))
    except LedgerError:  # the file is at work all the same
        return


@api.get("/experts")
async def list_experts(office: Office, exchange: Admin) -> Response:
    """Those at work here, and where each is from: `file` or `api`; those refused here, with the `reason`."""
    return answer({"object": "list", "data": office.list()}, exchange)


@api.get("/experts/{name:path}")
async def show_expert(name: str, office: Office, exchange: Admin) -> Response:
    """By its name, which may hold slashes."""
    return answer(office.show(name), exchange)


@api.put("/experts/{name:path}", openapi_extra=_EXPERT)
async def put_expert(name: str, body: Body, office: Office, exchange: Admin) -> Response:
    """Adds an expert, or replaces the one of that name, on every replica; the body is an entry of `experts`."""
    return answer(await office.put(exchange.caller, name, body), exchange)


@api.delete("/experts/{name:path}")
async def remove_expert(name: str, office: Office, exchange: Admin) -> Response:
    """Takes back what the API said of an expert."""
    await office.remove(exchange.caller, name)
    return answer({"object": "expert", "name": name, "deleted": True}, exchange)
