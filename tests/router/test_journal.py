"""A journal is read as it was written, whatever was done with meanwhile."""

import random
from pathlib import Path

import pytest

from router.ledger.journal import SEGMENT_BYTES, Journal, forget, left_behind


def test_what_is_not_done_is_left_behind_in_order(tmp_path: Path) -> None:
    rng, kept, stem = random.Random(3), dict[int, bytes](), tmp_path / "a"
    journal = Journal(stem, 8 * SEGMENT_BYTES)
    for number in range(1, 6000):
        record = rng.randbytes(rng.randrange(1, 400))
        assert journal.append(record)
        assert journal.last == number
        kept[number] = record
        if rng.random() < 0.01:
            done = rng.choice((number, rng.choice(list(kept))))
            journal.done(done)
            kept = {at: one for at, one in kept.items() if at > done}
        if number % 500 == 0:
            assert left_behind(stem) == list(kept.items())
    assert len(list(tmp_path.iterdir())) <= 3
    journal.done(journal.last)
    assert left_behind(stem) == []
    journal.close()
    assert not list(tmp_path.iterdir())


def test_a_full_journal_takes_no_more_and_keeps_the_oldest(tmp_path: Path) -> None:
    journal, stem = Journal(tmp_path / "a", 2 * SEGMENT_BYTES), tmp_path / "a"
    taken = 0
    while journal.append(b"x" * 1000):
        taken += 1
    assert [number for number, _ in left_behind(stem)] == list(range(1, taken + 1))
    journal.done(journal.last)
    assert journal.append(b"y")
    assert left_behind(stem) == [(taken + 1, b"y")]
    journal.close()
    assert left_behind(stem) == [(taken + 1, b"y")]
    forget(stem)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"pointsj1", b"another!" * 9])
def test_a_file_that_is_none_has_no_records(tmp_path: Path, content: bytes) -> None:
    tmp_path.joinpath("a.00000001").write_bytes(content)
    assert left_behind(tmp_path / "a") == []
