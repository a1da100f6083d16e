"""Everything a running gateway holds, opened and closed together. `create_app` builds one."""

import asyncio
import random
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from gateway.auth import ANONYMOUS, Keyring
from gateway.caching import Cache
from gateway.guarding import Guarding
from gateway.metrics import Metrics
from gateway.response_store import ResponseStore
from policies import default_artifact, load_policy
from router.artifact import Artifact, check_encoder
from router.config import (
    EncoderSettings,
    EndpointSettings,
    ExpertSettings,
    PolicySettings,
    RemoteSettings,
    Settings,
    SimulatedSettings,
)
from router.embedding import Encoder
from router.errors import CALLERS_FAULT, ConfigError, PointsmanError
from router.expert_names import columns
from router.experts.base import Expert
from router.experts.pool import Pool
from router.experts.prices import PriceMap, describe
from router.keys.office import KeyOffice
from router.keys.registry import Book, KeyRegistry
from router.ledger.admission import Admission
from router.ledger.caps import Caps
from router.ledger.decisions import Decisions
from router.ledger.lease import Leases
from router.ledger.ledger import Ledger
from router.ledger.pace import Pace
from router.ledger.sessions import Sessions
from router.pilots import Pilots
from router.router import PolicyInUse, Router
from router.types import Entry, ExpertSpec, Usage


def build_expert(settings: ExpertSettings, prices: PriceMap, connections: int) -> list[Expert]:
    """The expert of one entry of the configuration, address by address. Raises `ConfigError` without a price."""
    spec = describe(settings, prices)
    if isinstance(settings, EndpointSettings):
        from router.experts.endpoint import EndpointExpert

        addresses = range(len(settings.places()))
        return [EndpointExpert(settings, spec, connections=connections, index=index) for index in addresses]
    if isinstance(settings, RemoteSettings):
        from router.experts.remote import RemoteExpert

        return [RemoteExpert(settings, spec)]
    assert isinstance(settings, SimulatedSettings)
    from router.experts.simulated import SimulatedExpert

    return [SimulatedExpert(settings, spec)]


def load_use(settings: PolicySettings, specs: Sequence[ExpertSpec]) -> tuple[PolicyInUse, Artifact]:
    """The configured policy, mapped onto the pool's chat experts. Raises `ArtifactError` or `ConfigError`."""
    folder = default_artifact() if settings.artifact == "default" else Path(settings.artifact)
    policy, artifact = load_policy(folder)
    use = PolicyInUse(
        policy=policy,
        version=artifact.version,
        columns=columns(artifact.experts, specs),
        reference=artifact.reference,
        trial=artifact.trial,
    )
    return use, artifact


def load_encoder(settings: EncoderSettings, artifact: Artifact) -> Encoder | None:
    """The encoder that the artifact was trained with; None for a policy that never reads the query."""
    if artifact.encoder is None:
        return None
    encoder = Encoder(settings)
    try:
        encoder.load()
        check_encoder(artifact, encoder.name, encoder.revision, encoder.dimension)
    except PointsmanError:
        encoder.close()  # its thread must not outlive it into the interpreter's end
        raise
    return encoder


class Service:
    """Building one reads the configuration's secrets and prices; `open` starts what runs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.keyring = Keyring(settings.auth)
        prices = PriceMap.installed()
        limits = settings.limits
        self.ledger = Ledger(settings.ledger)
        self.leases = Leases(self.ledger.client)
        self.pool = Pool(
            (one for expert in settings.experts for one in build_expert(expert, prices, limits.connections)),
            zone=settings.zone,
            retries=limits.retries,
            hedge={
                one.name: share
                for one in settings.experts
                if one.serves == "chat" and (share := one.hedge or limits.hedge) is not None
            },
            lease=self.leases.take,
        )
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
        self.metrics = Metrics(self.pool.experts)
        #: None where no cache is configured.
        self.cache = (
            Cache(settings.cache, self.ledger.client, settings.ledger.wait_ms / 1e3) if settings.cache else None
        )
        self._caps = caps = Caps(settings)
        server_secret = self.keyring.server_secret
        #: None where nothing is limited: then no request asks Redis for anything.
        self.admission = (
            Admission(caps, self.ledger.client, settings.ledger.wait_ms / 1e3)
            if caps.any() or server_secret
            else None
        )
        #: None without virtual keys, as is `office`, which changes them.
        self.registry = (
            KeyRegistry(self.ledger.client, self.ledger.status().server, server_secret, self._keys_changed)
            if server_secret
            else None
        )
        self.office: KeyOffice | None = None
        self.responses = ResponseStore(
            settings.responses, self.ledger.client, lambda: self.ledger.degraded, settings.limits.body_bytes
        )
        self.sessions = Sessions(settings.policy.sticky, self.ledger.client, settings.ledger.wait_ms / 1e3)
        #: None where no decisions are logged.
        self.decisions = Decisions(settings.decisions, self.ledger.client) if settings.decisions else None
        if (logged := self.decisions) is not None:
            self.metrics.watch_decisions(lambda: logged.owed, lambda: logged.dropped)
        self.metrics.watch_ledger(lambda: not self.ledger.degraded, lambda: self.ledger.owed)
        self.pace: Pace | None = None
        self.encoder: Encoder | None = None
        self.ready = False
        self.draining = False  # told to stop: what is under way is finished, and balancers shall look elsewhere
        self.started_at = int(time.time())
        self._router: Router | None = None

    @property
    def router(self) -> Router:
        assert self._router is not None, "the service is not open"
        return self._router

    async def open(self) -> None:
        """Raises one of our errors, with everything that had been opened closed again."""
        loading = asyncio.create_task(asyncio.to_thread(self._load))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.ledger.open())
                group.create_task(self.pool.open())
                await asyncio.shield(loading)
            if self.registry is not None:
                await self.registry.open()
        except BaseException as error:
            # no thread can be stopped midway: what it opens is there to be closed once it has ended
            await asyncio.wait({loading})
            await self.close()
            if isinstance(error, ExceptionGroup):
                raise error.exceptions[0] from None
            raise
        if self.admission is not None:
            await self.admission.open()
        if self.decisions is not None:
            self.decisions.open()
        if self.registry is not None:
            reserved = {key.name for key in self.settings.auth.keys} | {ANONYMOUS}
            self.office = KeyOffice(self.registry, self.keyring.server_secret, self.models(), reserved)
        self.ready = True

    async def close(self) -> None:
        self.ready = False
        await self.pool.close()
        if self.registry is not None:
            await self.registry.close()
        await self.leases.close()
        if self.decisions is not None:
            await self.decisions.close()
        if self.cache is not None:
            await self.cache.close()
        if self.admission is not None:
            await self.admission.close()
        await self.responses.close()
        await self.sessions.close()
        await self.ledger.close()
        if self.encoder is not None:
            await asyncio.to_thread(self.encoder.close)

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

    def _keys_changed(self, book: Book) -> None:
        self.keyring.learn(book)
        teams = {name: team.caps for name, team in book.teams.items()}
        self._caps.learn(
            {
                key.name: key.caps + teams.get(key.team or "", ())
                for key in book.keys.values()
                if key.revoked_at is None
            }
        )

    def _load(self) -> None:
        settings = self.settings.policy
        specs = [spec for spec in self.pool.specs if spec.serves == "chat"]
        use, artifact = load_use(settings, specs)
        self.encoder = load_encoder(self.settings.encoder, artifact)
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
        if self.admission is not None and (tariff := self._router.tariff()) is not None:
            self.pace = Pace(tariff, self.admission.shares)

    def meter(self, expert: str, usage: Usage, *, ok: bool, ttft_s: float, took_s: float, streamed: bool) -> int:
        """Counts one call in metrics and ledger; returns its cost in nano-dollars. Never waits."""
        spec = self.pool.experts[expert].spec
        cost_nano = spec.price.cost_nano(usage)
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
            )
        )
        return cost_nano

    def missed(self, expert: str, kind: str, *, blamed: bool = True) -> None:
        """Counts one attempt that failed; only what the expert is to be `blamed` for is an error of its own."""
        self.metrics.failures.labels(expert, kind).inc()
        self.ledger.record(Entry(expert=expert, ok=not blamed or kind in CALLERS_FAULT))
