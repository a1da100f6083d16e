"""The results of long work, kept one by one as files: a run that was cut off goes on where it stopped.

A result is found by what it depends on (data, policy, parameters, seed, code): one folder may serve many runs. A
file that was damaged counts as absent, and its result is made again.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from router.errors import DataError
from router.files import write_whole

#: What policies are computed with: another version may give other numbers.
LIBRARIES = ("numpy", "scipy", "scikit-learn", "torch")
PACKAGES = ("router", "policies", "training")


@dataclass(frozen=True)
class RunFolder:
    folder: Path

    @classmethod
    def opened(cls, folder: Path) -> "RunFolder":
        """Raises `DataError` where the folder cannot be made or written to."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot keep results in {folder}: {error.strerror}") from error
        if not os.access(folder, os.W_OK):
            raise DataError(f"cannot keep results in {folder}: it may not be written to")
        return cls(folder)

    def get(self, about: Mapping[str, Any]) -> Any:
        """The result of what is described by `about`, or None."""
        try:
            content = json.loads(self._path(about).read_bytes())
            whole = content["digest"] == _digest({"about": content["about"], "result": content["result"]})
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return content["result"] if whole and content["about"] == _plain(about) else None

    def put(self, about: Mapping[str, Any], result: Any) -> None:
        """Keeps a result. Raises `DataError` where it cannot be written: nothing half is left behind."""
        content = _plain({"about": dict(about), "result": result})
        path = self._path(about)
        try:
            write_whole(path, json.dumps({**content, "digest": _digest(content)}).encode())
        except OSError as error:
            raise DataError(f"cannot write {path}: {error.strerror}; what was finished before is kept") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """For work that only one run may do here. Raises `DataError` where another is at it."""
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataError(f"another run is at work in {self.folder}: choose another --out") from error
            yield

    def _path(self, about: Mapping[str, Any]) -> Path:
        return self.folder / f"{_digest(_plain(about))[:32]}.json"


def _plain(content: Any) -> Any:
    """As it will be read back: tuples become lists."""
    return json.loads(json.dumps(content))


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@cache
def code_version() -> str:
    """Of our code that trains and judges, and of the libraries that it computes with."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            digest.update(f"{name} {metadata.version(name)}\n".encode())
    return digest.hexdigest()[:16]
