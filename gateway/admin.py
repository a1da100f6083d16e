"""`/admin/api`: virtual keys, teams and the audit log, for who has an admin credential. Not the hot path."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from gateway.chat_request import parse_object
from gateway.exchange import Exchange
from gateway.surfaces import In, answer
from gateway.wire import read_body
from router.errors import Conflict, InvalidRequest, UnknownRecord
from router.experts.overlay import ExpertRegistry
from router.keys.office import DAY_S, OVERLAP_MOST_S, KeyOffice, find_key, find_team
from router.keys.records import KeyRecord, KeySpec, TeamRecord, TeamSpec, shown

BASE = "/admin/api"
AUDIT_COUNT, AUDIT_COUNT_MOST = 100, 1000

_ENTRY = re.compile(r"\d{1,15}-\d{1,10}")

api = APIRouter(prefix=BASE)
#: Stands in where no admin credential is configured.
off = APIRouter(prefix=BASE, include_in_schema=False)


@off.api_route("/{path:path}", methods=["GET", "POST", "PATCH", "PUT", "DELETE"])
async def switched_off() -> None:
    """Refuses."""
    raise UnknownRecord("the admin API is off: auth.admin names no credential", code="admin_off")


def admin_of(request: Request, service: In) -> Exchange:
    """The request's bookkeeping; its caller is the admin. Refuses who has no admin credential."""
    exchange = Exchange(request.headers.raw)
    request.state.exchange = exchange
    exchange.caller = service.keyring.admin(request.headers.raw)
    return exchange


Admin = Annotated[Exchange, Depends(admin_of)]


def office_of(service: In, _: Admin) -> KeyOffice:
    if service.office is None:
        raise Conflict(
            "virtual keys are off: auth.secret names no secret under which they could be kept", code="keys_off"
        )
    return service.office


Office = Annotated[KeyOffice, Depends(office_of)]


async def body_of(request: Request, service: In, _: Admin) -> dict[str, Any]:
    data = await read_body(request.headers.raw, request.receive, service.settings.limits.body_bytes)
    return parse_object(data) if data else {}


Body = Annotated[dict[str, Any], Depends(body_of)]


def _takes(kind: type[KeySpec] | type[TeamSpec], *, whole: bool) -> dict[str, Any]:
    """The OpenAPI entry of a body; a change gives only some of the fields."""
    schema = _inlined(kind.model_json_schema())
    if not whole:
        del schema["required"]
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with its definitions where they are used: a path's entry has no place for them."""
    definitions = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, list):
            return [resolve(one) for one in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return resolve(definitions[node["$ref"].rpartition("/")[2]])
        return {key: resolve(value) for key, value in node.items()}

    found: dict[str, Any] = resolve(schema)
    return found


_ROTATE = {
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "overlap_s": {"type": "number", "minimum": 0, "maximum": OVERLAP_MOST_S, "default": DAY_S}
                    },
                    "additionalProperties": False,
                }
            }
        }
    }
}


_NOTHING = {
    "requestBody": {
        "content": {
            "application/json": {"schema": {"type": "object", "properties": {}, "additionalProperties": False}}
        }
    }
}


def _told(record: KeyRecord | TeamRecord, exchange: Exchange, status: int = 200, **more: Any) -> Response:
    said = shown(record)
    assert said is not None
    return answer(said | more, exchange, status)


@api.get("/keys")
async def list_keys(office: Office, exchange: Admin, request: Request) -> Response:
    """All keys, revoked ones too, newest first; `?team=` those of one."""
    _known(request, "team")
    team = request.query_params.get("team")
    book = await office.book()
    if team is not None:
        find_team(book, team)
    keys = [key for key in book.keys.values() if team is None or key.team == team]
    keys.sort(key=lambda key: key.created_at, reverse=True)
    return answer({"object": "list", "data": [shown(key) for key in keys]}, exchange)


@api.post("/keys", status_code=201, openapi_extra=_takes(KeySpec, whole=True))
async def create_key(body: Body, office: Office, exchange: Admin) -> Response:
    """A new key; its secret, `key`, is shown in this answer and never again."""
    key, plain = await office.create_key(exchange.caller, body)
    return _told(key, exchange, 201, key=plain)


@api.get("/keys/{id}")
async def show_key(id: str, office: Office, exchange: Admin) -> Response:
    """By its id, or a living one by its name."""
    return _told(find_key(await office.book(), id), exchange)


@api.patch("/keys/{id}", openapi_extra=_takes(KeySpec, whole=False))
async def update_key(id: str, body: Body, office: Office, exchange: Admin) -> Response:
    """Replaces the given fields; null: a field's default."""
    return _told(await office.update_key(exchange.caller, id, body), exchange)


@api.post("/keys/{id}/rotate", openapi_extra=_ROTATE)
async def rotate_key(id: str, body: Body, office: Office, exchange: Admin) -> Response:
    """A new secret, shown once; the old one stays valid for `overlap_s` more, a day by default."""
    _only(body, "overlap_s")
    overlap_s = body.get("overlap_s", DAY_S)
    if isinstance(overlap_s, bool) or not isinstance(overlap_s, int | float):
        raise InvalidRequest("overlap_s: expected a number of seconds", param="overlap_s")
    key, plain = await office.rotate_key(exchange.caller, id, overlap_s)
    return _told(key, exchange, key=plain)


@api.post("/keys/{id}/revoke", openapi_extra=_NOTHING)
async def revoke_key(id: str, body: Body, office: Office, exchange: Admin) -> Response:
    """For good, on every replica within a second."""
    _only(body)
    return _told(await office.revoke_key(exchange.caller, id), exchange)


@api.get("/teams")
async def list_teams(office: Office, exchange: Admin) -> Response:
    """All teams by name."""
    teams = (await office.book()).teams
    return answer({"object": "list", "data": [shown(teams[name]) for name in sorted(teams)]}, exchange)


@api.post("/teams", status_code=201, openapi_extra=_takes(TeamSpec, whole=True))
async def create_team(body: Body, office: Office, exchange: Admin) -> Response:
    """A new team."""
    return _told(await office.create_team(exchange.caller, body), exchange, 201)


@api.get("/teams/{name}")
async def show_team(name: str, office: Office, exchange: Admin) -> Response:
    """By its name."""
    return _told(find_team(await office.book(), name), exchange)


@api.patch("/teams/{name}", openapi_extra=_takes(TeamSpec, whole=False))
async def update_team(name: str, body: Body, office: Office, exchange: Admin) -> Response:
    """Replaces the given fields; null: a field's default."""
    return _told(await office.update_team(exchange.caller, name, body), exchange)


@api.delete("/teams/{name}")
async def delete_team(name: str, office: Office, exchange: Admin) -> Response:
    """Only where no living key is in it."""
    return _told(await office.delete_team(exchange.caller, name), exchange, deleted=True)


@api.get("/audit")
async def audit(exchange: Admin, request: Request) -> Response:
    """Who changed what and when, newest first: `?limit=` entries, those before `?before=`, an entry's id."""
    _known(request, "limit", "before")
    limit, before = request.query_params.get("limit", str(AUDIT_COUNT)), request.query_params.get("before")
    if not re.fullmatch(r"[0-9]{1,9}", limit) or not 1 <= int(limit) <= AUDIT_COUNT_MOST:
        raise InvalidRequest(f"limit: expected 1 to {AUDIT_COUNT_MOST}, got {limit[:100]!r}", param="limit")
    if before is not None and not _ENTRY.fullmatch(before):
        raise InvalidRequest(f"before: expected an entry's id, got {before[:100]!r}", param="before")
    experts: ExpertRegistry = request.app.state.configuration.experts
    return answer({"object": "list", "data": await experts.store.audit(int(limit), before)}, exchange)


def _only(body: dict[str, Any], *fields: str) -> None:
    for name in body:
        if name not in fields:
            there = ", ".join(fields) or "none"
            raise InvalidRequest(f"{name[:100]}: unknown field; there are: {there}", param=name[:100])


def _known(request: Request, *parameters: str) -> None:
    for name in request.query_params:
        if name not in parameters:
            there = ", ".join(parameters)
            raise InvalidRequest(f"{name[:100]}: unknown parameter; there are: {there}", param=name[:100])
