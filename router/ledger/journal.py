"""What a replica has yet to tell Redis, record by record, in files that outlive its process.

A record is written into memory that is mapped from a file: about a microsecond and no system call, and a process
that is killed leaves it behind, since the page cache is the machine's. It does not outlive the machine unless it
was synced. A file (`STEM.NUMBER`) is `SEGMENT_BYTES` long: how far everything is done, the number of its first
record, then the records, each behind its length. When all is done it is begun anew; when it is full, the next one
is; what is done with is removed.
"""

import asyncio
import mmap
import struct
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEGMENT_BYTES = 1 << 18
_HEAD = struct.Struct("<8sQQ")  # format, done, first
_LENGTH = struct.Struct("<I")
_NUMBER = struct.Struct("<Q")
_DONE_AT, _FIRST_AT = 8, 16
_FORMAT = b"pointsj1"
_END = b"\0" * _LENGTH.size
_RECORD_MOST = SEGMENT_BYTES - _HEAD.size - 2 * _LENGTH.size


@dataclass(slots=True)
class _Segment:
    path: Path
    map: mmap.mmap
    first: int  # the number of its first record, as long as it is not the last segment


class Journal:
    """Of one replica. `stem`: the files' path without their number. Records are numbered from 1."""

    def __init__(self, stem: Path, most_bytes: int) -> None:
        self._stem = stem
        self._segments_most = max(most_bytes // SEGMENT_BYTES, 1)
        self._segments: deque[_Segment] = deque()
        self._made = 0
        self._at = self._room = 0  # where the next record goes, and has to end
        self._map: Any = None
        self._done = 0
        self._synced = 0
        self.last = 0

    def append(self, record: bytes) -> bool:
        """Keeps the record as number `last`; False where there is no room for it. Raises `OSError`."""
        begin = self._at + _LENGTH.size
        end = begin + len(record)
        if end + _LENGTH.size > self._room:
            if len(self._segments) >= self._segments_most or len(record) > _RECORD_MOST:
                return False
            self._begin()
            return self.append(record)
        self._map[begin : end + _LENGTH.size] = record + _END
        _LENGTH.pack_into(self._map, self._at, end - begin)  # from here on it is there
        self._at = end
        self.last += 1
        return True

    def done(self, number: int) -> None:
        """Records up to this one are not needed any more."""
        if number <= self._done or not self._segments:
            return
        self._done = number
        while len(self._segments) > 1 and self._segments[1].first <= number + 1:
            self._remove(self._segments.popleft())
        _NUMBER.pack_into(self._map, _DONE_AT, number)
        if number == self.last:  # all: the file begins anew
            self._map[_HEAD.size : _HEAD.size + len(_END)] = _END
            _NUMBER.pack_into(self._map, _FIRST_AT, number + 1)
            self._at = _HEAD.size

    async def sync(self) -> None:
        """Waits for the disk, where there is anything new. Raises `OSError`."""
        if self._synced < self.last:
            self._synced = self.last
            await asyncio.to_thread(_flush, list(self._segments))

    def close(self) -> None:
        """What is not done is left behind."""
        for segment in self._segments:
            if self._done == self.last:
                self._remove(segment)
            else:
                segment.map.close()
        self._segments.clear()
        self._room = 0

    def _begin(self) -> None:
        path = self._stem.with_name(f"{self._stem.name}.{self._made + 1:08}")
        with path.open("xb+") as file:
            file.write(bytes(SEGMENT_BYTES))  # a full disk is to be an error here, not a signal later
            file.flush()
            map_ = mmap.mmap(file.fileno(), SEGMENT_BYTES)
        _HEAD.pack_into(map_, 0, _FORMAT, self._done, self.last + 1)
        self._segments.append(_Segment(path, map_, self.last + 1))
        self._map, self._room = map_, SEGMENT_BYTES
        self._made += 1
        self._at = _HEAD.size

    @staticmethod
    def _remove(segment: _Segment) -> None:
        segment.map.close()
        with suppress(OSError):
            segment.path.unlink(missing_ok=True)


def _flush(segments: list[_Segment]) -> None:
    for segment in segments:
        with suppress(ValueError):  # removed meanwhile
            segment.map.flush()


def left_behind(stem: Path) -> list[tuple[int, bytes]]:
    """The records of a replica that is gone, with their numbers, without those that are done. Raises `OSError`."""
    found: list[tuple[int, bytes]] = []
    done = 0
    for path in _files(stem):
        content = path.read_bytes()
        if len(content) < _HEAD.size or content[: len(_FORMAT)] != _FORMAT:
            continue  # made, and not yet begun
        _, told, first = _HEAD.unpack_from(content)
        done = max(done, told)
        found += enumerate(_records(content), first)
    return [(number, record) for number, record in found if number > done]


def forget(stem: Path) -> None:
    for path in _files(stem):
        path.unlink(missing_ok=True)


def _files(stem: Path) -> list[Path]:
    return sorted(stem.parent.glob(f"{stem.name}.*"))


def _records(content: bytes) -> Iterator[bytes]:
    at = _HEAD.size
    while at + _LENGTH.size <= len(content):
        (size,) = _LENGTH.unpack_from(content, at)
        at += _LENGTH.size
        if not size or at + size > len(content):
            return
        yield content[at : at + size]
        at += size
