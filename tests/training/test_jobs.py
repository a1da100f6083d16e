"""Work here, in processes and after something went wrong: callers see no difference but the speed."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from router.errors import DataError
from training.jobs import SCRATCH, Jobs, JobsError, Shared, opened


def doubled(item: int) -> int:
    return 2 * item


def summed(item: tuple[Shared, int]) -> tuple[float, bool, int]:
    """Of a shared table; whether it may be written to; and the process that did it."""
    table = item[0].get()["table"]
    return float(table[item[1]].sum()), table.flags.writeable, os.getpid()


def threads(_: int) -> str:
    return os.environ["OMP_NUM_THREADS"]


def refused(item: int) -> int:
    raise DataError(f"{item} is wrong")


def killed(_: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_comes_back_with_its_result(workers: int, tmp_path: Path) -> None:
    with opened(workers, None, tmp_path) as jobs:
        assert dict(jobs.run(doubled, range(6))) == {item: 2 * item for item in range(6)}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_shared_is_read_by_all(workers: int, tmp_path: Path) -> None:
    table = np.arange(12.0).reshape(4, 3)
    with opened(workers, None, tmp_path) as jobs:
        shared = jobs.share({"table": table, "name": "any", "nothing": np.zeros((4, 0))})
        results = [result for _, result in jobs.run(summed, [(shared, row) for row in range(4)])]
    assert sorted(result[0] for result in results) == [3.0, 12.0, 21.0, 30.0]
    if workers > 1:
        assert os.getpid() not in {pid for _, _, pid in results}
        assert not any(writeable for _, writeable, _ in results)


def test_the_next_item_may_be_chosen_by_the_results_so_far(tmp_path: Path) -> None:
    seen = [1]

    def items() -> object:
        while seen[-1] < 100:
            yield seen[-1]

    def grow(jobs: Jobs) -> None:
        for _, result in jobs.run(doubled, items()):  # type: ignore[type-var]
            seen.append(result)

    with opened(1, None, tmp_path) as jobs:
        grow(jobs)
    assert seen == [1, 2, 4, 8, 16, 32, 64, 128]


def test_a_process_keeps_to_one_thread_and_the_parents_environment_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with opened(2, None, tmp_path) as jobs:
        assert {result for _, result in jobs.run(threads, range(2))} == {"1"}
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_a_mistake_in_a_process_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 is wrong"), opened(2, None, tmp_path) as jobs:
        list(jobs.run(refused, [3]))
    assert not list(tmp_path.glob(f"{SCRATCH}*"))


def test_a_process_that_the_system_ends_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(JobsError, match="want of memory"), opened(2, None, tmp_path) as jobs:
        list(jobs.run(killed, [1]))


def test_what_a_killed_run_left_is_removed_and_what_another_uses_is_not(tmp_path: Path) -> None:
    left = tmp_path / f"{SCRATCH}left"
    left.mkdir()
    (left / "lock").touch()
    with opened(2, None, tmp_path):
        (used,) = tmp_path.glob(f"{SCRATCH}*")
        assert used != left
        with opened(2, None, tmp_path):
            assert used.exists()
    assert not list(tmp_path.glob(f"{SCRATCH}*"))
