"""Whether the time that a key's check takes tells one that is wrong from one that is missing, revoked or expired.

A thousand virtual keys, and requests that are refused for different reasons, in turn and in random order.
"""

import os
import random
import secrets
import statistics
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from report import Figure, judged

from gateway.auth import Keyring
from gateway.errors import Unauthorized
from router.config import AuthSettings
from router.keys.records import KeyRecord, KeySecret, digest_of
from router.keys.registry import Book

KEYS, ROUNDS, TURNS = 1_000, 9, 4_000
SERVER, VARIABLE = secrets.token_hex(32), "POINTSMAN_BENCH_SECRET"


def ring(plain: list[str]) -> Keyring:
    """With all of them; the first is revoked, the second has expired."""
    then = datetime.now(UTC) - timedelta(days=1)
    records = {}
    for number, key in enumerate(plain):
        secret = KeySecret(digest=digest_of(SERVER.encode(), key.encode()).hex(), hint="", created_at=then)
        ends: dict[str, Any] = {0: {"revoked_at": then}, 1: {"expires_at": then}}.get(number, {})
        record = KeyRecord(id=f"k{number}", name=f"key{number}", created_at=then, secrets=(secret,), **ends)
        records[record.id] = record
    os.environ[VARIABLE] = SERVER
    found = Keyring(AuthSettings.model_validate({"secret": {"env": VARIABLE}}))
    found.learn(Book(keys=records))
    return found


def checked_us(keys: Keyring, headers: list[tuple[bytes, bytes]]) -> float:
    began = time.perf_counter()
    with suppress(Unauthorized):
        keys.caller(headers)
    return (time.perf_counter() - began) * 1e6


def measure() -> list[Figure]:
    plain = [f"pm-{secrets.token_urlsafe(32)}" for _ in range(KEYS)]
    keys, right = ring(plain), plain[500]
    cases = {
        "missing": [],
        "wrong": [(b"authorization", f"Bearer pm-{secrets.token_urlsafe(32)}".encode())],
        "wrong in its last character": [(b"authorization", f"Bearer {right[:-1]}~".encode())],
        "revoked": [(b"authorization", f"Bearer {plain[0]}".encode())],
        "expired": [(b"authorization", f"Bearer {plain[1]}".encode())],
    }
    names, found = list(cases), {name: list[float]() for name in cases}
    for _ in range(ROUNDS):
        took = {name: list[float]() for name in cases}
        for _ in range(TURNS):
            for name in random.sample(names, len(names)):
                took[name].append(checked_us(keys, cases[name]))
        for name in names:
            found[name].append(statistics.median(took[name]))
    usual = {name: statistics.median(rounds) for name, rounds in found.items()}
    figures = [
        Figure(f"key check, {name}", value, min(found[name]), max(found[name]), "us")
        for name, value in usual.items()
    ]
    apart = max(usual.values()) - min(usual.values())
    return [
        *figures,
        judged(Figure("key check: the most that two refusals differ by", apart, unit="us", goal="< 1")),
    ]
