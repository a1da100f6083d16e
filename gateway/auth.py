"""API keys: who may call. Keys are kept as digests; a wrong key takes the same time as a missing one."""

import hashlib
import hmac
from collections.abc import Sequence

from gateway.errors import Unauthorized
from router.config import AuthSettings

ANONYMOUS = "anonymous"


class Keyring:
    """Reads every key at start, so a missing secret stops the start and not a request. Raises `ConfigError`."""

    def __init__(self, settings: AuthSettings) -> None:
        self._names: dict[bytes, str] = {
            _digest(key.read(f"auth.keys.{key.name}").encode()): key.name for key in settings.keys
        }

    def caller(self, headers: Sequence[tuple[bytes, bytes]]) -> str:
        """The name of the key that the request carries as `Authorization: Bearer` or `x-api-key`.

        Without configured keys everyone is `anonymous`. Raises `Unauthorized`.
        """
        if not self._names:
            return ANONYMOUS
        given = b""
        for name, value in headers:
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                given = value[7:].strip()
                break
            if name == b"x-api-key":
                given = value
        # The digest of an unknown key tells nothing about the known ones, so a lookup by it leaks nothing;
        # the comparison is constant-time all the same, for whatever the table does.
        digest = _digest(given)
        found = self._names.get(digest)
        known = next(iter(self._names)) if found is None else digest
        if not hmac.compare_digest(digest, known) or found is None:
            raise Unauthorized("missing or wrong API key; send it as `Authorization: Bearer <key>`")
        return found


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
