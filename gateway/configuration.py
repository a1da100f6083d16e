"""The configuration at work, and how another takes its place while requests are under way.

A new one is read, checked and opened whole beside the one at work; whatever is wrong with it, that one stays. Then
requests to come go to the new `Service` and those under way end on theirs, which is closed after its last one.
"""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gateway.loading import digest_of, named_files
from gateway.service import Service
from router.config import Settings, load_settings, secrets_of
from router.config_experts import ExpertSettings
from router.ending import end
from router.errors import ArtifactError, ConfigError, Conflict, EncoderError, PointsmanError
from router.experts.overlay import ExpertRegistry, Overlay, overlaid

#: What a running process has taken for good.
FIXED = ("host", "port", "ledger", "auth.secret", "auth.admin", "limits.drain_s")
#: What a configuration that cannot be put to work raises.
REFUSED = (ConfigError, ArtifactError, EncoderError)
FILE, EXPERTS, ADMIN_API = "the file", "experts", "the admin API"
UNWATCHED_S = 1.0  # how often to look whether the file is to be watched again

log = logging.getLogger("pointsman")


@dataclass(frozen=True, slots=True)
class Source:
    """The file that a configuration is read from; `overrides` are a command line's."""

    path: Path
    overrides: dict[str, Any] = field(default_factory=dict)

    def read(self) -> Settings:
        """Raises `ConfigError`."""
        return load_settings(self.path, **self.overrides)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A configuration that did not come to work."""

    at: float  # Unix time
    origin: str
    message: str


class Outrun(Exception):
    """Others have changed what is kept since it was read."""


#: Keeps a change of what was there; whether it did.
Keep = Callable[[Overlay], Awaitable[bool]]


async def _at_once() -> bool:
    return True


class Configuration:
    """All methods belong to one event loop. Building one reads secrets and prices, and opens nothing."""

    def __init__(self, settings: Settings, source: Source | None, put_to_work: Callable[[Service], None]) -> None:
        """`put_to_work` sends all requests to come to a service. Raises `ConfigError`."""
        self.service = Service(settings)
        self.source = source
        self._put_to_work = put_to_work
        self._file = settings
        self._living = [self.service]
        #: Experts changed through the admin API; None without it.
        self.experts = (
            ExpertRegistry(self.service.ledger.client, self.service.ledger.status().server, self._experts_changed)
            if settings.auth.admin
            else None
        )
        self._changing = asyncio.Lock()
        self._asked = asyncio.Event()
        self._asked_by: str | None = None  # to read the file too
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self.number = 1  # of this process's configurations
        self.since = time.time()
        self.origin = "start"
        self.refusals: dict[str, Refusal] = {}  # of what is newest and not at work: `FILE`, `EXPERTS`
        put_to_work(self.service)

    @property
    def retiring(self) -> int:
        """Earlier ones that requests are still under way on."""
        return len(self._living) - 1

    @property
    def digest(self) -> str:
        """Tells whether two replicas run the same configuration."""
        text = json.dumps(self.service.settings.model_dump(), default=_plain, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def under_way(self) -> int:
        """Requests that have begun and not ended, on any of them."""
        return sum(service.under_way for service in self._living)

    def owed(self) -> dict[str, int]:
        """What Redis is not known to have: calls for the accounts, what calls came to under limits, decisions."""
        base, decisions = self.service.foundation, self.service.decisions
        return {
            "calls": base.ledger.owed,
            "settlements": 0 if base.admission is None else base.admission.owed,
            "decisions": 0 if decisions is None else decisions.owed,
        }

    async def open(self) -> None:
        """Raises one of our errors, with everything that had been opened closed again."""
        foundation = self.service.foundation
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._open_shared())
                group.create_task(self.service.open())
        except BaseException as error:
            await self.close()
            if isinstance(error, ExceptionGroup):
                raise error.exceptions[0] from None
            raise
        await self.service.prepare()
        self.service.begin()
        if self.experts is not None:
            with suppress(PointsmanError):  # refused: noted, and the file's own experts serve
                await self._take_experts()
        foundation.ready = True
        if self.source is not None or self.experts is not None:
            self._start(self._follow_changes())
        if self.source is not None:
            self._start(self._follow_file(self.source))

    async def _open_shared(self) -> None:
        await self.service.foundation.open()
        if self.experts is not None:
            await self.experts.open()

    async def close(self) -> None:
        foundation = self.service.foundation
        foundation.ready = False
        await end(self._tasks)
        if self._closing:  # they may write what they owe
            await asyncio.wait(self._closing)
        while self._living:
            await self._living.pop().close(self._living)
        if self.experts is not None:
            await self.experts.close()
        await foundation.close()

    def ask(self, origin: str) -> None:
        """Asks for a reload, soon; what comes of it is told in the log. For signals."""
        log.info("%s: a reload of the file is asked for", origin)
        self._asked_by = origin
        self._asked.set()

    async def reload(self, origin: str) -> bool:
        """Takes what the file says now; False where that is at work already.

        Raises one of our errors where it is refused: then the one at work stays.
        """
        source = self.source
        if source is None:
            raise Conflict("this gateway was not started from a configuration file")

        async def work() -> bool:
            settings = await asyncio.to_thread(source.read)
            changed = await self._take(self._with_experts(settings), origin)
            self._file = settings
            return changed

        return await self._attempt(FILE, origin, work)

    async def change_experts(self, change: Callable[[Overlay], Overlay], keep: Keep) -> bool:
        """Takes experts as `change` makes them once they are kept; False where others were first and they are not.

        Raises one of our errors, and then nothing is changed.
        """
        assert self.experts is not None
        async with self._changing:
            await self.experts.refresh()
            before = self.experts.book
            after = change(before)
            try:
                await self._take(overlaid(self._file, after), ADMIN_API, lambda: keep(before))
            except Outrun:
                return False
            if self.experts.book is before:  # not told of it yet: whoever is next must not take it back
                self.experts.book = replace(after, number=before.number + 1)
            self._accept(EXPERTS)
            return True

    def in_file(self, name: str) -> ExpertSettings | None:
        """The expert as the file has it."""
        return next((one for one in self._file.experts if one.name == name), None)

    def _experts_changed(self) -> None:
        self._asked.set()

    async def _take_experts(self) -> bool:
        async def work() -> bool:
            return await self._take(self._with_experts(self._file), ADMIN_API)

        return await self._attempt(EXPERTS, ADMIN_API, work)

    def _with_experts(self, settings: Settings) -> Settings:
        return settings if self.experts is None else overlaid(settings, self.experts.book)

    async def _attempt(self, what: str, origin: str, work: Callable[[], Awaitable[bool]]) -> bool:
        """Runs one change, after those before it; notes where it is refused."""
        async with self._changing:
            try:
                done = await work()
            except PointsmanError as error:
                self._refuse(what, origin, str(error))
                raise
            except Exception as error:  # a guard's or a provider's own code: nothing of it may end what is at work
                self._refuse(what, origin, f"{type(error).__name__} while it was put to work")
                raise
            self._accept(what)
            return done

    async def _take(self, settings: Settings, origin: str, keep: Callable[[], Awaitable[bool]] = _at_once) -> bool:
        """Puts the settings to work once `keep` says so; False where they are already. Raises `Outrun` and our
        errors."""
        before = self.service
        service = await self._opened(settings)
        try:
            if service is not None:
                await service.prepare()
            if not await keep():
                raise Outrun
        except BaseException:
            if service is not None:
                await service.close(self._living)
            raise
        if service is None:
            return False
        service.begin()
        self.service = service
        self._living.append(service)
        self._put_to_work(service)
        self.number, self.since, self.origin = self.number + 1, time.time(), origin
        service.metrics.config_changes.labels("taken").inc()
        log.info("configuration %d (%s) is at work; from: %s", self.number, self.digest, origin)
        self._start(self._retire(before))
        return True

    async def _opened(self, settings: Settings) -> Service | None:
        """The service of these settings, open; None where they are at work already."""
        before = self.service
        if fixed := [key for name in FIXED for key in _differing(before.settings, settings, name)]:
            raise ConfigError(f"{', '.join(fixed)}: cannot change while the gateway runs; restart it")
        if await asyncio.to_thread(before.is_at_work_with, settings):
            return None
        service = await asyncio.to_thread(Service, settings, before.foundation, before)
        await service.open()
        return service

    def _refuse(self, what: str, origin: str, message: str) -> None:
        metrics, before = self.service.metrics, self.refusals.get(what)
        metrics.config_changes.labels("refused").inc()
        metrics.config_refused.set(1)
        if what == FILE or before is None or before.message != message:  # a file is read where somebody asks
            log.error("refused, the configuration at work stays (from: %s): %s", origin, message)
        self.refusals[what] = Refusal(time.time(), origin, message)

    def _accept(self, what: str) -> None:
        self.refusals.pop(what, None)
        if what == FILE:  # and the experts were in it
            self.refusals.clear()
        self.service.metrics.config_refused.set(bool(self.refusals))

    async def _retire(self, service: Service) -> None:
        await service.left()
        self._living.remove(service)
        closing = asyncio.create_task(service.close(tuple(self._living)))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _follow_changes(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            asked_by, self._asked_by = self._asked_by, None
            await self._quietly(self._take_experts() if asked_by is None else self._reload_asked(asked_by))

    async def _reload_asked(self, origin: str) -> bool:
        changed = await self.reload(origin)
        if not changed:
            log.info("%s: what the file says is at work already", origin)
        return changed

    async def _follow_file(self, source: Source) -> None:
        """A change is taken once the file has stayed as it is from one look to the next: it may be half written."""
        seen = tried = b""  # what was read at the start may have changed since
        while True:
            watch_s = self.service.settings.watch_s
            await asyncio.sleep(watch_s or UNWATCHED_S)
            if watch_s is None:
                continue
            before, seen = seen, await asyncio.to_thread(self._content, source)
            if seen == before and seen != tried:
                tried = seen
                await self._quietly(self.reload("the file's change"))

    async def _quietly(self, work: Coroutine[Any, Any, bool]) -> None:
        try:
            await work
        except Exception:  # told in the log, and readable; the next change is tried
            return

    def _content(self, source: Source) -> bytes:
        """A digest of the file, and of those that it names."""
        secrets = [secret.file for secret in secrets_of(self._file) if secret.file is not None]
        found = hashlib.sha256()
        for path in (source.path, *named_files(self._file), *secrets):
            found.update(digest_of(path) or b"-")
        return found.digest()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="configuration")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset) else str(value)


def _differing(one: BaseModel, other: BaseModel, name: str) -> list[str]:
    """The keys under `name`, itself included, in which two settings differ."""
    first, _, rest = name.partition(".")
    ours, theirs = getattr(one, first), getattr(other, first)
    if rest:
        return [f"{first}.{key}" for key in _differing(ours, theirs, rest)]
    if ours == theirs:
        return []
    if isinstance(ours, BaseModel) and isinstance(theirs, type(ours)):
        return [f"{first}.{key}" for key in type(ours).model_fields if getattr(ours, key) != getattr(theirs, key)]
    return [first]
