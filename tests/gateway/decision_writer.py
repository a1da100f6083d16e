"""A writer of the decision log in a process of its own, to be killed: URL, folder, rows per file, pause (s)."""

import asyncio
import sys
import time

from router.config import DecisionSettings
from router.ledger import decisions
from router.ledger.decision_rows import write
from router.ledger.store import connect


async def main(url: str, folder: str, rows: int, pause_s: float) -> None:
    def slow(folder: str, name: str, found: object) -> None:
        write(folder, name, found)  # type: ignore[arg-type]
        print("wrote", name, flush=True)
        time.sleep(pause_s)  # written, and not yet acknowledged

    decisions.write = slow  # type: ignore[assignment]
    settings = DecisionSettings(folder=folder, rotate_rows=rows, rotate_s=0.2)
    writer = decisions.Decisions(settings, lambda: connect(url, None))
    writer.open()
    await asyncio.Event().wait()


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
