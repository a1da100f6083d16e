"""The nouns that every room shares: frozen, small, units in their names."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Capability = Literal["tools", "vision", "json", "audio"]
Preference = Literal["cheap", "balanced", "best"]
PREFERENCES: tuple[Preference, ...] = ("cheap", "balanced", "best")
Tier = Literal["small", "medium", "large", "frontier"]
TIERS: tuple[Tier, ...] = ("small", "medium", "large", "frontier")
NULL_PREFIX = "cache:"  # of the names of null experts: see `router.null_experts`
UNLIKE = 0.5  # familiarity under which too little is proven of queries like it


def tier_column(tier: str) -> str:
    """The name under which an artifact keeps what it knows of a tier: a pseudo-expert."""
    return f"tier:{tier}"


class Parts(NamedTuple):
    """Tokens of a call that may have a price of their own; each is counted in the input or the output as well."""

    cache_write_tokens: int = 0  # of the input, those kept for an hour too
    cache_write_1h_tokens: int = 0  # of those written, the ones kept for an hour
    audio_input_tokens: int = 0
    image_input_tokens: int = 0
    audio_output_tokens: int = 0
    image_output_tokens: int = 0
    reasoning_tokens: int = 0  # of the output


PLAIN = Parts()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call. `input_tokens` counts the cached ones too, as OpenAI's API does; `output_tokens` all that
    was written, thoughts too. `router.experts.usage` says how the providers' shapes become this one.

    `estimated` marks counts that the expert did not report (a cut stream, an upstream without usage).
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    estimated: bool = False
    parts: Parts = PLAIN


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens; `per_second` of a call is added to them.

    What has no price of its own costs what it is part of: `cached_input`, `cache_write`, `audio_input` and
    `image_input` cost `input`, `cache_write_1h` costs `cache_write`, and `reasoning`, `audio_output` and
    `image_output` cost `output`. No token is paid twice: what a provider counts in two kinds (a cached recording)
    is of the first of them in the order of the fields here.

    Prices count to the 1e-15 USD a token, so a sum is a sum of integers; only the call's total is rounded.
    """

    input: float
    output: float
    cached_input: float | None = None
    cache_write: float | None = None
    cache_write_1h: float | None = None
    audio_input: float | None = None
    image_input: float | None = None
    audio_output: float | None = None
    image_output: float | None = None
    reasoning: float | None = None
    per_second: float = 0.0
    #: Femto-dollars (1e-15 USD) a token, in the order above, then a microsecond.
    rates: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        def or_else(own: float | None, base: float) -> float:
            return base if own is None else own

        write = or_else(self.cache_write, self.input)
        prices = (
            self.input,
            self.output,
            or_else(self.cached_input, self.input),
            write,
            or_else(self.cache_write_1h, write),
            or_else(self.audio_input, self.input),
            or_else(self.image_input, self.input),
            or_else(self.audio_output, self.output),
            or_else(self.image_output, self.output),
            or_else(self.reasoning, self.output),
            self.per_second,
        )
        object.__setattr__(self, "rates", tuple(round(price * 1e9) for price in prices))

    def cost_nano(self, usage: Usage, took_s: float = 0.0) -> int:
        """Exact cost in integer nano-dollars (1e-9 USD): the ledger's unit, so that sums never drift.

        `took_s` is how long the call took, for what is priced by the second. Counts that cannot be (more tokens
        of a kind than there are at all) are taken for as many as there are: nothing costs less than nothing.
        """
        rates = self.rates
        cached = min(usage.cached_tokens, usage.input_tokens)
        fresh, plain = usage.input_tokens - cached, usage.output_tokens
        femto = cached * rates[2]
        if usage.parts is not PLAIN:
            parts = usage.parts
            written = min(parts.cache_write_tokens, fresh)
            an_hour = min(parts.cache_write_1h_tokens, written)
            audio = min(parts.audio_input_tokens, fresh - written)
            image = min(parts.image_input_tokens, fresh - written - audio)
            fresh -= written + audio + image
            femto += (written - an_hour) * rates[3] + an_hour * rates[4] + audio * rates[5] + image * rates[6]
            spoken = min(parts.audio_output_tokens, plain)
            painted = min(parts.image_output_tokens, plain - spoken)
            thought = min(parts.reasoning_tokens, plain - spoken - painted)
            plain -= spoken + painted + thought
            femto += spoken * rates[7] + painted * rates[8] + thought * rates[9]
        femto += fresh * rates[0] + plain * rates[1]
        if rates[10]:
            femto += round(max(took_s, 0.0) * 1e6) * rates[10]
        return (femto + 500_000) // 1_000_000

    def __str__(self) -> str:
        said = f"${self.input:g} in, ${self.output:g} out per million tokens"
        if self.per_second:
            tokens = f" and {said}" if self.input or self.output else ""
            return f"${self.per_second:g} per second of a call{tokens}"
        return said

    def cost_usd(self, usage: Usage, took_s: float = 0.0) -> float:
        return self.cost_nano(usage, took_s) / 1e9


class Payer(NamedTuple):
    """On whose account a call goes, as it is when the call ends: what changes later leaves what was spent alone."""

    key: str = ""  # a virtual key's id, a configured key's name, `anonymous`
    team: str = ""
    tags: tuple[str, ...] = ()


NOBODY = Payer()


@dataclass(frozen=True, slots=True)
class ExpertSpec:
    """What the router knows of an expert before any request: what it can, what it costs, what it is like."""

    name: str
    price: Price
    context_tokens: int = 128_000
    capabilities: frozenset[str] = frozenset({"tools", "json"})
    like: str | None = None
    tier: str | None = None
    ttft_s: float = 0.5  # prior, until the ledger has measured
    token_s: float = 0.02  # prior: seconds per output token
    serves: str = "chat"
    enabled: bool = True
    local: bool = False  # what it is sent stays in the operator's hands


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the caller asked of the routing (the `routing` object or the `x-pointsman-*` headers)."""

    preference: Preference | None = None
    quality_floor: float | None = None  # share of the best expert's expected quality, 0..1
    max_cost_usd: float | None = None
    max_latency_s: float | None = None
    only: frozenset[str] | None = None
    exclude: frozenset[str] = frozenset()
    allowed: frozenset[str] | None = None  # not the caller's wish: what their key may use; None: all
    kept_to: frozenset[str] | None = None  # by a guard, never by the caller
    kept_because: str = ""
    policy: str | None = None
    session: str | None = None  # the caller's name for a conversation: it keeps its expert while that pays
    sticky: bool | None = None  # so does one without a name; None: as the configuration says
    explain: bool = False
    # another expert may answer where the named one fails, or where an expert's content filter refuses
    fallback: bool = False


@dataclass(frozen=True, slots=True)
class Context:
    """What comes with a prompt beside its text."""

    tools: bool = False
    images: bool = False
    turn: int = 1  # of the conversation
    tenant: str = ""  # whose request it is; "" where that is not known


@dataclass(frozen=True, slots=True)
class Query:
    """One request as the router sees it."""

    text: str  # what is embedded: see router.embedding.query_text
    input_tokens: int  # estimated, for cost and context
    max_output_tokens: int | None = None  # of each answer
    answers: int = 1  # asked for at once
    needs: frozenset[str] = frozenset()  # capabilities without which an expert cannot answer
    context: Context = Context()


@dataclass(frozen=True, slots=True)
class Candidate:
    """One expert's line in a decision. `reason` says why it is out; None: it could have been chosen."""

    expert: str
    quality: float
    std: float
    cost_usd: float
    latency_s: float
    utility: float
    propensity: float
    reason: str | None


@dataclass(frozen=True, slots=True)
class Floor:
    """What became of a caller's quality floor; `router.guarantee` says what is promised where it is `guaranteed`.

    A floor is kept on average, by using but `price_share` of the preference's price of quality. Where nothing can
    be promised it is held against each query's estimates: those under `threshold` times the best one are out.
    """

    asked: float
    guaranteed: bool
    confidence: float
    price_share: float
    threshold: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Stay:
    """Where a conversation is: who served it last, and how much of this request that expert has read before."""

    expert: str
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """A conversation's expert as it was before a decision, and what speaks for it: see `router.stickiness`."""

    expert: str
    cached_tokens: int = 0  # of the input, which its provider's prompt cache is taken to hold
    saves_usd: float = 0.0  # by those
    favour: float = 0.0  # added to its utility


@dataclass(frozen=True, slots=True)
class Decision:
    """The choice and why.

    `order` holds the experts to try, best first. The arrays are [K] in the order of `experts`, the whole
    chat pool; `ruled_out` says why an expert is not in `order`. A request that names its expert has that one alone.
    """

    id: str
    order: tuple[str, ...]
    policy: str  # name@version
    preference: Preference
    experts: tuple[str, ...]
    quality: Floats
    std: Floats
    cost_usd: Floats
    latency_s: Floats
    utility: Floats
    propensity: Floats
    ruled_out: dict[str, str]
    floor: Floor | None = None  # None where the caller asked for none
    paced: bool = False  # at the price of quality that a budget's pace asks for, not the preference's
    familiarity: float | None = None  # as in `Estimate`; None where the policy does not measure it
    held: Held | None = None  # None where no conversation is to be kept together, and at its beginning
    vector: Floats | None = None  # [d], the query's; None where no policy read it
    encode_s: float = 0.0
    decide_s: float = 0.0

    def candidates(self) -> list[Candidate]:
        """Every expert's line: those to try, best first, then those ruled out. Empty where the caller named one."""
        if not self.experts:
            return []
        column = {name: k for k, name in enumerate(self.experts)}
        out = [name for name in self.experts if name not in self.order]
        return [
            Candidate(
                expert=name,
                quality=float(self.quality[k]),
                std=float(self.std[k]),
                cost_usd=float(self.cost_usd[k]),
                latency_s=float(self.latency_s[k]),
                utility=float(self.utility[k]),
                propensity=float(self.propensity[k]),
                reason=self.ruled_out.get(name),
            )
            for name in (*self.order, *out)
            for k in (column[name],)
        ]


@dataclass(frozen=True, slots=True)
class Queries:
    """A batch of queries, columnar. `prompts` are what was embedded; an artifact's reference has none.

    `domains` are only there in training and evaluation. `features` are what a policy made of the prompts beside the
    vectors (`Policy.described`); a reference has them in the prompts' place. `words` are the part that needs
    no vectors (`Policy.worded`).
    """

    embeddings: Floats  # [n, d] float32, unit rows
    input_tokens: Floats  # [n]
    prompts: tuple[str, ...] | None = None
    domains: tuple[str, ...] | None = None
    features: Floats | None = None  # [n, F]
    contexts: tuple[Context, ...] | None = None
    words: Floats | None = None  # [n, W]

    def __len__(self) -> int:
        return len(self.embeddings)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of queries: a benchmark table (all columns seen) or a traffic log (one seen per row).

    Every matrix is [n, K]; NaN where unobserved. `quality` in [0, 1].
    """

    queries: Queries
    experts: tuple[str, ...]
    quality: Floats
    cost_usd: Floats
    output_tokens: Floats
    latency_s: Floats | None = None
    propensity: Floats | None = None

    def __len__(self) -> int:
        return len(self.queries)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A policy's prediction for n queries and K experts; every matrix is [n, K]."""

    quality: Floats  # in [0, 1]
    std: Floats  # of the expected quality, not of one answer
    output_tokens: Floats  # expected length of the answer
    familiarity: Floats | None = None  # [n], the share of the policy's word that is proven on queries like it


@dataclass(frozen=True, slots=True)
class Trial:
    """What a policy foretold of m prompts that it was not fitted to, and what came of them."""

    quality: Floats  # [m, K], foretold
    output_tokens: Floats  # [m, K], foretold
    input_tokens: Floats  # [m]
    observed: Floats  # [m, K], the quality; NaN where unobserved


@dataclass(frozen=True, slots=True)
class Load:
    """What the ledger has measured of an expert, decayed; None while nothing was."""

    ttft_s: float | None = None
    token_s: float | None = None
    error_rate: float = 0.0
    requests: int = 0
    errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished call, as the ledger records it."""

    expert: str
    ok: bool
    usage: Usage = field(default_factory=Usage)
    cost_nano: int = 0
    ttft_s: float | None = None
    token_s: float | None = None  # seconds per output token after the first
    payer: Payer = NOBODY
