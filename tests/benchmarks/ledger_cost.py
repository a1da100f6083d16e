"""What the ledger takes of the gateway's core: one `record`, and writing behind at 2,000 records a second.

Paced rounds alternate with rounds that pace the same way and record nothing; the difference in the process's CPU
time is the ledger's. The private Redis is another process and is counted apart.
"""

import asyncio
import time
from pathlib import Path

from report import Figure
from rounds import difference_of, over_rounds

from router.config import LedgerSettings
from router.ledger.ledger import Ledger
from router.types import Entry, Usage

RATE = 2000
ROUND_S = 4.0
ROUNDS = 4
STEP_S = 0.002
EXPERTS = 4


def entries() -> list[Entry]:
    usage = Usage(input_tokens=120, output_tokens=60)
    return [Entry(f"expert-{i}", True, usage, 123_456, 0.2, 0.01) for i in range(EXPERTS)]


async def record_us(ledger: Ledger, calls: int = 200_000) -> float:
    """Microseconds per call, the summing that falls due on the way included."""
    pool = entries()
    started = time.perf_counter()
    for i in range(calls):
        ledger.record(pool[i % EXPERTS])
    seconds = time.perf_counter() - started
    while ledger.owed:  # noqa: ASYNC110 - the ledger has no event for it
        await asyncio.sleep(0.01)
    return seconds / calls * 1e6


async def paced_cpu_us(ledger: Ledger | None) -> float:
    """CPU microseconds of this process per record (or per record that would have been)."""
    pool, sent, loop = entries(), 0, asyncio.get_running_loop()
    started, cpu = loop.time(), time.process_time()
    while (passed := loop.time() - started) < ROUND_S:
        due = int(passed * RATE)
        for i in range(sent, due):
            if ledger:
                ledger.record(pool[i % EXPERTS])
        sent = due
        await asyncio.sleep(STEP_S)
    return (time.process_time() - cpu) / sent * 1e6


async def server_cpu_s(pid: int) -> float:
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # noqa: ASYNC240 - no disk behind
    return (int(stat[11]) + int(stat[12])) / 100


async def measure(folder: Path) -> list[Figure]:
    ledger = Ledger(LedgerSettings(data_dir=folder))
    await ledger.open()
    calls = [await record_us(ledger) for _ in range(ROUNDS)]
    idle, busy, server = [], [], []
    assert ledger._server is not None and ledger._server.pid is not None
    for _ in range(ROUNDS):
        idle.append(await paced_cpu_us(None))
        before = await server_cpu_s(ledger._server.pid)
        busy.append(await paced_cpu_us(ledger))
        server.append((await server_cpu_s(ledger._server.pid) - before) / (ROUND_S * RATE) * 1e6)
    await ledger.close()
    return [
        over_rounds("one call of record", calls, "us", "< 2"),
        difference_of(f"CPU per record at {RATE:,}/s, gateway's process", busy, idle, "us", "< 50"),
        over_rounds(f"CPU per record at {RATE:,}/s, private Redis", server, "us"),
    ]
