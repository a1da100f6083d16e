"""Router: embed, predict, gate, decide. A query and wishes in, a `Decision` out; it calls no expert."""

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from router.errors import InvalidRequest, NoExpertFits, NoHealthyExpert
from router.floors import Floors, Grounds
from router.objective import SPEND, Terms, choose, price_of_quality
from router.pacing import Tariff
from router.policy import Policy
from router.stickiness import favours, held
from router.types import (
    PREFERENCES,
    UNLIKE,
    Decision,
    Estimate,
    ExpertSpec,
    Floats,
    Load,
    Preference,
    Queries,
    Query,
    Stay,
    Trial,
    Usage,
    Wishes,
)

LOAD_REFRESH_S = 0.25
NAMED = "named"  # the policy of a decision that the caller made
_NONE = np.zeros(0)


class Embeds(Protocol):
    """What the router needs of an encoder."""

    def begin(self, text: str) -> Awaitable[Floats]: ...


@dataclass(frozen=True, slots=True)
class PolicyInUse:
    """A fitted policy as this pool uses it: `columns[k]` is the artifact's expert that pool expert k is taken for.

    `reference` are the training queries' vectors from which the preferences' prices of quality are found; `trial`,
    with the artifact's columns, is what quality floors are certified on.
    """

    policy: Policy
    version: str
    columns: Sequence[int]
    reference: Queries
    trial: Trial | None = None

    @property
    def label(self) -> str:
        return f"{self.policy.kind}@{self.version}"


class Router:
    """Decides for one pool of chat experts. `encoder` may be None for a policy that never reads the query."""

    def __init__(
        self,
        use: PolicyInUse,
        specs: Sequence[ExpertSpec],
        encoder: Embeds | None,
        *,
        resting_s: Callable[[str], float],
        load: Callable[[str], Load],
        preference: Preference = "balanced",
        explore: float = 0.0,
        confidence: float = 0.9,
        margin: float = 0.0,
        rng: random.Random,
    ) -> None:
        self.use = use
        self.names = tuple(spec.name for spec in specs)
        self.prices_of_quality: dict[Preference, float] = {}
        self._policy = use.policy
        self._specs = tuple(specs)
        self._encoder = encoder if use.policy.reads_query else None
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="policy") if use.policy.reads_text else None
        self._resting_s = resting_s
        self._load = load
        self._preference = preference
        self._margin = margin
        self._explore = max(explore, use.policy.explore)
        self._rng = rng
        self._columns = np.asarray(use.columns, dtype=np.intp)
        self._input_usd = np.array([spec.price.input for spec in specs]) / 1e6
        self._output_usd = np.array([spec.price.output for spec in specs]) / 1e6
        self._second_usd = np.array([spec.price.per_second for spec in specs])
        self._blank = np.zeros(use.reference.embeddings.shape[1], dtype=np.float32)
        self._ttft_s = np.array([spec.ttft_s for spec in specs])
        self._token_s = np.array([spec.token_s for spec in specs])
        self._loads_at = float("-inf")
        self._calibrate()
        self._floors = Floors(self._grounds(), confidence)

    def close(self) -> None:
        """After its last decision."""
        if self._reader is not None:
            self._reader.shutdown(wait=False)

    def _expected(self) -> tuple[Floats, Floats]:
        """Quality and cost of the experts on the reference queries, both [m, K]."""
        estimate = self._policy.predict(self.use.reference)
        lengths = estimate.output_tokens[:, self._columns]
        return estimate.quality[:, self._columns], self._cost_usd(self.use.reference.input_tokens[:, None], lengths)

    def _calibrate(self) -> None:
        quality, cost = self._expected()
        for preference in PREFERENCES:
            self.prices_of_quality[preference] = price_of_quality(quality, cost, SPEND[preference])

    def tariff(self) -> Tariff | None:
        """What a request of the reference costs on average at each price of quality."""
        return Tariff.of(*self._expected())

    def _grounds(self) -> Grounds:
        trial, columns = self.use.trial, self._columns
        if trial is not None:
            trial = replace(
                trial,
                quality=trial.quality[:, columns],
                output_tokens=trial.output_tokens[:, columns],
                observed=trial.observed[:, columns],
            )
        return Grounds(
            trial=trial,
            cost_usd=_NONE if trial is None else self._cost_usd(trial.input_tokens[:, None], trial.output_tokens),
            names=self.names,
            taken_for=[self._policy.experts_[column] for column in columns],
            prices_of_quality=self.prices_of_quality,
            explore=self._explore,
        )

    def _cost_usd(self, input_tokens: Floats | int, output_tokens: Floats, answers: int = 1) -> Floats:
        """`output_tokens` of each answer; several are written at the same time."""
        cost = input_tokens * self._input_usd + answers * output_tokens * self._output_usd
        if self._second_usd.any():
            cost = cost + (self._ttft_s + self._token_s * output_tokens) * self._second_usd
        return np.asarray(cost)

    def expected_s(self, expert: str, output_tokens: float) -> float:
        """How long a call is expected to take that writes so much."""
        k = self.names.index(expert)
        return float(self._ttft_s[k] + self._token_s[k] * output_tokens)

    def expected(self, expert: str, input_tokens: int, most: int | None, answers: int) -> tuple[Usage, int]:
        """What a call is expected to use and to cost, in nano-dollars; `most`: tokens of each of the `answers`."""
        length = self.expected_length(expert, most)
        usage = Usage(input_tokens, round(answers * length), estimated=True)
        price = self._specs[self.names.index(expert)].price
        return usage, price.cost_nano(usage, self.expected_s(expert, length))

    def named(
        self, expert: str, input_tokens: int, most_tokens: int | None, wishes: Wishes, answers: int = 1
    ) -> Decision:
        """The decision of a caller who chose the expert: nothing is estimated but its cost, for a cap on that.

        Raises `NoExpertFits` over the cap, `InvalidRequest` for a wish that names what is not there.
        """
        self.check(wishes)
        if wishes.max_cost_usd is not None:
            expected = self.expected(expert, input_tokens, most_tokens, answers)[1] / 1e9
            if expected > wishes.max_cost_usd:
                raise NoExpertFits(
                    f"expert {expert!r} expects {expected:.6g}, over max_cost_usd {wishes.max_cost_usd:g}",
                    param="routing.max_cost_usd",
                )
        return callers_choice(expert, self._preference)

    def expected_length(self, expert: str, most: int | None) -> float:
        """Output tokens that an expert's answers have on average, at most `most`."""
        length = float(self._policy.output_tokens_[self._columns[self.names.index(expert)]])
        return length if most is None else min(length, most)

    async def decide(
        self,
        query: Query,
        wishes: Wishes,
        *,
        first: str | None = None,
        price: float | None = None,
        stay: Stay | None = None,
    ) -> Decision:
        """The choice for one query. `first` is an expert that the caller named and that is tried before the rest;
        `stay` is where its conversation is.

        `price` is the price of quality where a budget paces it; a caller's own preference or floor goes before it.

        Raises `NoExpertFits`, `NoHealthyExpert` or `InvalidRequest` (a wish that names what is not there).
        """
        began = time.perf_counter()
        self.check(wishes)
        ruled_out = self._rule_out(query, wishes)
        queries = await self._read(query)
        encoded = time.perf_counter()
        estimate = self._policy.predict(queries)
        columns = self._columns
        output_tokens = estimate.output_tokens[0, columns]
        preference = wishes.preference or self._preference
        paced = price is not None and wishes.preference is None and not wishes.quality_floor
        if price is None or not paced:
            price = self.prices_of_quality[preference]
        floor = None
        if stay is not None and stay.expert not in self.names:
            stay = None
        if wishes.quality_floor:
            untried = self._untried(query, wishes, ruled_out, estimate)
            if first or stay:
                untried = "the caller named the expert" if first else "its conversation may stay with its expert"
            floor = await self._floors.settle(wishes.quality_floor, preference, ruled_out, untried)
            price, wishes = floor.price_share * price, replace(wishes, quality_floor=floor.threshold)
        if query.max_output_tokens is not None:
            output_tokens = np.minimum(output_tokens, query.max_output_tokens)
        self._refresh_loads(encoded)
        terms = Terms(
            quality=estimate.quality[0, columns],
            cost_usd=self._cost_usd(query.input_tokens, output_tokens, query.answers),
            latency_s=self._ttft_s + self._token_s * output_tokens,
        )
        before = None
        if stay is not None:
            spec = self._specs[self.names.index(stay.expert)]
            before = held(spec.name, min(stay.cached_tokens, query.input_tokens), spec.price, price, self._margin)
        choice = choose(
            terms,
            ruled_out,
            wishes,
            price,
            favours=0.0 if before is None else favours(before, self.names),
            explore=self._explore,
            draw=self._rng.random() if self._explore else 0.0,
        )
        names = self.names
        order = [names[k] for k in choice.order]
        if first is not None:
            order = [first, *(name for name in order if name != first)]
        return Decision(
            id="dec_" + secrets.token_hex(12),
            order=tuple(order),
            policy=self.use.label if first is None else NAMED,
            preference=preference,
            experts=names,
            quality=terms.quality,
            std=estimate.std[0, columns],
            cost_usd=terms.cost_usd,
            latency_s=terms.latency_s,
            utility=choice.utility,
            propensity=choice.propensity,
            ruled_out={names[k]: reason for k, reason in choice.ruled_out.items()},
            floor=floor,
            paced=paced,
            familiarity=None if estimate.familiarity is None else float(estimate.familiarity[0]),
            held=before,
            vector=None if self._encoder is None else queries.embeddings[0],
            encode_s=encoded - began,
            decide_s=time.perf_counter() - encoded,
        )

    async def _read(self, query: Query) -> Queries:
        """The query with its vector, and with what a policy that runs a model of its own makes of its text."""
        encoding = None if self._encoder is None else self._encoder.begin(query.text)
        queries = Queries(
            embeddings=self._blank[None, :],
            input_tokens=np.array([query.input_tokens], dtype=np.float32),
            prompts=(query.text,),
            contexts=(query.context,),
        )
        if encoding is not None:
            if self._reader is None:
                queries = self._policy.worded(queries)  # while the encoder works
            queries = replace(queries, embeddings=(await encoding)[None, :])
        if self._reader is None:
            return queries
        # one thread: a second would only make both slower, and wait where others' threads are needed
        return await asyncio.get_running_loop().run_in_executor(self._reader, self._policy.described, queries)

    def _untried(
        self, query: Query, wishes: Wishes, ruled_out: Mapping[int, str], estimate: Estimate
    ) -> str | None:
        """What of the request itself is not as in the trial, or limits the choice as nothing did there."""
        if estimate.familiarity is not None and estimate.familiarity[0] < UNLIKE:
            return "little is proven of queries like this one"
        if wishes.max_cost_usd is not None or wishes.max_latency_s is not None:
            return "a cap on cost or latency also limits the choice"
        most = query.max_output_tokens
        left = [column for k, column in enumerate(self._columns) if k not in ruled_out]
        if most is not None and (estimate.output_tokens[0, left] > most).any():
            return f"answers are expected to be longer than the {most} tokens allowed"
        for k, reason in ruled_out.items():
            if reason == self._unfit(self._specs[k], query):
                return f"the request itself rules out {self.names[k]}: {reason}"
        return None

    def check(self, wishes: Wishes) -> None:
        """Raises `InvalidRequest` for an expert or a policy that is not there."""
        named = (wishes.only or frozenset()) | wishes.exclude
        if named and not named <= set(self.names):
            unknown = min(named - set(self.names))[:100]
            field = "only" if wishes.only and unknown in wishes.only else "exclude"
            raise InvalidRequest(
                f"routing.{field}: no expert is called {unknown!r}; there are: {', '.join(self.names)}",
                param=f"routing.{field}",
            )
        if wishes.policy is not None and wishes.policy not in (self._policy.kind, self.use.label, "default"):
            raise InvalidRequest(
                f"routing.policy: no policy is called {wishes.policy!r}; "
                f"there are: default, {self._policy.kind}, {self.use.label}",
                param="routing.policy",
            )

    def _rule_out(self, query: Query, wishes: Wishes) -> dict[int, str]:
        """Why which expert cannot take the request. Raises where none is left."""
        out: dict[int, str] = {}
        resting: dict[str, float] = {}
        for k, spec in enumerate(self._specs):
            if not spec.enabled:
                out[k] = "disabled"
            elif wishes.only is not None and spec.name not in wishes.only:
                out[k] = "not in routing.only"
            elif spec.name in wishes.exclude:
                out[k] = "in routing.exclude"
            elif wishes.allowed is not None and spec.name not in wishes.allowed:
                out[k] = "the key may not use it"
            elif wishes.kept_to is not None and spec.name not in wishes.kept_to:
                out[k] = wishes.kept_because
            elif (unfit := self._unfit(spec, query)) is not None:
                out[k] = unfit
            elif (wait_s := self._resting_s(spec.name)) > 0:
                out[k] = "resting after failures"
                resting[spec.name] = wait_s
        if len(out) == len(self._specs):
            if resting:
                raise NoHealthyExpert(sorted(resting), min(resting.values()))
            raise self._nothing_fits(query, out)
        return out

    @staticmethod
    def _unfit(spec: ExpertSpec, query: Query) -> str | None:
        """Why the expert cannot take this query, whoever asks."""
        if not query.needs <= spec.capabilities:
            return f"cannot take {', '.join(sorted(query.needs - spec.capabilities))}"
        needed = _tokens_needed(query)
        if needed > spec.context_tokens:
            return f"context of {spec.context_tokens} tokens, about {needed} needed"
        return None

    def _nothing_fits(self, query: Query, out: dict[int, str]) -> NoExpertFits:
        reasons = "; ".join(f"{self.names[k]}: {reason}" for k, reason in out.items())
        widest = max(spec.context_tokens for spec in self._specs)
        if _tokens_needed(query) > widest:
            return NoExpertFits(
                f"the prompt of about {query.input_tokens} tokens (and {query.max_output_tokens or 0} to answer) "
                f"is larger than every expert's context; the largest is {widest} tokens",
                param="messages",
                code="context_length_exceeded",
            )
        return NoExpertFits(f"no expert can take this request: {reasons}")

    def _refresh_loads(self, now: float) -> None:
        if now - self._loads_at < LOAD_REFRESH_S:
            return
        self._loads_at = now
        for k, spec in enumerate(self._specs):
            load = self._load(spec.name)
            self._ttft_s[k] = spec.ttft_s if load.ttft_s is None else load.ttft_s
            self._token_s[k] = spec.token_s if load.token_s is None else load.token_s


def _tokens_needed(query: Query) -> int:
    return query.input_tokens + (query.max_output_tokens or 0)


def callers_choice(expert: str, preference: Preference = "balanced") -> Decision:
    """The decision of a caller who named the expert: nothing is estimated."""
    return Decision(
        id="dec_" + secrets.token_hex(12),
        order=(expert,),
        policy=NAMED,
        preference=preference,
        experts=(),
        quality=_NONE,
        std=_NONE,
        cost_usd=_NONE,
        latency_s=_NONE,
        utility=_NONE,
        propensity=_NONE,
        ruled_out={},
    )
