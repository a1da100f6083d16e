"""Text to token ids, cut to the window; and rows of ids to batches of few shapes.

Knows nothing of graphs. Every new shape costs the runtime 5 to 30 ms and about a megabyte, so lengths are
rounded up to steps and the rows of a batch to powers of two.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from router.errors import EncoderError

CHARS_PER_TOKEN = 8  # a text of more characters than window * this is cut before it is tokenised
MOST_ROWS = 8  # more rows gain nothing
MOST_TOKENS = 512  # nor do more tokens
WASTE = 32  # padding worth one batch less: a call costs as much as about that many tokens


class Reads(Protocol):
    """How a model reads a text: what is needed of `router.encoder_folder.EncoderFolder`."""

    @property
    def tokenizer(self) -> Path | bytes: ...
    @property
    def window(self) -> int: ...
    @property
    def prefix(self) -> str: ...
    @property
    def lowercase(self) -> bool: ...


class Tokens:
    """Tokenises as the model was trained, save that a text longer than the window keeps its head and tail."""

    def __init__(self, model: Reads) -> None:
        from tokenizers import Tokenizer

        source = model.tokenizer
        try:
            self._tokenizer: Any = (
                Tokenizer.from_buffer(source) if isinstance(source, bytes) else Tokenizer.from_file(str(source))
            )
        except Exception as error:  # tokenizers raises nothing narrower
            name = "the tokenizer" if isinstance(source, bytes) else source
            raise EncoderError(f"cannot read {name}: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._window = model.window
        self._prefix = model.prefix
        self._lowercase = model.lowercase

    def shorten(self, text: str) -> str:
        """Head and tail of a text too long to matter whole: 8 MiB cost no more than 2,000 characters."""
        half = self._window * CHARS_PER_TOKEN // 2
        return text if len(text) <= 2 * half else f"{text[:half]} {text[-half:]}"

    def ids(self, text: str) -> list[int]:
        """Token ids, special ones included, at most a window of them."""
        text = self._prefix + self.shorten(text)
        if self._lowercase:
            text = text.lower()
        ids: list[int] = self._tokenizer.encode(text).ids
        half = self._window // 2
        return ids if len(ids) <= self._window else ids[: self._window - half] + ids[-half:]


def valid(text: str) -> str:
    """The text without lone surrogates, which no tokenizer takes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows computed together, each padded to `length` tokens."""

    rows: tuple[int, ...]
    length: int

    def arrays(self, ids: Sequence[Sequence[int]], pad_id: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(ids, mask), both [b, t]."""
        tokens = np.full((len(self.rows), self.length), pad_id, np.int32)
        mask = np.zeros(tokens.shape, np.float32)
        for i, row in enumerate(self.rows):
            tokens[i, : len(ids[row])] = ids[row]
            mask[i, : len(ids[row])] = 1
        return tokens, mask


def padded(length: int, window: int) -> int:
    """The length that a text of `length` tokens is padded to: at most 15 more, or an eighth, if that is more."""
    step = 1 << (max(length - 1, 64).bit_length() - 3)
    return min(-(-length // step) * step, window)


def batches(ids: Sequence[Sequence[int]], window: int) -> Iterator[Batch]:
    """Every row once, the short ones first, so that they never wait for a long one."""
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    while order:
        lengths = [padded(len(ids[row]), window) for row in order[:MOST_ROWS]]
        size = 1
        # as many of the next as fit beside the shortest without much padding
        while 2 * size <= len(lengths):
            length = lengths[2 * size - 1]
            if 2 * size * length > MOST_TOKENS or length - lengths[0] > WASTE:
                break
            size *= 2
        yield Batch(tuple(order[:size]), lengths[size - 1])
        order = order[size:]


def shapes(window: int) -> list[tuple[int, int]]:
    """Every (rows, length) that `batches` can ask for, single rows first."""
    lengths = sorted({padded(length, window) for length in range(1, window + 1)})
    sizes = [1 << power for power in range(MOST_ROWS.bit_length())]
    return [(b, t) for b in sizes for t in lengths if b == 1 or b * t <= MOST_TOKENS]
