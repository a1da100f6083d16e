"""Changes of keys and teams: each is checked against what there is, and made with its audit entry in one step."""

import secrets
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import Any

import orjson

from router.errors import Conflict, InvalidRequest, UnknownRecord
from router.keys.records import (
    ID_PREFIX,
    SECRETS_MOST,
    KeyRecord,
    KeySecret,
    KeySpec,
    TeamRecord,
    TeamSpec,
    digest_of,
    new_secret,
    now,
    read_record,
    shown,
)
from router.keys.registry import Book, KeyRegistry

TRIES = 10
DAY_S = 86_400
OVERLAP_MOST_S = 90 * DAY_S

Record = KeyRecord | TeamRecord


class KeyOffice:
    """`models` are those that a key may be restricted to; `reserved` names are those of configured keys.

    Every method raises `RequestError` for what the operator got wrong, and `LedgerError` while Redis is away.
    """

    def __init__(
        self, registry: KeyRegistry, server_secret: bytes, models: Collection[str], reserved: Collection[str]
    ) -> None:
        self._registry = registry
        self._server_secret = server_secret
        self._models = models
        self._reserved = reserved

    async def book(self) -> Book:
        """What there is now."""
        await self._registry.refresh()
        return self._registry.book

    async def create_key(self, who: str, given: dict[str, Any]) -> tuple[KeyRecord, str]:
        """The key and its secret, which is kept nowhere."""
        spec = read_record(KeySpec, given)
        plain, made_at = new_secret(), now()
        secret = self._kept(plain, made_at)
        key = KeyRecord(**dict(spec), id=ID_PREFIX + secrets.token_hex(8), created_at=made_at, secrets=(secret,))

        def work(book: Book) -> tuple[None, KeyRecord]:
            self._check(book, key)
            return None, key

        await self._change(who, "key.create", f"key:{key.id}", work)
        return key, plain

    async def update_key(self, who: str, reference: str, given: dict[str, Any]) -> KeyRecord:
        """Replaces the fields that are given; null is a field's default."""

        def work(book: Book) -> tuple[KeyRecord, KeyRecord]:
            before = living(find_key(book, reference))
            said = {name: getattr(before, name) for name in KeySpec.model_fields} | given
            spec = read_record(KeySpec, {name: value for name, value in said.items() if value is not None})
            after = KeyRecord(**dict(spec), id=before.id, created_at=before.created_at, secrets=before.secrets)
            self._check(book, after, before)
            return before, after

        return await self._change_key(who, "key.update", reference, work)

    async def rotate_key(self, who: str, reference: str, overlap_s: float) -> tuple[KeyRecord, str]:
        """A new secret; those before it stay valid for `overlap_s` more."""
        if not 0 <= overlap_s <= OVERLAP_MOST_S:
            raise InvalidRequest(
                f"overlap_s: expected 0 to {OVERLAP_MOST_S} seconds, got {overlap_s:g}", param="overlap_s"
            )
        plain, made_at = new_secret(), now()

        def work(book: Book) -> tuple[KeyRecord, KeyRecord]:
            before = living(find_key(book, reference))
            ends = made_at + timedelta(seconds=overlap_s)
            old = [
                secret
                if secret.until is not None and secret.until <= ends
                else secret.model_copy(update={"until": ends})
                for secret in before.secrets
                if secret.until is None or secret.until > made_at
            ]
            if not overlap_s:
                old = []
            if len(old) >= SECRETS_MOST:
                raise Conflict(
                    f"key {before.name!r} has {len(old)} secrets that are still valid; rotate it with overlap_s 0"
                )
            return before, before.model_copy(update={"secrets": (*old, self._kept(plain, made_at))})

        return await self._change_key(who, "key.rotate", reference, work), plain

    async def revoke_key(self, who: str, reference: str) -> KeyRecord:
        """For good. Revoking it again changes nothing."""
        key = find_key(await self.book(), reference)
        if key.revoked_at is not None:
            return key

        def work(book: Book) -> tuple[KeyRecord, KeyRecord]:
            before = find_key(book, reference)
            return before, before.model_copy(update={"revoked_at": now(), "secrets": ()})

        return await self._change_key(who, "key.revoke", reference, work)

    async def create_team(self, who: str, given: dict[str, Any]) -> TeamRecord:
        spec = read_record(TeamSpec, given)
        team = TeamRecord(**dict(spec), created_at=now())

        def work(book: Book) -> tuple[None, TeamRecord]:
            if team.name in book.teams:
                raise Conflict(f"name: there is a team {team.name!r} already", param="name")
            return None, team

        await self._change(who, "team.create", f"team:{team.name}", work)
        return team

    async def update_team(self, who: str, name: str, given: dict[str, Any]) -> TeamRecord:
        """As `update_key`; its name stays."""

        def work(book: Book) -> tuple[TeamRecord, TeamRecord]:
            before = find_team(book, name)
            said = {field: getattr(before, field) for field in TeamSpec.model_fields} | given
            spec = read_record(TeamSpec, {field: value for field, value in said.items() if value is not None})
            if spec.name != name:
                raise InvalidRequest(f"name: a team's name stays, {name!r}", param="name")
            return before, TeamRecord(**dict(spec), created_at=before.created_at)

        after = await self._change(who, "team.update", f"team:{name}", work)
        assert isinstance(after, TeamRecord)
        return after

    async def delete_team(self, who: str, name: str) -> TeamRecord:
        """Only where no living key is in it."""

        def work(book: Book) -> tuple[TeamRecord, None]:
            team = find_team(book, name)
            inside = sorted(key.name for key in book.keys.values() if key.team == name and not key.revoked_at)
            if inside:
                raise Conflict(f"team {name!r} has keys: {', '.join(inside[:10])}; revoke or move them first")
            return team, None

        team = find_team(await self.book(), name)
        await self._change(who, "team.delete", f"team:{name}", work)
        return team

    def _kept(self, plain: str, made_at: datetime) -> KeySecret:
        digest = digest_of(self._server_secret, plain.encode()).hex()
        return KeySecret(digest=digest, hint=plain[-4:], created_at=made_at)

    def _check(self, book: Book, key: KeyRecord, before: KeyRecord | None = None) -> None:
        """What a key says must be there. What it said before may be gone since."""
        changed = [
            name for name in KeySpec.model_fields if before is None or getattr(before, name) != getattr(key, name)
        ]
        if "name" in changed:
            others = [other for other in book.keys.values() if other.id != key.id and not other.revoked_at]
            if any(other.name == key.name for other in others) or key.name in self._reserved:
                raise Conflict(f"name: there is a key {key.name!r} already", param="name")
        if "team" in changed and key.team is not None and key.team not in book.teams:
            there = ", ".join(sorted(book.teams)[:50]) or "none"
            raise InvalidRequest(f"team: no team is called {key.team!r}; there are: {there}", param="team")
        if "models" in changed and (unknown := sorted(set(key.models or ()) - set(self._models))):
            there = ", ".join(self._models)
            raise InvalidRequest(f"models: none is called {unknown[0]!r}; there are: {there}", param="models")
        if "expires_at" in changed and key.expires_at is not None and key.expires_at <= now():
            raise InvalidRequest(f"expires_at: {key.expires_at.isoformat()} is in the past", param="expires_at")

    async def _change_key(
        self, who: str, action: str, reference: str, work: Callable[[Book], tuple[KeyRecord, KeyRecord]]
    ) -> KeyRecord:
        member = f"key:{find_key(await self.book(), reference).id}"
        after = await self._change(who, action, member, work)
        assert isinstance(after, KeyRecord)
        return after

    async def _change(
        self, who: str, action: str, member: str, work: Callable[[Book], tuple[Record | None, Record | None]]
    ) -> Record | None:
        """`work` says from the book what was and what is to be; it is asked again where someone else was first."""
        for _ in range(TRIES):
            book = await self.book()
            before, after = work(book)
            document = b"" if after is None else after.model_dump_json().encode()
            told = {"who": who, "action": action, "before": shown(before), "after": shown(after)}
            done = await self._registry.store.commit(book.epoch, book.number, member, document, orjson.dumps(told))
            if done:
                await self._registry.refresh()
                return after
        raise Conflict("others change keys and teams at the same time; try again")


def find_key(book: Book, reference: str) -> KeyRecord:
    """By its id, or the living one by its name."""
    found = book.keys.get(reference)
    if found is None:
        named = [key for key in book.keys.values() if key.name == reference and key.revoked_at is None]
        found = named[0] if named else None
    if found is None:
        raise UnknownRecord(f"no key has the id or name {reference[:100]!r}", param="id")
    return found


def find_team(book: Book, name: str) -> TeamRecord:
    if name not in book.teams:
        there = ", ".join(sorted(book.teams)[:50]) or "none"
        raise UnknownRecord(f"no team is called {name[:100]!r}; there are: {there}", param="name")
    return book.teams[name]


def living(key: KeyRecord) -> KeyRecord:
    if key.revoked_at is not None:
        raise Conflict(f"key {key.name!r} is revoked; create another")
    return key
