"""Files that are there whole or not at all, whatever is killed or fills up on the way."""

import ctypes
import errno
import os
import sys
import tempfile
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def write_whole(path: Path, content: bytes) -> None:
    """Writes `path` by way of a temporary sibling; who reads meanwhile sees the old content or the new.

    A link stays a link, and what is no plain file (/dev/null, a pipe) is written into as it is.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def flush_folder(folder: Path) -> None:
    """Makes the folder's files and its list of them safe against a power cut."""
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def swap_folders(fresh: Path, target: Path) -> None:
    """Puts `fresh` in the place of `target`; what `target` held is then at `fresh`, or beside it.

    In one step where the system can exchange two names (Linux), else by two renames with a moment between them
    in which there is no `target`.
    """
    if not target.exists():
        fresh.rename(target)
        return
    if not _exchanged(fresh, target):
        target.rename(fresh.with_name(fresh.name + ".replaced"))
        fresh.rename(target)


def _exchanged(one: Path, other: Path) -> bool:
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS):  # a file system that cannot
        return False
    raise OSError(code, os.strerror(code), str(other))
