"""Logs of OpenAI-style calls as JSON lines: a request and its response, with whatever the logger added.

Three shapes are read: `request` and `response` side by side (each an object, JSON text, or with its content in
`body`); LiteLLM's standard payload (`messages`, `response`, `model`, `prompt_tokens`, `completion_tokens`,
`response_cost`, `response_time`, `status`); and a record that is itself a request with `usage` (`messages`,
`model`). The prompt is what the router embeds of the messages. Latency: `latency_s`, `latency`, `response_time` or
`duration_s` in seconds, `latency_ms` or `duration_ms`, or `startTime` and `endTime`. Rating: `score`, `feedback`
or `rating`, in the record or in its `metadata`; a log that has none gives costs and lengths, but nothing to learn
quality from. Failed calls are no outcomes. Sources: the OpenAI API reference (chat completions, responses);
docs.litellm.ai/docs/proxy/logging_spec; portkey.ai/docs/portkey-endpoints/logs.
"""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from router.conversation import query_text
from training.importers.base import Importer, Row, Skipped, first_amount, first_of, has, rating
from training.records import Record

SECONDS = ("latency_s", "latency", "response_time", "duration_s")
MILLISECONDS = ("latency_ms", "duration_ms", "response_time_ms")
COSTS = ("cost_usd", "response_cost", "cost")
FAILURES = frozenset({"failure", "failed", "error"})


class OpenAILog(Importer):
    summary: ClassVar[str] = "logs of OpenAI-style requests and responses (JSON lines)"
    unique_ids: ClassVar[bool] = True

    def recognises(self, head: Sequence[Record]) -> bool:
        paired = has(head, "request", "response")
        return paired or (has(head, "messages") and (has(head, "response") or has(head, "usage")))

    def read(self, record: Record) -> Iterator[Row | Skipped]:
        request = _body(record, "request") if "request" in record.fields else record
        response = _body(record, "response")
        if _failed(record, response):
            yield Skipped("calls that failed")
            return
        prompt = _prompt(request)
        model = first_of(response, "model") or first_of(request, "model") or first_of(record, "model")
        if not prompt or model is None:
            yield Skipped("calls without a text" if model else "calls that name no model")
            return
        usage = response.inside("usage") if "usage" in response.fields else record.inside("usage")
        score, column = rating(record)
        if math.isnan(score) and isinstance(record.fields.get("metadata"), dict | str):
            score, column = rating(record.inside("metadata"))
        yield Row(
            record,
            prompt,
            model,
            score,
            column,
            query_id=first_of(response, "id") or first_of(record, "id", "request_id"),
            input_tokens=_tokens(usage, record, "prompt_tokens", "input_tokens"),
            output_tokens=_tokens(usage, record, "completion_tokens", "output_tokens"),
            cost_usd=first_amount(record, *COSTS),
            latency_s=_latency(record),
            cost_kind="given",
        )


def _body(record: Record, column: str) -> Record:
    """The request or response itself, out of what the logger wrapped around it; empty where it is plain text."""
    value: Any = record.fields.get(column)
    if isinstance(value, str) and not value.lstrip().startswith("{"):
        return Record(record.path, record.row, {}, f"{column}.")
    inner = record.inside(column)
    return inner.inside("body") if "body" in inner.fields else inner


def _failed(record: Record, response: Record) -> bool:
    wrapped: Any = record.fields.get("response")
    codes = [record.fields.get("status_code"), record.fields.get("status")]
    if isinstance(wrapped, dict):
        codes += [wrapped.get("status_code"), wrapped.get("status")]
    return (
        bool(response.fields.get("error"))
        or bool(record.fields.get("error"))
        or any((isinstance(code, int) and code >= 400) or str(code).lower() in FAILURES for code in codes)
    )


def _prompt(request: Record) -> str:
    """What the router embeds of a chat, or of the input of the responses and completions APIs."""
    for column in ("messages", "input", "prompt"):
        value: Any = request.fields.get(column)
        if isinstance(value, str) and value.lstrip().startswith('[{"'):
            value = _messages(value)
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, list) and (text := query_text(value)).strip():
            return text
    return ""


def _messages(text: str) -> Any:
    """Messages that were logged as JSON text; the text where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _tokens(usage: Record, record: Record, *names: str) -> float:
    found = first_amount(usage, *names)
    return first_amount(record, *names) if math.isnan(found) else found


def _latency(record: Record) -> float:
    seconds = first_amount(record, *SECONDS)
    if math.isnan(seconds):
        seconds = first_amount(record, *MILLISECONDS) / 1_000
    if math.isnan(seconds) and isinstance(record.fields.get("startTime"), int | float):
        seconds = record.number("endTime") - record.number("startTime")
    return seconds
