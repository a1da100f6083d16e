"""`POST /v1/embeddings`: passed through to an embedding endpoint, or answered by the gateway's own encoder."""

import asyncio
import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from gateway.chat_request import parse_object
from router.embedding import Encoder, Vectors
from router.errors import InvalidRequest, UnknownModel
from router.experts.base import Call
from router.pilots import Pilots

SURFACE = "embeddings"
MAX_INPUTS = 2048  # OpenAI's own limit
PILOTED = 8  # texts of one request by which its expert is chosen
AT_ONCE = 4  # texts of one request in the encoder's queue, so that routing never waits behind a large request


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    """`expert` is None where the local encoder answers."""

    body: dict[str, Any]
    expert: str | None
    routed: bool  # the caller left the choice to us
    texts: list[str] | None  # None: token lists, which only an upstream can read
    input_tokens: int


def parse_embeddings(data: bytes, experts: tuple[str, ...], local: str | None) -> EmbeddingsRequest:
    """`auto` is the first embedding expert, or the local encoder where there is none. Both may be missing."""
    body = parse_object(data)
    body.pop("routing", None)
    names = experts if local is None else (*experts, local)
    model = body.get("model")
    routed = model == "auto"
    if routed and names:
        model = names[0]
    if not isinstance(model, str) or not model:
        raise InvalidRequest("model: expected an embedding model's name", param="model")
    if model not in names:
        there = ", ".join(("auto", *names)) if names else "none"
        raise UnknownModel(f"no embedding model is called {model[:200]!r}; there are: {there}", param="model")
    texts = read_texts(body.get("input"))
    size = sum(map(len, texts)) // 4 if texts is not None else len(body["input"])
    return EmbeddingsRequest(body, None if model == local else model, routed, texts, size)


def read_texts(given: Any) -> list[str] | None:
    """The texts of an `input`; None for tokens. Raises `InvalidRequest`."""
    if isinstance(given, str) and given:
        return [given]
    if not isinstance(given, list) or not given:
        raise InvalidRequest("input: expected a text or a list of texts, none of them empty", param="input")
    if len(given) > MAX_INPUTS:
        raise InvalidRequest(f"input: at most {MAX_INPUTS} texts, got {len(given)}", param="input")
    if all(isinstance(text, str) and text for text in given):
        return given
    rows = given if isinstance(given[0], list) else [given]
    if all(isinstance(row, list) and row and all(type(token) is int for token in row) for row in rows):
        return None
    raise InvalidRequest("input: expected texts or lists of tokens, none of them empty", param="input")


def call_of(surface: str, body: dict[str, Any], input_tokens: int, timeout_s: float, request_id: str) -> Call:
    return Call(
        surface=surface,
        body=body,
        deadline=asyncio.get_running_loop().time() + timeout_s,
        request_id=request_id,
        input_tokens=input_tokens,
    )


async def closeness_of(
    request: EmbeddingsRequest, pilots: Pilots | None, encoder: Encoder | None
) -> dict[str, float]:
    """How close the request's texts are to every expert's pilots; empty where there are none, or only tokens.

    One call is one expert's, so many texts are one: of a long list a few are read.
    """
    if pilots is None or encoder is None or request.texts is None:
        return {}
    some = request.texts[:: -(-len(request.texts) // PILOTED)]
    return pilots.closeness([await encoder.encode(text, keep=False) for text in some])


async def encode_locally(request: EmbeddingsRequest, encoder: Encoder) -> bytes:
    """The local encoder's answer in OpenAI's shape; `dimensions` and token lists are beyond it."""
    if request.texts is None:
        raise InvalidRequest("input: the local encoder reads texts, not tokens", param="input")
    dimensions = request.body.get("dimensions")
    if dimensions not in (None, encoder.dimension):
        raise InvalidRequest(
            f"dimensions: {encoder.name} has {encoder.dimension}, got {str(dimensions)[:100]!r}", param="dimensions"
        )
    form = request.body.get("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise InvalidRequest(
            f"encoding_format: expected float or base64, got {str(form)[:100]!r}", param="encoding_format"
        )
    vectors: list[Vectors] = []
    for start in range(0, len(request.texts), AT_ONCE):
        part = request.texts[start : start + AT_ONCE]
        vectors += await asyncio.gather(*(encoder.encode(text, keep=False) for text in part))
    usage = {"prompt_tokens": request.input_tokens, "total_tokens": request.input_tokens}
    rows = [
        {"object": "embedding", "index": i, "embedding": _written(vector, form)} for i, vector in enumerate(vectors)
    ]
    return orjson.dumps({"object": "list", "data": rows, "model": encoder.name, "usage": usage})


def _written(vector: Vectors, form: str) -> str | list[float]:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(x) for x in np.asarray(vector)]
