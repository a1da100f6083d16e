"""The vectors of many prompts, computed once: kept on disk by the encoder's revision and the prompt's digest.

Shards of a few thousand vectors are written as they are made, each whole or not at all, so an interrupted run goes
on where it stopped.
"""

import hashlib
import io
import os
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from router.errors import EncoderError
from router.files import write_whole
from router.types import Floats
from training.jobs import Jobs
from training.memory import check_fits

SHARD_PROMPTS = 2_048


class Encodes(Protocol):
    """What is needed of `router.embedding.Encoder`, loaded."""

    name: str
    revision: str
    dimension: int

    def encode_batch(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> Floats: ...


class VectorCache:
    """The vectors of one encoder. `folder` holds those of all; default: the user's cache directory."""

    def __init__(self, encoder: Encodes, folder: Path | None = None) -> None:
        self._encoder = encoder
        safe_name = encoder.name.rpartition("/")[2] or "encoder"
        self._folder = (folder or user_cache() / "vectors") / f"{safe_name}-{encoder.revision}-{encoder.dimension}"

    def embed(
        self,
        prompts: Sequence[str],
        progress: Callable[[int], None] | None = None,
        jobs: Jobs | None = None,
    ) -> Floats:
        """Vectors [n, d] float32 in the order of `prompts`. `progress` is called with the number just done.

        With `jobs`, their workers encode, each with an encoder of its own. Raises `DataError` where the vectors
        cannot fit into memory.
        """
        check_fits(4 * len(prompts) * self._encoder.dimension, len(prompts), self._measure)
        slots: dict[bytes, int] = {}  # of each distinct prompt
        place = np.array([slots.setdefault(_key(prompt), len(slots)) for prompt in prompts], dtype=np.intp)
        vectors = np.empty((len(slots), self._encoder.dimension), dtype=np.float32)
        known = self._read(slots, vectors)
        _, first = np.unique(place, return_index=True)
        missing = [prompts[row] for row in first[~known]]
        if progress is not None:
            progress(len(prompts) - len(missing))
        parts = [missing[start : start + SHARD_PROMPTS] for start in range(0, len(missing), SHARD_PROMPTS)]
        for part, made in self._encoded(parts, progress, jobs):
            keys = [_key(prompt) for prompt in part]
            self._write(keys, made)
            vectors[[slots[key] for key in keys]] = made
        return vectors if len(slots) == len(prompts) else vectors[place]

    @property
    def _measure(self) -> str:
        return f"vectors of {self._encoder.dimension} numbers"

    def _encoded(
        self, parts: Sequence[list[str]], progress: Callable[[int], None] | None, jobs: Jobs | None
    ) -> Iterator[tuple[list[str], Floats]]:
        if jobs is None:
            for part in parts:
                yield part, self._encoder.encode_batch(part, progress)
            return
        shards = (Shard(self._encoder.name, self._encoder.revision, tuple(part)) for part in parts)
        for shard, made in jobs.run(encode, shards):
            if progress is not None:
                progress(len(shard.prompts))
            yield list(shard.prompts), made

    def _read(self, slots: Mapping[bytes, int], vectors: Floats) -> NDArray[np.bool_]:
        """Fills in what is kept; which slots that was."""
        known = np.zeros(len(slots), dtype=bool)
        for path in sorted(self._folder.glob("*.npz")):
            try:
                with np.load(path, allow_pickle=False) as shard:
                    found = [(row, slots.get(key.tobytes())) for row, key in enumerate(shard["keys"])]
                    wanted = [(row, slot) for row, slot in found if slot is not None]
                    if not wanted:
                        continue
                    rows, filled = (list(column) for column in zip(*wanted, strict=True))
                    vectors[filled] = shard["vectors"][rows]
            except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
                path.unlink(missing_ok=True)  # damaged: made again, at the price of some seconds
                continue
            known[filled] = True
        return known

    def _write(self, keys: list[bytes], vectors: Floats) -> None:
        content = io.BytesIO()
        digests = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), -1)
        np.savez(content, keys=digests, vectors=vectors.astype(np.float32))
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._folder / f"{uuid.uuid4().hex}.npz", content.getvalue())


@dataclass(frozen=True)
class Shard:
    """Prompts for a worker to encode, and with what."""

    encoder: str
    revision: str
    prompts: tuple[str, ...]


def encode(shard: Shard) -> Floats:
    """The vectors [n, d]. Raises `EncoderError` where the worker's encoder is another than the caller's."""
    encoder = _loaded(shard.encoder)
    if encoder.revision != shard.revision:
        raise EncoderError(
            f"a worker's encoder {shard.encoder!r} has the revision {encoder.revision}, here it is {shard.revision}"
        )
    return encoder.encode_batch(shard.prompts)


@lru_cache(maxsize=1)
def _loaded(name: str) -> Encodes:
    from router.config import EncoderSettings
    from router.embedding import Encoder

    encoder = Encoder(EncoderSettings(model=name))
    encoder.load()
    return encoder


def user_cache() -> Path:
    """Where this user's programs keep what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pointsman"


def _key(prompt: str) -> bytes:
    return hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=16).digest()
