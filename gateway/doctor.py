"""`pointsman doctor`: one line for each thing that a gateway needs; each passes or says what to do."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.auth import Keyring
from gateway.guarding import Guarding
from gateway.loading import build_expert, load_encoder, load_use
from router.artifact import Artifact
from router.config import Settings
from router.config_experts import ExpertSettings
from router.errors import LedgerError, PointsmanError
from router.experts.base import Expert
from router.experts.prices import PriceMap
from router.ledger.ledger import Ledger
from router.types import ExpertSpec


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    ok: bool
    text: str


async def examine(settings: Settings) -> list[Finding]:
    """Every check, in the order of the configuration; one that fails stops none of the others."""
    prices = PriceMap.installed()
    findings: list[Finding] = []
    specs: list[ExpertSpec] = []
    for expert in settings.experts:
        found, spec = await _expert(expert, prices)
        findings += found
        if spec is not None:
            specs.append(spec)
    whole = len(specs) == len(settings.experts)
    findings.append(await _try("keys", lambda: _keys(settings)))
    artifacts: list[Artifact] = []
    if whole:
        chat = [spec for spec in specs if spec.serves == "chat"]
        findings.append(await _try("policy", lambda: _policy(settings, chat, artifacts)))
    else:
        findings.append(Finding("policy", False, "not checked: every expert needs a price first"))
    if artifacts:
        findings.append(await _try("encoder", lambda: _encoder(settings, artifacts[0])))
    if settings.guards and whole:
        findings.append(await _try("guards", lambda: _guards(settings, specs)))
    findings.append(await _try("ledger", lambda: _ledger(settings)))
    return findings


async def _try(what: str, check: Callable[[], Awaitable[str]]) -> Finding:
    try:
        return Finding(what, True, await check())
    except PointsmanError as error:
        return Finding(what, False, str(error))


async def _expert(settings: ExpertSettings, prices: PriceMap) -> tuple[list[Finding], ExpertSpec | None]:
    what = f"expert {settings.name}"
    try:
        addresses = build_expert(settings, prices, connections=1)
    except PointsmanError as error:
        return [Finding(f"{what}: price", False, str(error))], None
    spec = addresses[0].spec
    price = spec.price
    findings = [Finding(f"{what}: price", True, str(price))]
    if not settings.enabled:
        return [*findings, Finding(what, True, "disabled: not asked")], spec

    async def probe(expert: Expert) -> str:
        await expert.open()
        try:
            return await expert.probe()
        finally:
            await expert.close()

    for expert in addresses:
        where = f"{what}: endpoint {expert.place}" if expert.place else what
        findings.append(await _try(where, partial(probe, expert)))
    return findings, spec


async def _keys(settings: Settings) -> str:
    Keyring(settings.auth)
    count = len(settings.auth.keys)
    if settings.auth.secret is not None:
        managed = "managed by pointsman keys" if settings.auth.admin else "nobody manages them without auth.admin"
        return f"{count} API keys, and virtual keys ({managed})"
    return f"{count} API keys" if count else f"no API key: everyone who reaches {settings.host} may call"


async def _guards(settings: Settings, specs: list[ExpertSpec]) -> str:
    Guarding(settings.guards, specs)
    return ", ".join(guard.kind for guard in settings.guards)


async def _policy(settings: Settings, specs: list[ExpertSpec], artifacts: list[Artifact]) -> str:
    use, artifact = load_use(settings.policy, specs)
    artifacts.append(artifact)
    taken = ", ".join(f"{s.name} as {artifact.experts[c]}" for s, c in zip(specs, use.columns, strict=True))
    return f"{use.label}; {taken}"


async def _encoder(settings: Settings, artifact: Artifact) -> str:
    encoder = load_encoder(settings.encoder, artifact)
    if encoder is None:
        return "not needed: the policy does not read the query"
    try:
        vector = await encoder.encode("a query")
        return f"{encoder.name}, {len(vector)} dimensions, window {encoder.window} tokens"
    finally:
        encoder.close()


async def _ledger(settings: Settings) -> str:
    ledger = Ledger(settings.ledger)
    await ledger.open()
    try:
        if (evicting := await ledger.evicting()) is not None:
            raise LedgerError(evicting)
        return f"{ledger.status().server} answers in {await ledger.ping() * 1e3:.1f} ms"
    finally:
        await ledger.close()


def print_findings(findings: list[Finding]) -> None:
    table = Table(show_header=False, box=None)
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[red]FAIL[/]"
        table.add_row(mark, Text(finding.what), Text(finding.text))  # Text: brackets are no markup
    Console().print(table)
