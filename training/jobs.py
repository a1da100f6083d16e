"""Where work runs: in this process, in several processes of this machine, or on a Ray cluster; callers cannot tell.

Knows nothing of policies or tables. Each process keeps to one thread, so that two jobs do not fight for the cores.
"""

import fcntl
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from router.errors import ConfigError, PointsmanError

Item = TypeVar("Item")
Result = TypeVar("Result")

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
SCRATCH = "scratch-"
ALIGNED = 64  # bytes: where an array begins in a file
LOCAL = "local"
REACH_S = 10.0


class JobsError(PointsmanError):
    """The work could not be carried on: a process died, or the cluster went away. Finished results are not lost."""


class Shared(Protocol):
    """What every job may read: small to send; `get` gives the content, whose arrays are not to be written to."""

    def get(self) -> Any: ...


class Jobs(ABC):
    """`workers` items are worked on at a time. What is sent, the function too, must be importable where it runs."""

    workers: int

    @abstractmethod
    def share(self, content: Any) -> Shared:
        """Puts `content` where every worker can read it, once."""

    def run(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
        """Each item with what `work` made of it, as they finish.

        `items` are taken one by one as workers come free, after the results before were handed out: so an iterable
        may choose its next item by them. An exception of `work` is raised here.
        """
        coming = iter(items)
        waiting: dict[Any, Item] = {}
        while True:
            for item in islice(coming, self.workers - len(waiting)):
                waiting[self._begin(work, item)] = item
            if not waiting:
                return
            for ticket in self._finished(waiting):
                yield waiting.pop(ticket), self._result(ticket)

    @abstractmethod
    def _begin(self, work: Callable[[Item], Result], item: Item) -> Any:
        """A ticket for the work that was begun."""

    @abstractmethod
    def _finished(self, tickets: Collection[Any]) -> list[Any]:
        """Waits for the first to finish."""

    @abstractmethod
    def _result(self, ticket: Any) -> Any: ...


class Held:
    """What this process holds anyway."""

    def __init__(self, content: Any) -> None:
        self._content = content

    def get(self) -> Any:
        return self._content


class Here(Jobs):
    """One after the other in this process."""

    workers = 1

    def share(self, content: Any) -> Shared:
        return Held(content)

    def _begin(self, work: Callable[[Item], Result], item: Item) -> Any:
        return Held(work(item))

    def _finished(self, tickets: Collection[Any]) -> list[Any]:
        return list(tickets)

    def _result(self, ticket: Any) -> Any:
        return ticket.get()


class Mapped:
    """A pickle whose arrays lie in a file beside it, mapped: they are in memory once, whoever reads them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def written(cls, content: Any, folder: Path) -> "Mapped":
        arrays: list[pickle.PickleBuffer] = []
        body = pickle.dumps(content, protocol=5, buffer_callback=arrays.append)
        places = []
        with (folder / "arrays").open("wb") as file:
            for array in arrays:
                raw = array.raw()
                file.write(b"\0" * (-file.tell() % ALIGNED))
                places.append((file.tell(), raw.nbytes))
                file.write(raw)
            file.write(b"\0")  # an empty file cannot be mapped
        (folder / "content").write_bytes(pickle.dumps((places, body)))
        return cls(folder)

    def get(self) -> Any:
        return _mapped(self._folder)


@lru_cache(maxsize=2)
def _mapped(folder: Path) -> Any:
    import numpy as np

    places, body = pickle.loads((folder / "content").read_bytes())
    arrays = np.memmap(folder / "arrays", mode="r")
    return pickle.loads(body, buffers=[arrays[start : start + size].data for start, size in places])


class Processes(Jobs):
    """Fresh processes of this machine, `folder` being where they find what is shared."""

    def __init__(self, workers: int, folder: Path) -> None:
        self.workers = workers
        self._folder = folder
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_settle)

    def share(self, content: Any) -> Shared:
        return Mapped.written(content, Path(tempfile.mkdtemp(dir=self._folder)))

    def _begin(self, work: Callable[[Item], Result], item: Item) -> Any:
        try:
            return self._pool.submit(work, item)
        except BrokenProcessPool as error:
            raise _died() from error

    def _finished(self, tickets: Collection["Future[Any]"]) -> list[Any]:
        return list(wait(tickets, return_when=FIRST_COMPLETED).done)

    def _result(self, ticket: "Future[Any]") -> Any:
        try:
            return ticket.result()
        except BrokenProcessPool as error:
            raise _died() from error

    def close(self, at_once: bool) -> None:
        if at_once:
            for child in multiprocessing.active_children():
                child.terminate()
        self._pool.shutdown(cancel_futures=True)


def _died() -> JobsError:
    return JobsError("a process was ended by the system, maybe for want of memory: try fewer --jobs")


def _settle() -> None:
    """In a fresh worker: it ends with its parent, however that ended, and Ctrl-C ends it without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


class OnRay(Jobs):
    """The workers of a Ray cluster, or of one started here (`local`). They need this version of Pointsman."""

    def __init__(self, address: str, workers: int) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told what runs here
        import ray

        self._ray = ray
        if address != LOCAL:
            _reach(address)
        settings: dict[str, Any] = {"address": address}  # always given: without it Ray joins any cluster around
        if address == LOCAL:
            settings |= {"num_cpus": workers, "include_dashboard": False, "log_to_driver": False}
            settings |= {"logging_level": "ERROR"}
        try:
            ray.init(**settings)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"--cluster {address}: no Ray cluster can be used there: {error} "
                "(one that asks for a token: set RAY_AUTH_MODE=token, see Ray's documentation)"
            ) from error
        self.workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._remote = ray.remote(num_cpus=1)(_call)

    def share(self, content: Any) -> Shared:
        return OfRay(self._ray.put(content))

    def _begin(self, work: Callable[[Item], Result], item: Item) -> Any:
        return self._remote.remote(work, item)

    def _finished(self, tickets: Collection[Any]) -> list[Any]:
        done, _ = self._ray.wait(list(tickets), num_returns=1)
        return list(done)

    def _result(self, ticket: Any) -> Any:
        try:
            return self._ray.get(ticket)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, PointsmanError) else error from error
        except self._ray.exceptions.RayError as error:
            raise JobsError(f"the Ray cluster lost a job: {error}") from error

    def close(self) -> None:
        self._ray.shutdown()


def _reach(address: str) -> None:
    """Raises `ConfigError` for what is no cluster's address, or where nobody listens: Ray would try for minutes."""
    place = urlsplit(address)
    if place.scheme != "ray" or not place.hostname or not place.port:
        raise ConfigError(f"--cluster {address}: expected {LOCAL} or ray://HOST:PORT")
    try:
        socket.create_connection((place.hostname, place.port), timeout=REACH_S).close()
    except OSError as error:
        raise ConfigError(f"--cluster {address}: nobody answers there: {error}") from error


class OfRay:
    """A place in a cluster's object store."""

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def get(self) -> Any:
        import ray

        return ray.get(self._reference)


def _call(work: Callable[[Item], Result], item: Item) -> Result:
    return work(item)


@contextmanager
def opened(workers: int, cluster: str | None, folder: Path) -> Iterator[Jobs]:
    """Workers until the block ends: on the `cluster`, else `workers` processes, else (1) this one.

    Processes share by way of a scratch folder in `folder`; those that killed runs left there are removed.
    """
    if cluster is not None:
        ray = OnRay(cluster, workers)
        try:
            yield ray
        finally:
            ray.close()
    elif workers == 1:
        yield Here()
    else:
        with _scratch(folder) as scratch, _environment(ONE_THREAD):
            processes = Processes(workers, scratch)
            try:
                yield processes
            except BaseException:
                processes.close(at_once=True)
                raise
            processes.close(at_once=False)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """For processes that are started meanwhile: they read it before they load any library."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder that is gone afterwards. It is locked while in use: an unlocked one is a killed run's."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{SCRATCH}*/lock"):
        with left.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(left.parent, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=folder))
    try:
        with (made / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
