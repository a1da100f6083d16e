"""Changes of experts through the admin API: each is put to work here, kept with its audit entry, and taken by every
replica that shares the ledger.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson

from gateway.configuration import EXPERTS, FILE, REFUSED, Configuration
from gateway.masking import masked
from router.config import parse_expert
from router.config_experts import ExpertSettings
from router.errors import ConfigError, Conflict, InvalidRequest, UnknownRecord
from router.experts.overlay import ExpertRecord, ExpertRegistry, Overlay
from router.keys.records import now

TRIES = 10


class ExpertOffice:
    """Every method raises `RequestError` for what the operator got wrong, and `LedgerError` while Redis is away."""

    def __init__(self, configuration: Configuration, registry: ExpertRegistry) -> None:
        self._configuration = configuration
        self._registry = registry

    def list(self) -> list[dict[str, Any]]:
        """The experts at work here, and those of the API that this replica does not take, with the reason."""
        service, book = self._configuration.service, self._registry.book
        at_work = [self._shown(one, service.pool.state(one.name)) for one in service.settings.experts]
        missing = {*book.experts, *book.unreadable} - {one.name for one in service.settings.experts}
        return at_work + [self._missing(name) for name in sorted(missing)]

    def show(self, name: str) -> dict[str, Any]:
        for one in self.list():
            if one["name"] == name:
                return one
        raise UnknownRecord(f"no expert is called {name[:100]!r}; there are: {self._names()}", param="name")

    async def put(self, who: str, name: str, given: dict[str, Any]) -> dict[str, Any]:
        """A new expert, or another in place of one of that name, the file's too."""
        if given.setdefault("name", name) != name:
            raise InvalidRequest(f"name: the path says {name[:100]!r}", param="name")
        try:
            settings = parse_expert(given)
        except ConfigError as error:
            key = str(error).partition(": ")[0]
            raise InvalidRequest(str(error), param=None if " " in key else key) from None
        record = ExpertRecord(settings=settings, changed_at=now(), changed_by=who)
        try:
            await self._change(who, "expert.put", name, lambda _: record)
        except REFUSED as error:
            raise InvalidRequest(str(error)) from None
        return self.show(name)

    async def remove(self, who: str, name: str) -> None:
        """What the API said of an expert; one that the file has too is as the file says again."""

        def gone(overlay: Overlay) -> None:
            if name in overlay.experts or name in overlay.unreadable:
                return
            self.show(name)
            raise Conflict(f"expert {name!r} is the file's: remove it there, or put it here with enabled: false")

        try:
            await self._change(who, "expert.delete", name, gone)
        except REFUSED as error:
            raise Conflict(str(error)) from None

    async def _change(
        self, who: str, action: str, name: str, work: Callable[[Overlay], ExpertRecord | None]
    ) -> None:
        """`work` says from what is there what is to be."""

        def change(overlay: Overlay) -> Overlay:
            after = work(overlay)
            experts = {one: record for one, record in overlay.experts.items() if one != name}
            if after is not None:
                experts[name] = after
            return replace(overlay, experts=experts, unreadable=overlay.unreadable - {name})

        async def keep(before: Overlay) -> bool:
            after = change(before).experts.get(name)
            told = [self._told(name, record) for record in (before.experts.get(name), after)]
            entry = {"who": who, "action": action, "name": name, "before": told[0], "after": told[1]}
            document = b"" if after is None else after.model_dump_json(exclude_unset=True).encode()
            return await self._registry.store.commit(
                before.epoch, before.number, name, document, orjson.dumps(entry)
            )

        for _ in range(TRIES):
            if await self._configuration.change_experts(change, keep):
                return
        raise Conflict("others change experts at the same time; try again")

    def _shown(self, settings: ExpertSettings, state: str) -> dict[str, Any]:
        name, book = settings.name, self._registry.book
        record, reason = book.experts.get(name), None
        if name in book.unreadable or (record is not None and record.settings != settings):
            record, reason = None, f"not as the API has it: {self._refusal()}"
        return {
            "object": "expert",
            "name": name,
            "from": "file" if record is None else "api",
            "state": state if settings.enabled else "disabled",
            "reason": reason,
            "settings": masked(settings),
            **_change(record),
        }

    def _missing(self, name: str) -> dict[str, Any]:
        """One that the API has and that is not at work here; its settings are None where they cannot be read."""
        record = self._registry.book.experts.get(name)
        return {
            "object": "expert",
            "name": name,
            "from": "api",
            "state": "refused" if self._configuration.refusals else "pending",
            "reason": self._refusal(),
            "settings": None if record is None else masked(record.settings),
            **_change(record),
        }

    def _refusal(self) -> str:
        """Why what the API has is not at work: all its experts are taken together, or none."""
        refusals = self._configuration.refusals
        found = refusals.get(EXPERTS) or refusals.get(FILE)
        return "it is being put to work" if found is None else found.message

    def _told(self, name: str, record: ExpertRecord | None) -> dict[str, Any] | None:
        """As the audit log has it: the file's expert where the API says nothing of it."""
        settings = self._configuration.in_file(name) if record is None else record.settings
        return None if settings is None else masked(settings)

    def _names(self) -> str:
        return ", ".join(one["name"] for one in self.list())


def _change(record: ExpertRecord | None) -> dict[str, Any]:
    """Who changed it last, and when."""
    return {
        "changed_at": None if record is None else record.changed_at.isoformat(),
        "changed_by": None if record is None else record.changed_by,
    }
