"""The cache: which requests have one answer, under which digest it is kept, and when it is given again.

Two requests are the same where their bodies are, keys in any order, with the same wishes, from the same caller
(`scope: key`) and under the same policy. An answer is kept only whole and finished: no error, no stream that broke,
nothing cut off by a limit on its length or by a filter. Streams and whole answers are kept apart.
Where it is configured, a question that is close enough may have that answer too: see `gateway.semantic`.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from gateway.chat_request import ChatRequest
from gateway.semantic import Question, Semantic
from router.config import CacheSettings
from router.embedding import Encoder
from router.ledger.answers import Answers, KeptAnswer
from router.null_experts import EXACT, SEMANTIC, null_alone, with_null
from router.types import Decision, Floats, Preference

if TYPE_CHECKING:
    from redis.asyncio import Redis

FINISHED = frozenset({"stop", "tool_calls", "function_call"})
INLINE = frozenset({"text", "refusal", "input_audio", "image_url"})  # kinds of parts that hold what they are about


@dataclass(frozen=True, slots=True)
class Directives:
    """What a request's `cache-control` asks; others than these three are not for us."""

    no_cache: bool = False  # do not give a kept answer
    no_store: bool = False  # nor keep this one
    max_age_s: float | None = None


DEFAULT = Directives()


def directives(headers: Sequence[tuple[bytes, bytes]]) -> Directives:
    no_cache = no_store = False
    max_age_s = None
    for name, value in headers:
        if name == b"cache-control":
            for directive in value.lower().split(b","):
                what, _, argument = directive.strip().partition(b"=")
                no_cache |= what == b"no-cache"
                no_store |= what == b"no-store"
                if what == b"max-age":
                    argument = argument.strip(b'" ')
                    # an age that is none is taken for 0, as RFC 9111 advises
                    max_age_s = float(argument) if argument.isdigit() and len(argument) < 16 else 0.0
    return Directives(no_cache, no_store, max_age_s)


class Lookup:
    """One request at the cache. `state` is what its answer's header says, `chosen` a kept answer to give."""

    __slots__ = (
        "_answers",
        "_digest",
        "_events",
        "_max_age_s",
        "_question",
        "_reads",
        "_size",
        "_vector",
        "chosen",
        "found",
        "state",
    )

    def __init__(
        self,
        answers: Answers,
        digest: str | None,
        found: KeptAnswer | None,
        state: bytes,
        question: Question | None = None,
        asked: Directives = DEFAULT,
    ) -> None:
        """`digest` is None where the answer is not to be kept, `question` where only the same one has it."""
        self._answers = answers
        self._digest = digest
        self._question = question
        self._reads = not asked.no_cache
        self._max_age_s = asked.max_age_s
        self._vector: Floats | None = None
        self._events: list[bytes] = []
        self._size = 0
        self.found = found
        self.chosen: KeptAnswer | None = None
        self.state = state

    async def join(self, decision: Decision) -> Decision:
        """The decision with what is found as a null expert in it."""
        self._vector = decision.vector
        if self.found is not None:
            decision = with_null(decision, EXACT, self.found.expert)
            if decision.order[0] == EXACT:
                self.chosen, self.state = self.found, b"hit"
        elif self._question is not None and self._reads and self._vector is not None:
            near = await self._question.nearest(self._vector, self._max_age_s)
            if near is not None:
                decision = with_null(decision, SEMANTIC, near.expert, self._question.wrong)
                if decision.order[0] == SEMANTIC:
                    self.chosen, self.state = near, b"semantic"
        return decision

    def alone(self, decision_id: str, policy: str, preference: Preference) -> Decision:
        """The decision where no expert can be asked and something was found."""
        self.chosen, self.state = self.found, b"hit"
        return null_alone(decision_id, EXACT, policy, preference)

    def heard(self, events: bytes) -> None:
        """Takes a part of a stream; a stream that grows too large is forgotten."""
        if self._digest is None:
            return
        self._size += len(events)
        if self._size > self._answers.most_bytes:
            self._digest = None
            self._events.clear()
        else:
            self._events.append(events)

    def keep_stream(self, expert: str) -> None:
        """The stream came to its end."""
        if self._digest is not None:
            body = b"".join(self._events)
            if _ended(_choices_of(body)):
                self._keep(self._digest, expert, body)

    def keep(self, expert: str, body: bytes) -> None:
        """A whole answer came."""
        if self._digest is not None and len(body) <= self._answers.most_bytes and _ended(_choices(body)):
            self._keep(self._digest, expert, body)

    def _keep(self, digest: str, expert: str, body: bytes) -> None:
        question, vector = self._question, self._vector
        beside = () if question is None or vector is None else question.entry(digest, vector)
        self._answers.keep(digest, expert, body, beside)


class Cache:
    """Finds and keeps the answers of a gateway."""

    def __init__(self, settings: CacheSettings, connect: Callable[[], "Redis"], wait_s: float) -> None:
        self._settings = settings
        self._answers = Answers(connect, ttl_s=settings.ttl_s, most_bytes=settings.max_entry_bytes, wait_s=wait_s)
        self._semantic = Semantic(settings.semantic, self._answers) if settings.semantic else None

    def check(self, encoder: Encoder | None) -> None:
        """`encoder` is what embeds the queries. Raises `ConfigError` where the settings cannot be kept with it."""
        if self._semantic is not None:
            self._semantic.check(encoder)

    async def close(self) -> None:
        await self._answers.close()

    async def look(self, request: ChatRequest, owner: str, policy: str, asked: Directives) -> Lookup:
        """`owner` is the caller's key, `policy` the policy in use."""
        if asked.no_store or not self._one_answer(request):
            return Lookup(self._answers, None, None, b"bypass")
        same = self._same(request, owner, policy)
        try:
            digest = hashlib.sha256(orjson.dumps(same, option=orjson.OPT_SORT_KEYS)).hexdigest()
        except orjson.JSONEncodeError:  # nested too deeply
            return Lookup(self._answers, None, None, b"bypass")
        question = None if self._semantic is None else self._semantic.question(request, same)
        if asked.no_cache:
            return Lookup(self._answers, digest, None, b"bypass", question, asked)
        found = await self._answers.find(digest, asked.max_age_s)
        return Lookup(self._answers, digest, found, b"miss", question, asked)

    def _one_answer(self, request: ChatRequest) -> bool:
        """Whether the same body asks for the same answer: nothing drawn, nothing that lies elsewhere."""
        body = request.body
        if not self._settings.sampled and ((body.get("temperature") or 0) > 0 or (body.get("n") or 1) > 1):
            return False
        return all(
            _inline(part)
            for message in body["messages"]
            if isinstance(content := message.get("content"), list)
            for part in content
        )

    def _same(self, request: ChatRequest, owner: str, policy: str) -> dict[str, Any]:
        """All that makes two requests the same."""
        wishes = request.wishes
        return {
            "body": request.body,
            "owner": owner if self._settings.scope == "key" else None,
            "policy": policy,
            "preference": wishes.preference,
            "quality_floor": wishes.quality_floor,
            "max_cost_usd": wishes.max_cost_usd,
            "max_latency_s": wishes.max_latency_s,
            "only": None if wishes.only is None else sorted(wishes.only),
            "exclude": sorted(wishes.exclude),
            "allowed": None if wishes.allowed is None else sorted(wishes.allowed),
            "fallback": wishes.fallback,
        }


def _inline(part: dict[str, Any]) -> bool:
    if part["type"] != "image_url":
        return part["type"] in INLINE
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    return isinstance(url, str) and url.startswith("data:")


def _choices(body: bytes) -> list[Any]:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return []
    choices = answer.get("choices") if isinstance(answer, dict) else None
    return choices if isinstance(choices, list) else []


def _choices_of(events: bytes) -> list[Any]:
    """The last word on every choice of a stream."""
    last: dict[Any, Any] = {}
    for line in events.splitlines():
        if line.startswith(b"data:"):
            for choice in _choices(line[5:]):
                if isinstance(choice, dict):
                    index = str(choice.get("index"))
                    last[index] = choice if choice.get("finish_reason") else last.get(index, choice)
    return list(last.values())


def _ended(choices: list[Any]) -> bool:
    return bool(choices) and all(
        isinstance(choice, dict) and choice.get("finish_reason") in FINISHED for choice in choices
    )
