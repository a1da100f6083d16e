"""One simulated answer in the shapes of OpenAI's API, whole or as server-sent events."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from router.experts.reply import Reply
from router.experts.sse import DONE, event, usage_event
from router.experts.usage import usage_body
from router.types import Price, Usage


@dataclass(frozen=True, slots=True)
class Script:
    """All that one answer will be, before any time has passed."""

    reply: Reply
    usage: Usage
    frame: dict[str, Any]  # id, created, model
    simulated: dict[str, Any]
    logprobs: bool = False

    def answer(self) -> bytes:
        """The body of an answer that is not streamed."""
        reply = self.reply
        message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
        if reply.tool is not None:
            message |= {"content": None, "tool_calls": [self._tool_call(reply.text)]}
        choice = {"message": message, "logprobs": self._logprobs(reply.pieces), "finish_reason": reply.finish}
        return orjson.dumps(
            self.frame
            | {
                "object": "chat.completion",
                "choices": [{"index": index, **choice} for index in range(reply.choices)],
                "usage": usage_body(self.usage),
                "simulated": self.simulated,
            }
        )

    def steps(self, price: Price | None, took_s: float) -> Iterator[bytes]:
        """The events of each token, then, as one step, what ends the stream. `price`: of the usage, if asked for;
        `took_s`: how long all of it takes.

        The role comes with the first token. Every event has the same id and an explicit `finish_reason`.
        """
        frame = self.frame | {"object": "chat.completion.chunk"}
        rest = {} if price is None else {"usage": None}
        opening = self._opening()
        for piece in self.reply.pieces:
            yield self._events(frame, opening, None, rest) + self._events(
                frame, self._delta(piece), self._logprobs((piece,)), rest
            )
            opening = None
        ending = self._events(frame, opening, None, rest)
        ending += self._events(frame, {}, None, rest | {"simulated": self.simulated}, self.reply.finish)
        if price is not None:
            ending += usage_event(frame, self.usage, price, took_s)
        yield ending + DONE

    def _events(
        self,
        frame: dict[str, Any],
        delta: dict[str, Any] | None,
        logprobs: dict[str, Any] | None,
        rest: dict[str, Any],
        finish: str | None = None,
    ) -> bytes:
        if delta is None:
            return b""
        choice = {"delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return b"".join(
            event(frame | {"choices": [{"index": index, **choice}]} | rest) for index in range(self.reply.choices)
        )

    def _opening(self) -> dict[str, Any] | None:
        if self.reply.tool is None:
            return {"role": "assistant", "content": "", "refusal": None}
        return {"role": "assistant", "content": None, "tool_calls": [{"index": 0} | self._tool_call("")]}

    def _delta(self, piece: str) -> dict[str, Any]:
        if self.reply.tool is None:
            return {"content": piece}
        return {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}

    def _tool_call(self, arguments: str) -> dict[str, Any]:
        function = {"name": self.reply.tool, "arguments": arguments}
        return {"id": "call_" + str(self.frame["id"]), "type": "function", "function": function}

    def _logprobs(self, pieces: tuple[str, ...]) -> dict[str, Any] | None:
        if not self.logprobs or self.reply.tool is not None:
            return None
        tokens = [
            {"token": piece, "logprob": 0.0, "bytes": list(piece.encode()), "top_logprobs": []} for piece in pieces
        ]
        return {"content": tokens, "refusal": None}
