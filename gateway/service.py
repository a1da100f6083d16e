"""One configuration at work: its experts, policy, guards and keys, on the `Foundation` that outlives it.

A request sees one `Service` from its beginning to its end. The next one takes over from the one before it what the
change leaves as it is: experts with their connections and health, policy, encoder, stores (`before`).
"""

import asyncio
import hashlib
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from gateway.auth import ANONYMOUS, Keyring
from gateway.caching import Cache
from gateway.foundation import Foundation
from gateway.guarding import Guarding
from gateway.loading import artifact_folder, build_expert, digests_of_files, in_use, load_encoder, load_use
from gateway.response_store import ResponseStore
from router.artifact import Artifact, check_encoder, version_of
from router.config import Settings, secrets_of
from router.config_base import Secret
from router.embedding import Encoder
from router.errors import CALLERS_FAULT, ArtifactError, ConfigError
from router.experts.base import Expert
from router.experts.pool import Pool
from router.experts.prices import PriceMap
from router.keys.office import KeyOffice
from router.ledger.admission import Admission
from router.ledger.caps import Caps
from router.ledger.decisions import Decisions
from router.ledger.pace import Pace
from router.ledger.sessions import Sessions
from router.pacing import Tariff
from router.pilots import Pilots
from router.router import Router
from router.types import Entry, Payer, Usage

T = TypeVar("T")


def digests_of_secrets(settings: Settings) -> dict[str, bytes]:
    """By expert, of what its secrets are now. One that is missing is told when the expert is opened."""

    def said(secret: Secret) -> str:
        try:
            return secret.read("")
        except ConfigError:
            return ""

    return {
        one.name: hashlib.sha256("\0".join(map(said, secrets_of(one))).encode()).digest()
        for one in settings.experts
    }


class Service:
    """Building one reads the configuration's secrets and prices; `open` loads the policy and opens the experts, and
    `begin` puts it to work."""

    def __init__(
        self, settings: Settings, foundation: Foundation | None = None, before: "Service | None" = None
    ) -> None:
        """`before` is the one at work now, open. Raises `ConfigError`."""
        self.settings = settings
        self.keyring = Keyring(settings.auth)
        self.foundation = base = foundation or Foundation(settings, self.keyring)
        if self.keyring.server_secret != base.server_secret:
            raise ConfigError("auth.secret: what it is cannot change without a restart")
        self.ledger, self.metrics, self.registry = base.ledger, base.metrics, base.registry
        self.started_at = base.started_at
        self._before = before
        self._made_of: dict[str, Any] = {}
        self._secrets = digests_of_secrets(settings)
        self._named = digests_of_files(settings)
        self.pool = self._new_pool(PriceMap.installed())
        enabled = [spec for spec in self.pool.specs if spec.enabled]
        self.chat_experts = tuple(spec.name for spec in enabled if spec.serves == "chat")
        self.embedding_experts = tuple(spec.name for spec in enabled if spec.serves == "embeddings")
        #: Embedding experts' vector spaces, where declared.
        self.spaces = {one.name: one.space for one in settings.experts if one.space is not None}
        #: By which a text finds its expert among those of one space; None: the cheapest.
        self.pilots = None if (path := settings.embeddings.pilots) is None else Pilots.read(path)
        self.rerank_experts = tuple(spec.name for spec in enabled if spec.serves == "rerank")
        if not self.chat_experts:
            raise ConfigError("experts: none of them serves chat and is enabled")
        self.guarding = Guarding(settings.guards, self.pool.specs) if settings.guards else None
        connect, wait_s = base.ledger.client, base.wait_s
        #: None where no cache is configured.
        self.cache: Cache | None = self._kept(
            "cache",
            (settings.cache, settings.encoder, self._named),
            lambda given: Cache(given[0], connect, wait_s) if given[0] else None,
        )
        self.responses: ResponseStore = self._kept(
            "responses",
            (settings.responses, settings.limits.body_bytes),
            lambda given: ResponseStore(given[0], connect, lambda: base.ledger.degraded, given[1]),
        )
        self.sessions: Sessions = self._kept(
            "sessions", settings.policy.sticky, lambda given: Sessions(given, connect, wait_s)
        )
        #: None where no decisions are logged.
        self.decisions: Decisions | None = self._kept(
            "decisions",
            settings.decisions,
            lambda given: Decisions(given, connect, base.ledger.spool_folder("decisions")) if given else None,
        )
        self._limited = Caps(settings).any() or bool(base.server_secret)
        #: None where nothing is limited: then no request asks Redis for anything.
        self.admission: Admission | None = None
        #: Changes virtual keys; None without them.
        self.office: KeyOffice | None = None
        self.pace: Pace | None = None
        self.encoder: Encoder | None = None
        self._router: Router | None = None
        self._artifact: Artifact | None = None
        self._tariff: Tariff | None = None
        self.under_way = 0  # requests
        self._left: asyncio.Event | None = None

    @property
    def ready(self) -> bool:
        return self.foundation.ready

    @property
    def draining(self) -> bool:
        return self.foundation.draining

    @property
    def router(self) -> Router:
        assert self._router is not None, "the service is not open"
        return self._router

    def is_at_work_with(self, settings: Settings) -> bool:
        """Whether these settings, and the files that they name, are what it was built from. Raises our errors."""
        assert self._artifact is not None
        return (
            settings == self.settings
            and digests_of_secrets(settings) == self._secrets
            and digests_of_files(settings) == self._named
            and Keyring(settings.auth).same_as(self.keyring)
            and version_of(artifact_folder(settings.policy)) == self._artifact.version
        )

    def check(self) -> None:
        """Whether secrets are there and the policy fits, with nothing opened. Raises our errors."""
        for one in self.settings.experts:
            for secret in secrets_of(one) if one.enabled else ():
                secret.read(f"experts.{one.name}.api_key")
        load_use(self.settings.policy, [spec for spec in self.pool.specs if spec.serves == "chat"])

    async def open(self) -> None:
        """Raises one of our errors, with everything that had been opened closed again."""
        loading = asyncio.create_task(asyncio.to_thread(self._load))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.pool.open())
                await asyncio.shield(loading)
        except BaseException as error:
            # no thread can be stopped midway: what it opens is there to be closed once it has ended
            await asyncio.wait({loading})
            await self.close(() if self._before is None else (self._before,))
            if isinstance(error, ExceptionGroup):
                raise error.exceptions[0] from None
            raise

    async def prepare(self) -> None:
        """What may wait for Redis, and never fails."""
        if self._limited:
            self.admission = await self.foundation.admit()

    def begin(self) -> None:
        """From now on the foundation goes by this one's settings."""
        base, before, self._before = self.foundation, self._before, None
        base.metrics.know(self.pool.experts)
        base.figures.follow(self.pool)
        base.configure(self.settings, self.keyring)
        if self.admission is not None and self._tariff is not None:
            earlier = None if before is None else before.pace
            self.pace = earlier.by(self._tariff) if earlier else Pace(self._tariff, self.admission.shares)
        if (logged := self.decisions) is not None and (before is None or before.decisions is not logged):
            logged.open()
            base.metrics.watch_decisions(lambda: logged.owed, lambda: logged.dropped)
        if self.registry is not None:
            reserved = {key.name for key in self.settings.auth.keys} | {ANONYMOUS}
            self.office = KeyOffice(self.registry, base.server_secret, self.models(), reserved)

    def enter(self) -> None:
        """A request begins."""
        self.under_way += 1

    def leave(self) -> None:
        self.under_way -= 1
        if self._left is not None and not self.under_way:
            self._left.set()

    async def left(self) -> None:
        """Once another one is at work: waits until the last request has ended."""
        self._left = asyncio.Event()
        if self.under_way:
            await self._left.wait()

    async def close(self, others: "Iterable[Service]" = ()) -> None:
        """Closes what none of the `others` holds."""
        others = tuple(others)
        await self.pool.close(other.pool for other in others)
        for name in ("decisions", "cache", "responses", "sessions"):
            part = getattr(self, name)
            if part is not None and all(getattr(other, name) is not part for other in others):
                await part.close()
        if self._router is not None:
            self._router.close()
        encoder, self.encoder = self.encoder, None
        if encoder is not None and all(other.encoder is not encoder for other in others):
            await asyncio.to_thread(encoder.close)

    def models(self) -> tuple[str, ...]:
        """The names of the experts and of the local encoder, where there is one."""
        local = () if self.encoder is None else (self.encoder.name,)
        return (*(spec.name for spec in self.pool.specs if spec.enabled), *local)

    def alike(
        self, expert: str, allowed: Collection[str] | None, closeness: Mapping[str, float] | None = None
    ) -> list[str]:
        """The embedding experts that `auto` may ask in `expert`'s place: those declared to be of its space.

        Vectors of different models cannot be compared, so without a declared space that is `expert` alone. Those
        that rest after failures last, else the closest first, where `closeness` says of any, else the cheapest;
        not those that the key may not use (`allowed`).
        """
        space, pool = self.spaces.get(expert), self.pool
        names = [
            name
            for name in self.embedding_experts
            if (name == expert or (space is not None and self.spaces.get(name) == space))
            and (allowed is None or name in allowed)
        ]
        close = closeness or {}
        return sorted(
            names,
            key=lambda name: (
                pool.resting_s(name) > 0,
                -close.get(name, -2.0),  # under any cosine
                pool.experts[name].spec.price.input,
            ),
        )

    def rerankers(self, allowed: Collection[str] | None) -> list[str]:
        """Rerank experts that the key may use (`allowed`), those that rest after failures last."""
        names = [name for name in self.rerank_experts if allowed is None or name in allowed]
        return sorted(names, key=lambda name: self.pool.resting_s(name) > 0)

    def _kept(self, name: str, given: Any, make: Callable[[Any], T]) -> T:
        """The part `name`, made of the settings `given`: the one before's where that is made of the same."""
        self._made_of[name] = given
        before = self._before
        if before is not None and before._made_of[name] == given:
            found: T = getattr(before, name)
            return found
        return make(given)

    def _new_pool(self, prices: PriceMap) -> Pool:
        """Experts that stay as they are go on with their connections."""
        settings, limits, before = self.settings, self.settings.limits, self._before
        unlike: list[str] = []
        experts: list[Expert] = []
        known = {one.name: one for one in before.settings.experts} if before is not None else {}
        here = (settings.zone, limits.connections)
        for one in settings.experts:
            if before is not None and one.name in known:
                if self._secrets[one.name] != before._secrets[one.name]:
                    unlike.append(one.name)
                elif one == known[one.name] and here == (before.settings.zone, before.settings.limits.connections):
                    experts += [place.expert for place in before.pool.places(one.name)]
                    continue
            experts += build_expert(one, prices, limits.connections)
        pool = Pool(
            experts,
            zone=settings.zone,
            retries=limits.retries,
            hedge={
                one.name: share
                for one in settings.experts
                if one.serves == "chat" and (share := one.hedge or limits.hedge) is not None
            },
            lease=self.foundation.leases.take,
        )
        if before is not None:
            pool.succeeds(before.pool, unlike)
        return pool

    def _load(self) -> None:
        settings, before = self.settings.policy, self._before
        specs = [spec for spec in self.pool.specs if spec.serves == "chat"]
        if before is not None and before._artifact is not None and self._same_artifact(before._artifact, before):
            artifact = before._artifact
            use = in_use(before.router.use.policy, artifact, specs)
        else:
            use, artifact = load_use(settings, specs)
        self.encoder = self._encoder_for(artifact)
        self._artifact = artifact
        if self.cache is not None:
            self.cache.check(self.encoder if use.policy.reads_query else None)
        if self.pilots is not None:
            if self.encoder is None:
                raise ConfigError("embeddings.pilots: the policy does not read the query, so there is no encoder")
            self.pilots.check(self.encoder.name, self.encoder.revision, self.embedding_experts)
        self._router = Router(
            use,
            specs,
            self.encoder,
            resting_s=self.pool.resting_s,
            load=self.ledger.load,
            preference=settings.preference,
            explore=settings.explore,
            confidence=settings.confidence,
            margin=settings.sticky.margin,
            rng=random.Random(),
        )
        if self._limited:
            self._tariff = self._router.tariff()

    def _same_artifact(self, artifact: Artifact, before: "Service") -> bool:
        same = self.settings.policy.artifact == before.settings.policy.artifact
        return same and version_of(artifact_folder(self.settings.policy)) == artifact.version

    def _encoder_for(self, artifact: Artifact) -> Encoder | None:
        before = self._before
        known = None if before is None else before.encoder
        if before is None or known is None or artifact.encoder is None or not known.alive:
            return load_encoder(self.settings.encoder, artifact)
        if before.settings.encoder != self.settings.encoder:
            return load_encoder(self.settings.encoder, artifact)
        try:
            check_encoder(artifact, known.name, known.revision, known.dimension)
        except ArtifactError:  # the folder may hold another model by now
            return load_encoder(self.settings.encoder, artifact)
        return known

    def meter(
        self, expert: str, usage: Usage, payer: Payer, *, ok: bool, ttft_s: float, took_s: float, streamed: bool
    ) -> int:
        """Counts one call in metrics and ledger; returns its cost in nano-dollars. Never waits."""
        spec = self.pool.experts[expert].spec
        cost_nano = spec.price.cost_nano(usage, took_s)
        self.metrics.spent(expert, usage, cost_nano, ttft_s)
        # a whole answer does not show its first token: take what streams have shown, and learn the rest from it
        first_s = ttft_s if streamed else min(self.ledger.load(expert).ttft_s or spec.ttft_s, took_s)
        rest = usage.output_tokens - 1
        self.ledger.record(
            Entry(
                expert=expert,
                ok=ok,
                usage=usage,
                cost_nano=cost_nano,
                ttft_s=ttft_s if streamed else None,
                token_s=(took_s - first_s) / rest if rest > 0 and not usage.estimated else None,
                payer=payer,
            )
        )
        return cost_nano

    def missed(self, expert: str, kind: str, payer: Payer, *, blamed: bool = True) -> None:
        """Counts one attempt that failed; only what the expert is to be `blamed` for is an error of its own."""
        self.metrics.failures.labels(expert, kind).inc()
        self.ledger.record(Entry(expert=expert, ok=not blamed or kind in CALLERS_FAULT, payer=payer))
