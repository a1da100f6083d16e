"""A replica's name in a folder, locked for as long as its process lives: what can be locked is orphaned."""

import fcntl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO


class Claim:
    """Nothing is made before `take`. The files of replica NAME are `NAME.lock` and whatever begins with `NAME.`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self._lock: IO[bytes] | None = None

    @property
    def taken(self) -> bool:
        return self._lock is not None

    def take(self) -> None:
        """Raises `OSError`."""
        if self._lock is None:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = _locked(self.folder / f"{self.name}.lock")

    def give_up(self) -> None:
        """What the replica still keeps is orphaned; where it keeps nothing, nothing is left."""
        if self._lock is None:
            return
        with suppress(OSError):
            _clear(self.folder, self.name)
        self._lock.close()
        self._lock = None
        with suppress(OSError):  # the last one clears up
            self.folder.rmdir()

    def orphans(self) -> Iterator[str]:
        """The names of replicas that are gone, each locked until the caller asks for the next."""
        for path in sorted(self.folder.glob("*.lock")):
            if path.stem == self.name or (lock := _locked(path)) is None:
                continue
            try:
                yield path.stem
                _clear(self.folder, path.stem)
            finally:
                lock.close()


def _clear(folder: Path, name: str) -> None:
    """The lock goes last, and only with everything else: a file without one would be nobody's for ever."""
    if [path.name for path in folder.glob(f"{name}.*")] == [f"{name}.lock"]:
        folder.joinpath(f"{name}.lock").unlink(missing_ok=True)


def _locked(path: Path) -> IO[bytes] | None:
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
