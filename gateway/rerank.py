"""`POST /v1/rerank`: documents by their closeness to a query, in the shape that Cohere and Jina share.

Passed through to an expert that `serves: rerank`; without any, the scores are the cosines of the local encoder,
which is fast and no cross-encoder: it never reads query and document together.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from gateway.chat_request import parse_object
from gateway.embeddings import AT_ONCE
from router.embedding import Encoder, Vectors
from router.errors import InvalidRequest, UnknownModel

SURFACE = "rerank"
MAX_DOCUMENTS = 1000


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """`expert` is None where the local encoder answers; `texts` are the documents'."""

    body: dict[str, Any]
    expert: str | None
    routed: bool  # the caller left the choice to us
    query: str
    texts: list[str]
    top_n: int
    return_documents: bool
    input_tokens: int  # estimated; a cross-encoder reads the query once per document


def parse_rerank(data: bytes, experts: tuple[str, ...], local: str | None) -> RerankRequest:
    """`auto`, or no model, is the first rerank expert, or the local encoder where there is none."""
    body = parse_object(data)
    body.pop("routing", None)
    names = experts if local is None else (*experts, local)
    model = body.get("model", "auto")
    routed = model == "auto"
    if routed and names:
        model = names[0]
    if not isinstance(model, str) or model not in names:
        there = ", ".join(("auto", *names)) if names else "none"
        raise UnknownModel(f"no rerank model is called {str(model)[:200]!r}; there are: {there}", param="model")
    query, documents = body.get("query"), body.get("documents")
    if not isinstance(query, str) or not query:
        raise InvalidRequest("query: expected a text that is not empty", param="query")
    if not isinstance(documents, list) or not 0 < len(documents) <= MAX_DOCUMENTS:
        raise InvalidRequest(f"documents: expected a list of 1 to {MAX_DOCUMENTS} texts", param="documents")
    texts = [_text(document, i) for i, document in enumerate(documents)]
    top_n = body.get("top_n")
    if top_n is not None and (type(top_n) is not int or top_n < 1):
        raise InvalidRequest("top_n: expected an integer of at least 1", param="top_n")
    wants = body.get("return_documents")
    if wants is not None and not isinstance(wants, bool):
        raise InvalidRequest("return_documents: expected a boolean", param="return_documents")
    return RerankRequest(
        body=body,
        expert=None if model == local else model,
        routed=routed,
        query=query,
        texts=texts,
        top_n=min(top_n or len(texts), len(texts)),
        return_documents=wants is True,
        input_tokens=(sum(map(len, texts)) + len(query) * len(texts)) // 4,
    )


def _text(document: Any, i: int) -> str:
    text = document.get("text") if isinstance(document, dict) else document
    if not isinstance(text, str) or not text:
        raise InvalidRequest(
            f"documents[{i}]: expected a text, or an object with a `text`, not empty", param=f"documents[{i}]"
        )
    return text


async def rerank_locally(request: RerankRequest, encoder: Encoder) -> bytes:
    """Best first; documents of the same score keep their order."""
    vectors: list[Vectors] = [await encoder.encode(request.query, keep=False)]
    for start in range(0, len(request.texts), AT_ONCE):
        part = request.texts[start : start + AT_ONCE]
        vectors += await asyncio.gather(*(encoder.encode(text, keep=False) for text in part))
    scores = np.stack(vectors[1:]) @ vectors[0]
    best = np.argsort(-scores, kind="stable")[: request.top_n]
    results = [
        {"index": int(i), "relevance_score": float(scores[i])}
        | ({"document": {"text": request.texts[i]}} if request.return_documents else {})
        for i in best
    ]
    usage = {"prompt_tokens": request.input_tokens, "total_tokens": request.input_tokens}
    return orjson.dumps({"model": encoder.name, "results": results, "usage": usage})
