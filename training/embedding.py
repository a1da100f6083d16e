"""The vectors of many prompts, computed once: kept on disk by the encoder's revision and the prompt's digest.

Shards of a few thousand vectors are written as they are made, each whole or not at all, so an interrupted run goes
on where it stopped.
"""

import hashlib
import io
import os
import uuid
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from router.files import write_whole
from router.types import Floats

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

    def embed(self, prompts: Sequence[str], progress: Callable[[int], None] | None = None) -> Floats:
        """Vectors [n, d] float32 in the order of `prompts`. `progress` is called with the number just done."""
        keys = [_key(prompt) for prompt in prompts]
        known = self._read(set(keys))
        fresh = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in known}
        if progress is not None:
            progress(len(prompts) - len(fresh))
        missing = list(fresh.items())
        for start in range(0, len(missing), SHARD_PROMPTS):
            part = missing[start : start + SHARD_PROMPTS]
            vectors = self._encoder.encode_batch([prompt for _, prompt in part], progress)
            self._write([key for key, _ in part], vectors)
            known.update(zip((key for key, _ in part), vectors, strict=True))
        result = np.empty((len(prompts), self._encoder.dimension), dtype=np.float32)
        for i, key in enumerate(keys):
            result[i] = known[key]
        return result

    def _read(self, wanted: set[bytes]) -> dict[bytes, Floats]:
        known: dict[bytes, Floats] = {}
        for path in sorted(self._folder.glob("*.npz")):
            try:
                with np.load(path, allow_pickle=False) as shard:
                    keys, vectors = shard["keys"], shard["vectors"]
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                path.unlink(missing_ok=True)  # damaged: made again, at the price of some seconds
                continue
            for key, vector in zip(keys, vectors, strict=True):
                if (digest := key.tobytes()) in wanted:
                    known[digest] = vector
        return known

    def _write(self, keys: list[bytes], vectors: Floats) -> None:
        content = io.BytesIO()
        digests = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), -1)
        np.savez(content, keys=digests, vectors=vectors.astype(np.float32))
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._folder / f"{uuid.uuid4().hex}.npz", content.getvalue())


def user_cache() -> Path:
    """Where this user's programs keep what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pointsman"


def _key(prompt: str) -> bytes:
    return hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=16).digest()
