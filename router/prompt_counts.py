"""What can be counted in a prompt in a tenth of a millisecond: its hashed words, and some hundred numbers."""

import re
import zlib

import numpy as np
from numpy.typing import NDArray

from router.types import Context, Floats

BITS = 15  # of a word's bucket
TENANTS = 16  # places of tenants; those that share one are told apart by nothing else
KEPT_CHARS = 1_200  # of each end of a long prompt: instructions stand at its ends

_TOKEN = re.compile(r"[a-z]+|\d+|[^\sa-z\d]")
_NUMBER = re.compile(r"\d+")
_MARKS = (
    re.compile(r"\\frac|\\sqrt|\$"),
    re.compile(r"def |return|import "),
    re.compile(r"\b[a-j][).:]"),
    re.compile(r"_{2,}|\[mask"),
    re.compile(r"\b(?:not|except|least|false)\b"),
    re.compile(r"\b(?:if|then|all|every|some)\b"),
    re.compile(r"\b(?:how many|how much|total|percent)\b"),
    re.compile(r"\b(?:who|when|where|which year)\b"),
    re.compile(r"\b(?:prove|calculate|compute|find|determine|evaluate)\b"),
)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: Fibonacci hashing
_FIRST, _SECOND, _LOW = np.uint64(0x9E3779B1), np.uint64(0x85EBCA77), np.uint64(0xFFFFFFFF)
# the ASCII characters that are counted one by one: all but letters
_SINGLE = np.r_[33:65, 91:97, 123:127]


def shortened(prompt: str) -> str:
    return prompt if len(prompt) <= 2 * KEPT_CHARS else f"{prompt[:KEPT_CHARS]} {prompt[-KEPT_CHARS:]}"


def buckets(prompt: str) -> NDArray[np.int64]:
    """Buckets below 2**BITS of the words, the pairs of words, and the first and last words; numbers by length."""
    words = [f"#{min(len(w), 6)}" if w[0].isdigit() else w for w in _TOKEN.findall(shortened(prompt).lower())]
    single = np.array([zlib.crc32(word.encode("utf-8", "replace")) for word in words], dtype=np.uint64)
    pairs = (single[:-1] * _FIRST + single[1:] * _SECOND) & _LOW
    ends = (
        "^" + " ".join(words[:4]),
        "^" + " ".join(words[:2]),
        "$" + " ".join(words[-4:]),
        "$" + " ".join(words[-2:]),
    )
    edges = np.array([zlib.crc32(text.encode("utf-8", "replace")) for text in ends], dtype=np.uint64)
    return ((np.concatenate([single, pairs, edges]) * _SPREAD) >> np.uint64(64 - BITS)).astype(np.int64)


def counts(prompt: str) -> Floats:
    """Lengths, digits, lines, marks of code and maths, repetition, punctuation: [C], logarithms where unbounded."""
    text = shortened(prompt)
    raw = text.encode("utf-8", "replace")
    seen = np.bincount(np.frombuffer(raw, dtype=np.uint8), minlength=256)
    size = max(len(text), 1)
    upper, letters = int(seen[65:91].sum()), int(seen[65:91].sum() + seen[97:123].sum())
    digits = int(seen[48:58].sum())
    words, lines, numbers = text.split(), text.split("\n"), _NUMBER.findall(text)[:400]
    word_sizes, line_sizes, number_sizes = (
        [len(part) for part in parts] or [0] for parts in (words, lines, numbers)
    )
    values = [min(float(number), 1e12) for number in numbers] or [0.0]
    mean_word, mean_number = _mean(word_sizes), _mean(number_sizes)
    packed, distinct = len(zlib.compress(raw, 1)), len(set(words))
    unbounded = [
        *(len(prompt), len(text), len(words), digits, len(numbers), letters, upper, int(seen[128:].sum())),
        *(len(lines), max(line_sizes), min(line_sizes), _mean(line_sizes), line_sizes[-1], max(word_sizes)),
        *(max(values), _mean(values), values[0], values[-1], distinct, len(set(numbers)), int((seen > 0).sum())),
        *(text.count("\n\n"), sum(s <= 2 for s in line_sizes), sum(s == 1 for s in word_sizes), packed),
    ]
    lower = text.lower()
    marks = [len(mark.findall(lower)) for mark in _MARKS]
    shares = [
        *(digits / size, upper / size, distinct / max(len(words), 1), mean_word, _spread(word_sizes, mean_word)),
        *(mean_number, _spread(number_sizes, mean_number), max(number_sizes), packed / size, line_sizes[-1] / size),
    ]
    logarithms = np.log1p(np.array([*unbounded, *marks], dtype=float)), np.log1p(seen[_SINGLE])
    return np.concatenate([*logarithms, shares])


def context_numbers(context: Context) -> Floats:
    """Tools, images, the turn and whose request it is, by hash: what SpeechMoE2 (You et al., 2022) gives its router
    beside the input itself. [C']"""
    tenant = np.zeros(TENANTS)
    if context.tenant:
        tenant[zlib.crc32(context.tenant.encode("utf-8", "replace")) % TENANTS] = 1.0
    return np.concatenate([[context.tools, context.images, np.log1p(context.turn)], tenant])


def _mean(values: list[int] | list[float]) -> float:
    return sum(values) / len(values)


def _spread(values: list[int], mean: float) -> float:
    return float((sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5)
