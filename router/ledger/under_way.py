"""Calls under way, each in a slot of a mapped file: what a process that is killed was asking for.

A slot holds a length and so many bytes; with a length of 0 it is free.
"""

import mmap
import struct
from contextlib import suppress
from pathlib import Path

SLOT_BYTES = 512
SLOTS = 1024
_LENGTH = struct.Struct("<I")


class UnderWay:
    """Of one replica. Nothing is made before the first call begins."""

    def __init__(self, path: Path, slot_bytes: int = SLOT_BYTES) -> None:
        self._path = path
        self._slot_bytes = slot_bytes
        self._map: mmap.mmap | None = None
        self._free: list[int] = []

    def begin(self, record: bytes) -> int | None:
        """The slot that the record is in until `end`; None: there is no room for it. Raises `OSError`."""
        if self._map is None:
            with self._path.open("xb+") as file:
                size = SLOTS * self._slot_bytes
                file.write(bytes(size))  # a full disk is to be an error here, not a signal later
                file.flush()
                self._map = mmap.mmap(file.fileno(), size)
            self._free = [slot * self._slot_bytes for slot in reversed(range(SLOTS))]  # few slots, few pages
        if not self._free or len(record) > self._slot_bytes - _LENGTH.size:
            return None
        slot = self._free.pop()
        self._map[slot + _LENGTH.size : slot + _LENGTH.size + len(record)] = record
        _LENGTH.pack_into(self._map, slot, len(record))
        return slot

    def end(self, slot: int) -> None:
        if self._map is not None:
            _LENGTH.pack_into(self._map, slot, 0)
            self._free.append(slot)

    def close(self) -> None:
        """Nothing is under way any more."""
        if self._map is not None:
            self._map.close()
            self._map = None
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


def cut_off(path: Path, slot_bytes: int = SLOT_BYTES) -> list[bytes]:
    """What a replica that is gone was asking for. Raises `OSError`."""
    content = path.read_bytes() if path.exists() else b""
    found = []
    for slot in range(0, len(content) - slot_bytes + 1, slot_bytes):
        (size,) = _LENGTH.unpack_from(content, slot)
        if 0 < size <= slot_bytes - _LENGTH.size:
            found.append(content[slot + _LENGTH.size : slot + _LENGTH.size + size])
    return found
