"""A gateway's end of the decision log in a process of its own, to be killed: URL, spool, folder, rows a turn."""

import asyncio
import sys
from pathlib import Path

from router.config import DecisionSettings
from router.ledger.decisions import Decisions
from router.ledger.store import connect


async def main(url: str, spool: str, folder: str, burst: int) -> None:
    settings = DecisionSettings(folder=folder, rotate_rows=1_000_000)
    decisions = Decisions(settings, lambda: connect(url, None), Path(spool))
    decisions.open()
    number = 0
    while True:
        for _ in range(burst):
            row = {"kind": "decision", "decision_id": f"dec_{number:05}", "at": 1.7e9, "caller": "a", "ok": True}
            decisions.record(row)
            number += 1
        print(number, flush=True)
        await asyncio.sleep(0.003)


asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
