"""What is kept of a virtual key and of a team, and what an operator may say of them."""

import hmac
import math
import re
import secrets
import time
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from router.config_base import Budgets, Name, RateSettings
from router.errors import InvalidRequest
from router.ledger.caps import Cap, caps_of
from router.types import Payer, Preference

SECRET_PREFIX = "pmk_"
ID_PREFIX = "key_"
#: Secrets of one key that are valid at once, while it is rotated.
SECRETS_MOST = 5

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:+\-]{0,99}")


def _named(name: str) -> str:
    if not _NAME.fullmatch(name) or name.startswith(ID_PREFIX):
        raise ValueError(
            "1 to 100 letters, digits and . _ - @ : +, the first a letter or digit, and not beginning with key_"
        )
    return name


def _some(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    if values is not None and not values:
        raise ValueError("give at least one, or leave it out: then all are allowed")
    return values


Label = Annotated[str, AfterValidator(_named), WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$"})]
Text = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Tag = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\w.\-/@:+=]+$")]
Choice = Annotated[tuple[Name, ...] | None, Field(max_length=1000), AfterValidator(_some)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KeySpec(_Record):
    """What an operator says of a key."""

    name: Label = Field(description="what logs and metrics call it; no two living keys share one")
    owner: Text = ""
    team: Label | None = None
    expires_at: AwareDatetime | None = Field(None, description="with its time zone")
    models: Choice = Field(None, description="the only ones that it may use, routed or by name; default: all")
    policies: Choice = Field(None, description="the only ones that may route for it; default: all")
    preferences: Annotated[tuple[Preference, ...] | None, AfterValidator(_some)] = None
    limits: RateSettings = RateSettings()
    budget: Budgets = ()
    tags: Annotated[tuple[Tag, ...], Field(max_length=32)] = ()


class TeamSpec(_Record):
    """What an operator says of a team; its limits and budgets count all its keys together."""

    name: Label
    owner: Text = ""
    limits: RateSettings = RateSettings()
    budget: Budgets = ()


class KeySecret(_Record):
    """One secret of a key, as its keyed hash. `hint` are its last four characters."""

    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    hint: str
    created_at: datetime
    until: datetime | None = Field(None, description="when it stops, once another has taken its place")


class KeyRecord(KeySpec):
    """A key as it is kept."""

    id: str
    created_at: datetime
    revoked_at: datetime | None = None
    secrets: tuple[KeySecret, ...]

    @cached_property
    def caps(self) -> tuple[Cap, ...]:
        return caps_of(f"key:{self.id}", f"key {self.name!r}", self.limits, self.budget)

    @cached_property
    def payer(self) -> Payer:
        return Payer(self.id, self.team or "", self.tags)

    def until_s(self, secret: KeySecret) -> float:
        """Unix time at which the secret stops to let anyone in; inf: never."""
        ends = [moment.timestamp() for moment in (self.expires_at, secret.until) if moment is not None]
        return min(ends, default=math.inf)

    @property
    def status(self) -> str:
        if self.revoked_at is not None:
            return "revoked"
        return "active" if any(self.until_s(one) > time.time() for one in self.secrets) else "expired"


class TeamRecord(TeamSpec):
    created_at: datetime

    @cached_property
    def caps(self) -> tuple[Cap, ...]:
        return caps_of(f"team:{self.name}", f"team {self.name!r}", self.limits, self.budget)


R = TypeVar("R", bound=_Record)


def read_record(kind: type[R], given: Any) -> R:
    """Validates a mapping. Raises `InvalidRequest` that names the first wrong field."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part)[:100] for part in first["loc"]) or None
        said = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            said = f"unknown field; there are: {', '.join(kind.model_fields)}"
        elif isinstance(value := first.get("input"), str | int | float | bool) and first["type"] != "missing":
            said = f"{said}, got {str(value)[:100]!r}"
        raise InvalidRequest(f"{field or 'the body'}: {said}", param=field) from None


def shown(record: KeyRecord | TeamRecord | None) -> dict[str, Any] | None:
    """A record as answers and the audit log show it: without the hashes."""
    if record is None:
        return None
    said = record.model_dump(mode="json")
    if isinstance(record, KeyRecord):
        for secret in said["secrets"]:
            del secret["digest"]
        said = {"object": "key", "id": record.id, "status": record.status, **said}
    else:
        said = {"object": "team", **said}
    return said


def new_secret() -> str:
    return SECRET_PREFIX + secrets.token_urlsafe(32)


def digest_of(server_secret: bytes, key: bytes) -> bytes:
    """The keyed hash under which a key is kept and looked up."""
    return hmac.digest(server_secret, key, "sha256")


def now() -> datetime:
    return datetime.now(UTC)
