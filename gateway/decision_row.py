"""What the decision log keeps of a request that is over."""

import time

import orjson

from gateway.chat_request import ChatRequest
from router.experts.pool import Attempt
from router.keys.records import KeyRecord
from router.ledger.decision_rows import Ending, Keep, Row, kept
from router.types import Decision, Usage, Wishes


class Outcome:
    """What came of a request, gathered on its way; only where decisions are logged."""

    __slots__ = ("at", "cost_nano", "ended", "expert", "last_nano", "request", "ttft_s", "usage")

    def __init__(self, request: ChatRequest) -> None:
        self.at = time.time()
        self.request = request
        self.ended: Ending = "failed"
        self.expert: str | None = None
        self.usage = Usage()
        self.cost_nano = 0  # of all attempts that cost something
        self.last_nano = 0  # of the last of them
        self.ttft_s: float | None = None

    def spent(self, usage: Usage, cost_nano: int) -> None:
        self.usage, self.last_nano = usage, cost_nano
        self.cost_nano += cost_nano

    def row(
        self,
        decision: Decision,
        attempts: list[Attempt],
        *,
        request_id: str,
        caller: str,
        key: KeyRecord | None,
        wishes: Wishes,
        took_s: float,
        keep: Keep,
    ) -> Row:
        chosen, usage = decision.order[0], self.usage
        candidates = decision.candidates()
        # where another one served, what the chosen one was drawn with says nothing of it
        drawn = next((c.propensity for c in candidates if c.expert == chosen == self.expert), 0.0)
        text = self.request.query(caller).text if keep in ("full", "hash") else ""
        return {
            "kind": "decision",
            "decision_id": decision.id,
            "request_id": request_id,
            "at": self.at,
            "caller": caller,
            "key_id": None if key is None else key.id,
            "team": None if key is None else key.team,
            "tags": [] if key is None else list(key.tags),
            "policy": decision.policy,
            "preference": decision.preference,
            "wishes": orjson.dumps(wishes, default=sorted).decode(),
            "candidates": [
                {
                    "expert": one.expert,
                    "quality": one.quality,
                    "std": one.std,
                    "cost_usd": one.cost_usd,
                    "propensity": one.propensity,
                }
                for one in candidates
            ],
            "chosen": chosen,
            "propensity": drawn or None,
            "attempts": [
                {"expert": one.expert, "failure": None if one.failure is None else one.failure.kind}
                for one in attempts
            ],
            "expert": self.expert,
            "input_tokens": usage.input_tokens,
            "cached_tokens": usage.cached_tokens,
            "output_tokens": usage.output_tokens,
            "estimated": usage.estimated,
            **usage.parts._asdict(),
            "cost_nano": self.cost_nano,
            "cost_usd": self.last_nano / 1e9,
            "ttft_s": self.ttft_s,
            "latency_s": took_s,
            "streamed": self.request.stream,
            "ended": self.ended,
            "ok": self.ended == "ok",
            **kept(text, decision.vector, keep),
        }
