"""No model at all: latency, tokens and quality as configured, or replayed from a table of outcomes.

It ships: the demo runs on it, and so do the tests. Every answer carries, beside what OpenAI's API promises, the
field `simulated` (in a stream: on the chunk with the finish reason): `quality`, the probability of a right answer
or the recorded score; `correct`, drawn from the hash of seed, model and prompt, so that the same question has the
same fate every time; and, where a table is replayed, `replayed`: false for a prompt that the table does not have,
which is then answered as configured.
"""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from hashlib import blake2b
from typing import Any

import numpy as np
import orjson

from router.config_experts import SimulatedSettings
from router.errors import ExpertError
from router.experts.base import Answer, Call, Expert, Stream
from router.experts.replay import Outcome, Replay
from router.experts.reply import Refused, last_user_text, whole_number, write_reply
from router.experts.script import Script
from router.types import ExpertSpec, Usage

EMBEDDING_SIZE = 384
SURFACES = ("chat/completions", "embeddings")
NO_WAIT_S = 0.0005  # a shorter wait is not worth a trip through the event loop


class SimulatedExpert(Expert):
    """`ttft_s` passes before the first token and `token_s` before each next one, replayed or not."""

    def __init__(self, settings: SimulatedSettings, spec: ExpertSpec) -> None:
        self.spec = spec
        self._settings = settings
        self._model = settings.model or settings.name
        self._replay: Replay | None = None

    async def open(self) -> None:
        """Reads the table to replay. Raises `ConfigError`."""
        replay = self._settings.replay
        if replay is not None:
            self._replay = await asyncio.to_thread(Replay.load, replay.table, replay.model)

    async def close(self) -> None:
        self._replay = None

    async def complete(self, call: Call) -> Answer:
        started = asyncio.get_running_loop().time()
        steps = 0
        try:
            if call.surface == "embeddings":
                body, usage = _embeddings(self.spec.name, call)
            else:
                script = self._script(call)
                body, usage = script.answer(), script.usage
                steps = max(len(script.reply.pieces) - 1, 0)
        except Refused as refused:
            raise self._refusal(refused) from None
        due = started + self._settings.ttft_s + steps * self._settings.token_s
        await self.wait_until(due, self._limit(call, started))
        return Answer(body=body, usage=usage, ttft_s=asyncio.get_running_loop().time() - started)

    async def stream(self, call: Call) -> Stream:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            if call.surface == "embeddings":
                raise Refused("embeddings cannot be streamed", "stream")
            script = self._script(call)
        except Refused as refused:
            raise self._refusal(refused) from None
        await self.wait_until(started + self._settings.ttft_s, self._limit(call, started))
        return SimulatedStream(self, script, call, (loop.time() - started, self._settings.token_s))

    async def probe(self) -> str:
        if self._replay is not None and self._settings.replay is not None:
            return f"simulated: replays {len(self._replay)} prompts of {self._settings.replay.model}"
        return f"simulated: right with probability {self._settings.quality:g}"

    async def wait_until(self, due: float, deadline: float) -> None:
        """Waits until `due` on the loop's clock. Raises `ExpertError` when the deadline comes first."""
        now = asyncio.get_running_loop().time()
        if due > deadline:
            await asyncio.sleep(max(deadline - now, 0.0))
            raise ExpertError(self.spec.name, "timeout", "the simulated answer was not due in time")
        if due - now > NO_WAIT_S:
            await asyncio.sleep(due - now)

    def _limit(self, call: Call, started: float) -> float:
        # an answer that is not streamed has its first byte when it is whole
        return min(call.deadline, call.first_byte_by, started + self._settings.first_byte_timeout_s)

    def _script(self, call: Call) -> Script:
        if call.surface not in SURFACES:
            raise Refused(f"a simulated expert answers {' and '.join(SURFACES)}, not {call.surface}", "model", 404)
        text = last_user_text(call.body)
        outcome = self._replay.find(text) if self._replay is not None else None
        tokens = outcome.output_tokens if outcome is not None else None
        reply = write_reply(self.spec.name, call.body, self._settings.output_tokens if tokens is None else tokens)
        # a recorded length stands for JSON and tool calls too, unless the caller's limit cut the reply
        said = len(reply.pieces) if tokens is None or reply.finish == "length" else tokens
        recorded = outcome.input_tokens if outcome is not None else None
        given = recorded if recorded is not None else call.input_tokens or _rough_tokens(call.body)
        return Script(
            reply=reply,
            usage=Usage(input_tokens=given, output_tokens=said * reply.choices),
            frame={
                "id": f"chatcmpl-{call.request_id}",
                "created": int(time.time()),
                "model": self.spec.name,
            },
            simulated=self._fate(text, outcome),
            logprobs=call.body.get("logprobs") is True,
        )

    def _fate(self, text: str, outcome: Outcome | None) -> dict[str, Any]:
        quality = self._settings.quality if outcome is None else outcome.score
        fate: dict[str, Any] = {"quality": quality, "correct": self._draw(text) < quality}
        return fate | ({"replayed": outcome is not None} if self._replay is not None else {})

    def _draw(self, text: str) -> float:
        """Uniform in [0, 1), the same for the same seed, model and prompt."""
        key = f"{self._settings.seed}\0{self._model}\0{text}".encode("utf-8", "surrogatepass")
        return int.from_bytes(blake2b(key, digest_size=6).digest()) / 2**48

    def _refusal(self, refused: Refused) -> ExpertError:
        error = {
            "message": refused.message,
            "type": "invalid_request_error",
            "param": refused.param,
            "code": None,
        }
        body = orjson.dumps({"error": error})
        return ExpertError(self.spec.name, "caller", refused.message, status=refused.status, body=body)


class SimulatedStream(Stream):
    """Tokens leave when they are due; those that are due together leave together."""

    def __init__(self, expert: SimulatedExpert, script: Script, call: Call, pace: tuple[float, float]) -> None:
        """`pace`: seconds that the first token took, and those that each next one takes."""
        self.ttft_s, self._token_s = pace
        self._expert = expert
        self._script = script
        self._call = call
        self._produced = 0
        self._closed = False

    @property
    def usage(self) -> Usage:
        if self._produced > len(self._script.reply.pieces):
            return self._script.usage
        produced = self._produced * self._script.reply.choices
        return Usage(self._script.usage.input_tokens, produced, estimated=True)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        first = loop.time()
        ready: list[bytes] = []
        last = len(self._script.reply.pieces)
        price = self._expert.spec.price if self._call.include_usage else None
        took_s = self.ttft_s + max(last - 1, 0) * self._token_s
        for step, events in enumerate(self._script.steps(price, took_s)):
            # what ends the stream comes with the last token
            due = first + max(min(step, last - 1), 0) * self._token_s
            if due - loop.time() > NO_WAIT_S:
                if ready:
                    yield b"".join(ready)
                    ready.clear()
                await self._expert.wait_until(due, self._call.deadline)
            if self._closed:
                return
            ready.append(events)
            self._produced = step + 1
        yield b"".join(ready)

    async def aclose(self) -> None:
        self._closed = True


def _rough_tokens(body: dict[str, Any]) -> int:
    return len(orjson.dumps(body.get("messages") or body.get("input"))) // 4 + 1


def _embeddings(name: str, call: Call) -> tuple[bytes, Usage]:
    """Unit vectors drawn from the hash of each text: equal for equal texts, and no more than that."""
    size = whole_number(call.body, "dimensions", 1, 4096) or EMBEDDING_SIZE
    wanted = call.body.get("input")
    # one text, one list of tokens, or a list of either
    alone = isinstance(wanted, str) or (isinstance(wanted, list) and wanted[:1] and isinstance(wanted[0], int))
    inputs: Any = [wanted] if alone else wanted
    if not isinstance(inputs, list) or not inputs or not all(isinstance(one, str | list) for one in inputs):
        raise Refused("input must be a text, a list of tokens, or a non-empty list of either", "input")
    encoding = call.body.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise Refused(f"encoding_format must be float or base64, got {str(encoding)[:40]!r}", "encoding_format")
    data = [
        {"object": "embedding", "index": index, "embedding": _written(_vector(one, size), encoding)}
        for index, one in enumerate(inputs)
    ]
    tokens = call.input_tokens or _rough_tokens(call.body)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    body = {"object": "list", "data": data, "model": name, "usage": usage}
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), Usage(input_tokens=tokens)


def _vector(text: Any, size: int) -> Any:
    digest = blake2b(orjson.dumps(text), digest_size=16).digest()
    vector = np.random.default_rng(int.from_bytes(digest)).standard_normal(size)
    return (vector / np.linalg.norm(vector)).astype("<f4")


def _written(vector: Any, encoding: str) -> Any:
    return base64.b64encode(vector.tobytes()).decode() if encoding == "base64" else vector
