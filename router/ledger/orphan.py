"""What a replica that is gone still owes, as the batches that it would have sent."""

from dataclasses import replace

from router.ledger.account import day_of
from router.ledger.outbox import Batch, Outbox
from router.ledger.spool import Orphan


def batches_of(orphan: Orphan, known: int, half_life_s: float) -> list[Batch]:
    """What Redis, which knows the replica's batches up to `known`, may not have."""
    found = [batch for batch in orphan.batches if batch.number > known]
    kept = {batch.number for batch in orphan.batches}
    following = max([known, *kept, *(last for (_, last), _, _ in orphan.calls)]) + 1
    boxes: dict[int, Outbox] = {}
    for (first, last), at, entry in orphan.calls:
        if last > known or not last:
            # a batch that is kept may have been sent with more calls since: they make others of their own
            own = following if not last or first in kept else first
            boxes.setdefault(own, Outbox(half_life_s)).add([entry], at, day_of(at))
    for first, box in boxes.items():
        found += [replace(batch, number=number) for number, batch in enumerate(box.all_owed(), first)]
    return sorted(found, key=lambda batch: batch.number)
