"""API keys: who may call. Keys are kept as digests; a wrong one takes the same time as a missing or revoked one."""

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.errors import KeysUnknown, Unauthorized
from router.config import AuthSettings
from router.errors import ConfigError
from router.keys.records import KeyRecord, digest_of
from router.keys.registry import Book

ANONYMOUS = "anonymous"
SECRET_LEAST = 16

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: by `name` in logs, metrics and limits; `key` is theirs where it is a virtual one."""

    name: str
    key: KeyRecord | None = None
    until_s: float = math.inf  # unix time


NOBODY = Caller("", until_s=-math.inf)


class Keyring:
    """Reads every secret at start, so a missing one stops the start and not a request. Raises `ConfigError`."""

    def __init__(self, settings: AuthSettings) -> None:
        self.server_secret = b""  # empty: no virtual keys
        if settings.secret is not None:
            self.server_secret = settings.secret.read("auth.secret").encode()
            if len(self.server_secret) < SECRET_LEAST:
                raise ConfigError(f"auth.secret: too short, at least {SECRET_LEAST} characters")
        self._configured = {
            self._digest(key.read(f"auth.keys.{key.name}").encode()): Caller(key.name) for key in settings.keys
        }
        self._admins = {
            self._digest(admin.read(f"auth.admin.{admin.name}").encode()): admin.name for admin in settings.admin
        }
        if self._admins.keys() & self._configured.keys():
            raise ConfigError("auth.admin: the credential is also one of auth.keys; give it one of its own")
        self._callers = self._configured
        self._made: dict[str, tuple[KeyRecord, dict[bytes, Caller]]] = {}
        self._anyone = not settings.keys and settings.secret is None
        self._learned = settings.secret is None

    def same_as(self, other: "Keyring") -> bool:
        """Whether it has the same configured keys and credentials."""
        return (self.server_secret, self._configured, self._admins) == (
            other.server_secret, other._configured, other._admins,
        )  # fmt: skip

    def learn(self, book: Book) -> None:
        """The virtual keys, from now on. One of a team that is not there lets nobody in."""
        callers: dict[bytes, Caller] = {}
        made: dict[str, tuple[KeyRecord, dict[bytes, Caller]]] = {}
        for name, key in book.keys.items():
            if key.revoked_at is None and (key.team is None or key.team in book.teams):
                known = self._made.get(name)  # a change is of one key, and the others are thousands
                made[name] = known if known is not None and known[0] is key else (key, _callers_of(key))
                callers |= made[name][1]
        self._made = made
        self._callers = callers | self._configured
        self._learned = True

    def caller(self, headers: Headers) -> Caller:
        """Whose key the request carries as `Authorization: Bearer` or `x-api-key`.

        Without configured and virtual keys everyone is `anonymous`. Raises `Unauthorized`, and `KeysUnknown` while
        the virtual keys could not be read yet.
        """
        if self._anyone:
            return _ANYONE
        # The digest of an unknown key tells nothing about the known ones, so a lookup by it leaks nothing. A key
        # that is missing, wrong, revoked or expired goes the same way: what is found has ended.
        found = self._callers.get(self._digest(_given(headers)), NOBODY)
        if found.until_s <= time.time():
            if not self._learned:
                raise KeysUnknown("keys cannot be checked before the ledger is reached; try again")
            raise Unauthorized("missing or wrong API key; send it as `Authorization: Bearer <key>`")
        return found

    def admin(self, headers: Headers) -> str:
        """The name of the admin credential that the request carries. Raises `Unauthorized`."""
        name = self._admins.get(self._digest(_given(headers)))
        if name is None:
            raise Unauthorized("missing or wrong admin credential; send it as `Authorization: Bearer <credential>`")
        return name

    def _digest(self, key: bytes) -> bytes:
        return digest_of(self.server_secret, key) if self.server_secret else hashlib.sha256(key).digest()


_ANYONE = Caller(ANONYMOUS)


def _callers_of(key: KeyRecord) -> dict[bytes, Caller]:
    """By digest; one for each secret, since each has its own end."""
    return {bytes.fromhex(secret.digest): Caller(key.name, key, key.until_s(secret)) for secret in key.secrets}


def _given(headers: Headers) -> bytes:
    given = b""
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
        if name == b"x-api-key":
            given = value
    return given
