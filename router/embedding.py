"""The query encoder: text in, unit vector out; micro-batched, cached, fast on one CPU core, without torch.

Knows nothing of experts, policies or HTTP. `query_text` (what is embedded of a chat request) is here too.
"""

import asyncio
import ctypes
import hashlib
import queue
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.config import EncoderSettings
from router.conversation import query_text
from router.encoder_export import Export, exported
from router.encoder_folder import open_folder
from router.encoder_precision import options
from router.encoder_runtime import load_openvino
from router.encoder_tokens import Tokens, batches, shapes, valid
from router.errors import EncoderError

__all__ = ["Encoder", "query_text"]

Vectors = NDArray[np.float32]
MADV_DONTNEED = 4


@dataclass(slots=True)
class _Job:
    key: bytes
    text: str
    future: "asyncio.Future[Vectors]"
    keep: bool


class Encoder:
    """Turns texts into unit vectors. Building one opens nothing; `load` does.

    One thread does all tokenising and inference, so the event loop is never blocked and one core is never
    oversubscribed. A request that finds it idle starts at once; those that arrive meanwhile share its next
    batches. Equal texts share one computation while it runs and a cache entry afterwards.
    """

    name: str
    revision: str  # digest of weights and tokenizer: an artifact belongs to one
    dimension: int
    window: int  # tokens; a longer text keeps its head and its tail

    def __init__(self, settings: EncoderSettings) -> None:
        self.settings = settings
        self.export: Export | None = None
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._inflight: dict[bytes, asyncio.Future[Vectors]] = {}
        self._cache: OrderedDict[bytes, Vectors] = OrderedDict()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def load(self) -> None:
        """Loads the model and starts the worker; seconds at the very first start, which exports the graph.

        Raises `EncoderError`: no such model, an export that fails, a cache folder that cannot be written.
        """
        openvino = load_openvino()

        folder = open_folder(self.settings.model)
        export = exported(folder, self.settings)
        self.name, self.revision, self.window = folder.name, folder.revision, folder.window
        self.dimension, self.export = export.dimension, export
        self._pad_id = folder.pad_id
        self._tokens = Tokens(folder)
        try:
            compiled = openvino.Core().compile_model(str(export.graph), "CPU", options(export.precision))
        except RuntimeError as error:
            raise EncoderError(f"OpenVINO cannot load {export.graph}: {error}") from error
        self._request: Any = compiled.create_infer_request()
        self._cold = shapes(folder.window)
        while self._cold and self._cold[0][0] == 1:
            self._warm()
        _forget_pages(export.weights)
        self._ending = False
        self._thread = threading.Thread(target=self._work, name="encoder", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops the worker after the batch it is at; waiting callers get an `EncoderError`."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    @property
    def alive(self) -> bool:
        """Whether the worker runs."""
        return self._thread is not None and self._thread.is_alive()

    async def encode(self, text: str, *, keep: bool = True) -> Vectors:
        """The text's unit vector [d], read-only. `keep`: in the cache, for texts that may well come again.

        Raises `EncoderError` if the encoder is not loaded or fails.
        """
        return await self.begin(text, keep=keep)

    def begin(self, text: str, *, keep: bool = True) -> "asyncio.Future[Vectors]":
        """As `encode`, whose work has begun when this returns."""
        if not self.alive:
            raise EncoderError("the encoder is not loaded")
        text = valid(self._tokens.shorten(text))
        key = hashlib.blake2b(text.encode(), digest_size=16).digest()
        known = self._cache.get(key)
        loop = asyncio.get_running_loop()
        if known is not None:
            self._cache.move_to_end(key)
            there: asyncio.Future[Vectors] = loop.create_future()
            there.set_result(known)
            return there
        future = self._inflight.get(key)
        if future is None or future.get_loop() is not loop:
            future = self._inflight[key] = loop.create_future()
            self._jobs.put(_Job(key, text, future, keep))
        # shielded: one caller who goes away must not take the answer from the others
        return asyncio.shield(future)

    def encode_batch(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> Vectors:
        """Unit vectors [n, d] in the order given, for training; past the cache, in the calling thread.

        `progress` is called after every batch with the number of texts in it.
        """
        if self._thread is None:
            raise EncoderError("the encoder is not loaded")
        ids = [self._tokens.ids(valid(self._tokens.shorten(text))) for text in texts]
        vectors = np.empty((len(texts), self.dimension), np.float32)
        for batch in batches(ids, self.window):
            vectors[list(batch.rows)] = self._infer(*batch.arrays(ids, self._pad_id))
            if progress is not None:
                progress(len(batch.rows))
        return vectors

    def _infer(self, ids: NDArray[np.int32], mask: Vectors) -> Vectors:
        with self._lock:
            self._request.infer({0: ids, 1: mask}, share_inputs=True)
            vectors = np.array(self._request.get_output_tensor(0).data, np.float32)
        vectors.setflags(write=False)
        return vectors

    def _warm(self) -> None:
        """Shows the runtime one more shape, so that no request pays for being the first of its length."""
        b, t = self._cold.pop(0)
        self._infer(np.full((b, t), self._pad_id, np.int32), np.ones((b, t), np.float32))

    def _work(self) -> None:
        company, hot_until = 1, 0.0
        try:
            while not self._ending:
                while self._cold and self._jobs.empty():
                    self._warm()
                jobs = self._gather(company, hot_until)
                self._compute(jobs)
                # callers just answered ask again at once: worth a moment's wait, from now on, not from then
                company, hot_until = len(jobs), time.monotonic() + self.settings.max_wait_ms / 1e3
        finally:
            self._abandon()

    def _gather(self, company: int, hot_until: float) -> list[_Job]:
        """The next jobs, and with `_ending` set the last. Waits until `hot_until`, for as many as there were."""
        jobs: list[_Job] = []
        while len(jobs) < self.settings.max_batch:
            patience = hot_until - time.monotonic() if len(jobs) < company else 0.0
            try:
                job = self._jobs.get(timeout=max(patience, 0)) if jobs else self._jobs.get()
            except queue.Empty:
                break
            if job is None:
                self._ending = True
                break
            jobs.append(job)
        return jobs

    def _compute(self, jobs: list[_Job]) -> None:
        try:
            ids = [self._tokens.ids(job.text) for job in jobs]
            for batch in batches(ids, self.window):
                vectors = self._infer(*batch.arrays(ids, self._pad_id))
                self._hand_over([(jobs[row], vector) for row, vector in zip(batch.rows, vectors, strict=True)])
        except Exception as error:  # the worker's boundary: whatever one batch meets, the next one is computed
            failure = EncoderError(f"the encoder failed: {type(error).__name__}: {error}")
            self._hand_over([(job, failure) for job in jobs])

    def _hand_over(self, results: "list[tuple[_Job, Vectors | EncoderError]]") -> None:
        for loop in {job.future.get_loop() for job, _ in results}:
            mine = [result for result in results if result[0].future.get_loop() is loop]
            with suppress(RuntimeError):  # the loop closed meanwhile: nobody waits
                loop.call_soon_threadsafe(self._settle, mine)

    def _settle(self, results: "list[tuple[_Job, Vectors | EncoderError]]") -> None:
        for job, result in results:
            if self._inflight.get(job.key) is job.future:
                del self._inflight[job.key]
            if isinstance(result, EncoderError):
                if not job.future.done():
                    job.future.set_exception(result)
                    job.future.exception()  # seen: no complaint if every caller has gone away
                continue
            if job.keep:
                self._cache[job.key] = result
            if len(self._cache) > self.settings.cache_entries:
                self._cache.popitem(last=False)
            if not job.future.done():
                job.future.set_result(result)

    def _abandon(self) -> None:
        left = []
        while not self._jobs.empty():
            job = self._jobs.get()
            if job is not None:
                left.append(job)
        self._hand_over([(job, EncoderError("the encoder was closed")) for job in left])


def _forget_pages(path: Path) -> None:
    """Lets go of the file's resident pages: the weights were repacked, of the words' table few are needed.

    They stay in the system's page cache, and come back when touched: half the encoder's memory less.
    """
    if sys.platform != "linux":
        return
    libc, mapped = ctypes.CDLL(None), str(path.resolve())
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        fields = line.split(maxsplit=5)
        # read-only pages of a file: nothing can be lost
        if len(fields) == 6 and fields[5] == mapped and fields[1].startswith("r--"):
            start, end = (int(bound, 16) for bound in fields[0].split("-"))
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_DONTNEED)
