"""What a provider says a call used, in the one shape of `router.types.Usage`.

OpenAI's chat API is the measure: `prompt_tokens` is all input, what was read from a cache, recordings and images
included; `completion_tokens` is all output, thoughts included; `*_tokens_details` say what of them is of which
kind. Where others differ:

- cache reads: DeepSeek's `prompt_cache_hit_tokens`, Moonshot's and Together's `cached_tokens`, part of the prompt
- cache writes: OpenRouter's `prompt_tokens_details.cache_write_tokens`, litellm's and DashScope's
  `cache_creation_*`, part of the prompt too, of which Anthropic's one-hour writes are told apart where they are
- Anthropic's own shape: `input_tokens` leave out what was read from a cache and what was written to it
- xAI's and Gemini's chat APIs leave thoughts out of `completion_tokens`; `total_tokens` counts them. So what a
  total has beyond prompt and completion is output that was thought, or, where it is just what the caches count,
  input
- Jina and Voyage report a total alone: that is input

Counts that no call of that size can come to are not believed: they would spend a budget in one answer. What was
used is estimated then, and marked so.
"""

import logging
from typing import Any

from router.experts.base import Call
from router.types import PLAIN, ExpertSpec, Parts, Usage

#: Counts over so many times the expert's context, or the prompt's own size where that is more, are not believed. Of
#: an answer the window is the most there is; the rest is for windows that nobody has told us.
BELIEVED_TIMES = 8
MOST_TOKENS = 1_000_000_000  # a count above it is no count: it would only overflow whatever sums it

log = logging.getLogger(__name__)

_NO_DETAILS: dict[str, Any] = {}


def believed(answer: dict[str, Any], call: Call, spec: ExpertSpec, *, quiet: bool = False) -> Usage | None:
    """As `usage_of`; None, and a line in the log, for more tokens than the call can have come to.

    `quiet`: without the line, since it was said of this call.
    """
    usage = usage_of(answer)
    if usage is None:
        return None
    answers = call.body.get("n")
    window = BELIEVED_TIMES * spec.context_tokens
    most = max(window, BELIEVED_TIMES * call.input_tokens), window * (answers if type(answers) is int else 1)
    if usage.input_tokens <= most[0] and usage.output_tokens <= most[1]:
        return usage
    if not quiet:
        _doubt(usage, most, call, spec)
    return None


def _doubt(usage: Usage, most: tuple[int, int], call: Call, spec: ExpertSpec) -> None:
    log.warning(
        "request=%s expert %r reports %d tokens in and %d out, where at most %d and %d are believed: estimated",
        call.request_id,
        spec.name,
        usage.input_tokens,
        usage.output_tokens,
        *most,
    )


def usage_of(answer: dict[str, Any]) -> Usage | None:
    """The usage that an answer or a chunk reports; None where it has none or it is not one."""
    usage = answer.get("usage")
    return read_usage(usage) if isinstance(usage, dict) else None


def usage_body(usage: Usage, reported: Any = None) -> dict[str, Any]:
    """`usage` as OpenAI's chat API writes it, whatever the provider `reported`; details where anything is known.

    What was written to a prompt cache comes on top, where anything was: the bills of those who charge for it depend
    on it, and Anthropic's API tells it.
    """
    said = reported if isinstance(reported, dict) else _NO_DETAILS
    body: dict[str, Any] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
    written, an_hour, heard, _, spoken, _, thought = usage.parts
    if usage.cached_tokens or written or heard or _details(said, "prompt_tokens_details"):
        body["prompt_tokens_details"] = read = {"cached_tokens": usage.cached_tokens, "audio_tokens": heard}
        if written:
            read["cache_write_tokens"] = written
        if an_hour:
            split = {"ephemeral_5m_input_tokens": written - an_hour, "ephemeral_1h_input_tokens": an_hour}
            body["prompt_tokens_details"] = {**read, "cache_creation_token_details": split}
    foretold = _details(said, "completion_tokens_details")
    if thought or spoken or foretold:
        body["completion_tokens_details"] = {
            "reasoning_tokens": thought,
            "audio_tokens": spoken,
            "accepted_prediction_tokens": _first(foretold.get("accepted_prediction_tokens")),
            "rejected_prediction_tokens": _first(foretold.get("rejected_prediction_tokens")),
        }
    return body


def input_usage_body(usage: Usage) -> dict[str, int]:
    """The same of what answers without words: embeddings, rerank."""
    return {"prompt_tokens": usage.input_tokens, "total_tokens": usage.input_tokens}


def read_usage(usage: dict[str, Any]) -> Usage | None:
    """None for what is no usage."""
    if "prompt_tokens" in usage or "completion_tokens" in usage:
        given, said = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    elif "input_tokens" in usage or "output_tokens" in usage:
        return _messages(usage)
    elif "total_tokens" in usage:
        given, said = _count(usage["total_tokens"]), 0
    else:
        return None
    if given is None or said is None:
        return None
    read, wrote = _details(usage, "prompt_tokens_details"), _details(usage, "completion_tokens_details")
    if read is _NO_DETAILS and wrote is _NO_DETAILS and len(usage) <= 3:  # most answers
        given, said, hidden = _whole(usage, given, said, 0)
        return Usage(given, said, parts=Parts(reasoning_tokens=hidden)) if hidden else Usage(given, said)
    cached = _first(read.get("cached_tokens"), usage.get("prompt_cache_hit_tokens"), usage.get("cached_tokens"))
    written, an_hour = _writes(usage, read)
    given, said, hidden = _whole(usage, given, said, cached + written)
    parts = Parts(
        cache_write_tokens=written,
        cache_write_1h_tokens=an_hour,
        audio_input_tokens=_first(read.get("audio_tokens")),
        image_input_tokens=_first(read.get("image_tokens")),
        audio_output_tokens=_first(wrote.get("audio_tokens")),
        image_output_tokens=_first(wrote.get("image_tokens")),
        reasoning_tokens=max(_first(wrote.get("reasoning_tokens")), hidden),
    )
    return _clamped(given, said, cached, parts)


def _messages(usage: dict[str, Any]) -> Usage | None:
    """Anthropic's shape, or that of OpenAI's Responses, whose input counts what was cached."""
    given, said = _count(usage.get("input_tokens")), _count(usage.get("output_tokens"))
    if given is None or said is None:
        return None
    read, wrote = _details(usage, "input_tokens_details"), _details(usage, "output_tokens_details")
    cached = _first(read.get("cached_tokens"), usage.get("cache_read_input_tokens"))
    written, an_hour = _writes(usage, read)
    if "input_tokens_details" not in usage:
        given += cached + written
    parts = Parts(
        cache_write_tokens=written,
        cache_write_1h_tokens=an_hour,
        audio_input_tokens=_first(read.get("audio_tokens")),
        image_input_tokens=_first(read.get("image_tokens")),
        audio_output_tokens=_first(wrote.get("audio_tokens")),
        image_output_tokens=_first(wrote.get("image_tokens")),
        reasoning_tokens=_first(wrote.get("reasoning_tokens")),
    )
    return _clamped(given, said, cached, parts)


def _writes(usage: dict[str, Any], details: dict[str, Any]) -> tuple[int, int]:
    """Tokens written to a prompt cache, and those of them that are kept for an hour."""
    split = (
        _details(details, "cache_creation_token_details")
        or _details(details, "cache_creation")
        or _details(usage, "cache_creation")
    )
    an_hour = _first(split.get("ephemeral_1h_input_tokens"))
    written = _first(
        details.get("cache_write_tokens"),
        details.get("cache_creation_tokens"),
        details.get("cache_creation_input_tokens"),
        usage.get("cache_creation_input_tokens"),
    )
    return max(written, an_hour + _first(split.get("ephemeral_5m_input_tokens"))), an_hour


def _whole(usage: dict[str, Any], given: int, said: int, kept: int) -> tuple[int, int, int]:
    """Input, output, and the thoughts that only the total counts. `kept`: tokens read from caches and written."""
    more = (_count(usage.get("total_tokens")) or 0) - given - said
    if more <= 0:
        return given, said, 0
    return (given + more, said, 0) if more == kept else (given, said + more, more)


def _clamped(given: int, said: int, cached: int, parts: Parts) -> Usage:
    """No kind has more tokens than there are: what an account shows adds up."""
    if parts == PLAIN:
        return Usage(given, said, min(cached, given))
    most = (given, given, given, given, said, said, said)
    return Usage(given, said, min(cached, given), parts=Parts(*map(min, parts, most)))


def _details(usage: dict[str, Any], name: str) -> dict[str, Any]:
    found = usage.get(name)
    return found if isinstance(found, dict) else _NO_DETAILS


def _first(*values: Any) -> int:
    """The first of them that is a number of tokens above zero; else zero."""
    return next((count for value in values if (count := _count(value))), 0)


def _count(value: Any) -> int | None:
    """A number of tokens; a missing one is zero, and None is what is no number of tokens."""
    if value is None:
        return 0
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None
