"""What fits into this machine's memory: what cannot is refused before it is tried, with the size that could."""

import os
from pathlib import Path

from router.errors import DataError

USABLE = 0.9  # of what is free: the rest is left to others
MEMINFO = Path("/proc/meminfo")
#: What a container may use, and uses: cgroup version 2, then 1.
LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def usable_bytes() -> float:
    """Memory that may still be taken."""
    free = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    if MEMINFO.exists():
        found = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
        free.append(float(found["MemAvailable"].split()[0]) * 1024)
    for most, used in LIMITS:
        if most.exists() and used.exists() and most.read_text().strip().isdigit():
            free.append(float(most.read_text()) - float(used.read_text()))
    return USABLE * min(free)


def check_fits(need: float, count: int, what: str) -> None:
    """Raises `DataError` where `count` of `what` need more bytes than there are, with how many could be taken."""
    usable = usable_bytes()
    if need > usable:
        most = int(count * usable / need)
        raise DataError(
            f"{count:,} {what} need {_size(need)} of memory and {_size(usable)} are free: at most {most:,} fit. "
            "Take a part of them, or a machine with more memory"
        )


def _size(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
