"""Experts that were changed through the admin API, as one replica knows them: they go over those of its file.

They are kept in Redis (`router.keys.store`) without any secret: they name secrets that the file's experts name, and
may send each only where one of those does.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from router.config import Settings, parse_settings, secrets_of
from router.config_base import Secret
from router.config_experts import EndpointSettings, ExpertSettings, RemoteSettings
from router.errors import ConfigError
from router.keys.follower import Follower
from router.keys.store import EXPERTS, Changes, RecordStore

if TYPE_CHECKING:
    from redis.asyncio import Redis


class ExpertRecord(BaseModel):
    """What is kept of one expert."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: ExpertSettings
    changed_at: datetime
    changed_by: str


@dataclass(frozen=True, slots=True)
class Overlay:
    """All changed experts by name, as they were after change `number`; `unreadable` names those that are not what
    this version writes."""

    epoch: str = ""
    number: int = 0
    experts: Mapping[str, ExpertRecord] = field(default_factory=dict)
    unreadable: frozenset[str] = frozenset()


class ExpertRegistry(Follower):
    """`told` hears of every change."""

    def __init__(self, connect: Callable[[], "Redis"], where: str, told: Callable[[], None]) -> None:
        super().__init__(connect, where, "experts")
        self._told = told
        self.book = Overlay()

    def _store_at(self, client: "Redis", where: str) -> RecordStore:
        return RecordStore(client, where, EXPERTS)

    def _learn(self, changes: Changes) -> None:
        experts = {} if changes.whole else dict(self.book.experts)
        unreadable = set() if changes.whole else set(self.book.unreadable)
        for name, document in changes.documents.items():
            experts.pop(name, None)
            unreadable.discard(name)
            if document is None:
                continue
            try:
                experts[name] = ExpertRecord.model_validate_json(document)
            except ValidationError:
                unreadable.add(name)
        self.book = Overlay(changes.epoch, changes.number, experts, frozenset(unreadable))
        self._told()


def overlaid(settings: Settings, overlay: Overlay) -> Settings:
    """The settings with the overlay's experts in place of those of the same name, and the others after them.

    Raises `ConfigError`: experts that do not fit together, or one that may hold or take a secret.
    """
    if overlay.unreadable:
        names = ", ".join(sorted(overlay.unreadable))
        raise ConfigError(f"experts of the admin API: this version of pointsman cannot read {names}")
    if not overlay.experts:
        return settings
    over = {name: overlay.experts[name].settings for name in sorted(overlay.experts)}
    for expert in over.values():
        _check_secrets(expert, settings)
    experts = [over.pop(one.name, one) for one in settings.experts]
    return parse_settings({**dict(settings), "experts": [*experts, *over.values()]}, "experts of the admin API")


def _check_secrets(expert: ExpertSettings, settings: Settings) -> None:
    where = f"experts.{expert.name}"
    _check_destinations(expert, settings)
    urls: list[str] = []
    if isinstance(expert, EndpointSettings):
        if expert.headers or any(place.headers for place in expert.endpoints):
            raise ConfigError(
                f"{where}.headers: they may hold a secret; an expert with headers belongs in the file"
            )
        urls = [place.url for place in expert.places()]
    if isinstance(expert, RemoteSettings) and "://" in (expert.model or expert.name):
        # litellm asks some providers there (huggingface/https://...), with the key from the environment
        raise ConfigError(f"{where}.model: a URL belongs in api_base")
    if isinstance(expert, RemoteSettings) and expert.api_base is not None:
        if expert.api_key is None:  # litellm would send the provider's key from the environment there
            raise ConfigError(f"{where}.api_base: give api_key too")
        urls = [expert.api_base]
    if any("@" in url or "?" in url for url in urls):
        raise ConfigError(f"{where}: a user, a password or a query in a URL may be a secret")


def _check_destinations(expert: ExpertSettings, settings: Settings) -> None:
    """A secret of the file goes where the file sends it: else who may add an expert could have it sent to them."""
    where = f"experts.{expert.name}"
    known = {secret for one in settings.experts for secret in secrets_of(one)}
    for secret in secrets_of(expert):
        if secret not in known:
            raise ConfigError(
                f"{where}: no expert of the file names the secret {_said(secret)}; name it there first"
            )
    sent = [pair for one in settings.experts for pair in _destinations(one)]
    for secret, to in _destinations(expert):
        if (secret, to) not in sent:
            there = ", ".join(sorted({other for one, other in sent if one == secret})) or "nobody"
            raise ConfigError(
                f"{where}: the file sends the secret {_said(secret)} to {there}, not to {to}; "
                "an expert that sends it elsewhere belongs in the file"
            )


def _destinations(expert: ExpertSettings) -> Iterator[tuple[Secret, str]]:
    """Each secret of an expert that is sent, and where to: an origin, or the provider that litellm asks."""
    if isinstance(expert, EndpointSettings):
        yield from ((place.api_key, _origin(place.url)) for place in expert.places() if place.api_key is not None)
    elif isinstance(expert, RemoteSettings) and expert.api_key is not None:
        model = expert.model or expert.name
        provider, slash, _ = model.partition("/")
        named = f"the provider {provider}" if slash else f"the provider of {model}"
        yield expert.api_key, named if expert.api_base is None else _origin(expert.api_base)


def _origin(url: str) -> str:
    """Scheme, host and port, in one spelling."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        return "a URL that names no server"
    return f"{parts.scheme}://{parts.hostname}:{port}"


def _said(secret: Secret) -> str:
    return f"{{env: {secret.env}}}" if secret.env is not None else f"{{file: {secret.file}}}"
