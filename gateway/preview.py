"""`pointsman route`: a decision without a gateway, shown to a person."""

import random
import sys
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from gateway.chat_request import MESSAGE_TOKENS, ChatRequest
from gateway.deciding import decision_json
from gateway.guarding import Guarding
from gateway.loading import load_encoder, load_use
from router.config import Settings
from router.errors import ConfigError
from router.experts.prices import PriceMap, describe
from router.explanation import why
from router.router import Router
from router.types import Candidate, Decision, Load, Wishes


async def decide(settings: Settings, prompt: str, wishes: dict[str, Any]) -> Decision:
    """The decision for a prompt sent alone, with the experts' configured latencies. Raises our errors."""
    prices = PriceMap.installed()
    specs = [describe(expert, prices) for expert in settings.experts if expert.serves == "chat"]
    if not specs:
        raise ConfigError("experts: none of them serves chat")
    use, artifact = load_use(settings.policy, specs)
    encoder = load_encoder(settings.encoder, artifact)
    router = Router(
        use,
        specs,
        encoder,
        resting_s=lambda _: 0.0,
        load=lambda _: Load(),
        preference=settings.policy.preference,
        explore=settings.policy.explore,
        confidence=settings.policy.confidence,
        margin=settings.policy.sticky.margin,
        rng=random.Random(),
    )
    request = ChatRequest(
        body={"messages": [{"role": "user", "content": prompt}]},
        expert=None,
        stream=False,
        include_usage=False,
        wishes=Wishes(**wishes),
        input_tokens=len(prompt.encode("utf-8", "replace")) // 4 + MESSAGE_TOKENS,
        max_output_tokens=None,
        needs=frozenset(),
    )
    try:
        if settings.guards:
            everyone = [describe(expert, prices) for expert in settings.experts]
            request = await Guarding(settings.guards, everyone).before(request)
        return await router.decide(request.query(""), request.wishes)
    finally:
        if encoder is not None:
            encoder.close()


def print_decision(decision: Decision, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(orjson.dumps(decision_json(decision), option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    table = Table(title=f"policy {decision.policy}, preference {decision.preference}", title_justify="left")
    table.add_column("expert")
    for name in ("expected quality", "cost USD", "latency s"):
        table.add_column(name, justify="right")
    table.add_column("")
    for rank, candidate in enumerate(decision.candidates()):
        table.add_row(
            candidate.expert,
            f"{candidate.quality:.3f} ± {candidate.std:.3f}",
            f"{candidate.cost_usd:.6f}",
            f"{candidate.latency_s:.2f}",
            _note(rank, candidate),
            style="bold" if rank == 0 else "dim" if candidate.reason else "",
        )
    console = Console()
    console.print(table)
    console.print(why(decision), highlight=False)


def _note(rank: int, candidate: Candidate) -> str:
    if candidate.reason is not None:
        return candidate.reason
    return "chosen" if rank == 0 else f"next ({rank})"
