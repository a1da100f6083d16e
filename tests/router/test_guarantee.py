"""What is proven of a floor holds as often as it says, whatever the estimates are worth; and it is worth having."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from router.guarantee import LEAST_PROMPTS, SHARES, Replay, certified_share, served_quality, surely_positive
from router.objective import Terms, choose, price_of_quality, utility
from router.types import Floats, Wishes

LEVEL, SURE = 0.1, 0.9
SPLITS = 200
SLACK = 0.05  # 200 splits at a chance of .1 give .15 or more once in a hundred
Draw = Callable[[np.random.Generator, tuple[int, int]], Floats]


def sparse(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return rng.choice([-1.0, 0.0, 1.0], p=[0.02, 0.96, 0.02], size=shape)


def rare_disaster(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return np.where(rng.random(shape) < 0.01, -0.99, 0.01)


def rare_luck(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return np.where(rng.random(shape) < 0.02, 0.98, -0.02)


def wide(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return rng.uniform(-1.0, 1.0, size=shape)


@pytest.mark.parametrize("prompts", [LEAST_PROMPTS, 700])
@pytest.mark.parametrize("draw", [sparse, rare_disaster, rare_luck, wide])
def test_what_has_no_gain_is_seldom_taken_for_a_gain(draw: Draw, prompts: int) -> None:
    gain = draw(np.random.default_rng(1), (prompts, 2000))
    assert abs(gain.mean()) < 0.002
    assert surely_positive(gain, 1.0, LEVEL).mean() <= LEVEL + 0.02


def test_a_clear_gain_is_found_and_more_certainty_takes_more_of_it() -> None:
    gain = sparse(np.random.default_rng(2), (1000, 500)) + 0.02
    assert surely_positive(gain, 1.0, LEVEL).mean() > 0.8
    assert surely_positive(gain, 1.0, 1e-6).mean() < 0.2


def test_the_rows_before_a_bet_decide_it_and_not_those_after() -> None:
    gain = wide(np.random.default_rng(3), (320, 50))
    lost = np.concatenate([gain, -np.ones((320, 50))])
    won = np.concatenate([np.full((320, 50), 0.5), -np.ones((320, 50))])
    assert surely_positive(won, 1.0, LEVEL).all() and not surely_positive(lost, 1.0, LEVEL).all()


@dataclass(frozen=True)
class World:
    """Prompts [n] of a world; `cost` [4], the experts from the cheapest to the dearest."""

    foretold: Floats
    observed: Floats
    cost: Floats

    def replay(self, rows: Floats | slice = slice(None)) -> Replay:
        quality = self.foretold[rows].astype(np.float32)
        return Replay(quality, np.broadcast_to(self.cost, quality.shape), self.observed[rows])


def world(kind: str, prompts: int, seed: int = 0) -> World:
    rng = np.random.default_rng(seed)
    strength = np.array([-0.3, 0.3, 0.9, 1.1])
    hardness = rng.normal(size=(prompts, 1)) * 1.5
    truth = 1 / (1 + np.exp(hardness - strength + 0.8 * rng.normal(size=(prompts, 4))))
    observed = (rng.random((prompts, 4)) < truth).astype(float)
    foretold = truth
    if kind == "miscalibrated":  # knows nothing of the prompt and thinks the cheapest the best
        foretold = np.clip(0.8 - 0.1 * np.arange(4) + 0.3 * rng.normal(size=(prompts, 4)), 0, 1)
    if kind == "ties":  # most prompts are answered alike by all, and the estimates are few and say little
        observed = np.where(rng.random((prompts, 1)) < 0.9, observed[:, :1], observed)
        foretold = np.round(0.6 + 0.2 * rng.normal(size=(prompts, 4)), 1).clip(0, 1)
    return World(foretold, observed, np.array([1.0, 3.0, 10.0, 30.0]) * 1e-4)


@pytest.fixture(params=["calibrated", "miscalibrated", "ties"], scope="module")
def tried(request: pytest.FixtureRequest) -> "Tried":
    return Tried(request.param)


class Tried:
    """A world of 10,000 prompts, of which each split shows 400 to whoever certifies and 400 to whoever counts."""

    def __init__(self, kind: str) -> None:
        self.world = world(kind, 10_000)
        everything = self.world.replay()
        self.price = price_of_quality(everything.quality, everything.cost_usd, 0.05)
        self.served = served_quality(everything, self.price)
        self.kept = self._kept(slice(None))  # the true floor of each share

    def _kept(self, rows: Any) -> Floats:
        return np.asarray(self.served[rows].mean(axis=0) / self.world.observed[rows].mean(axis=0).max())

    def splits(self, floor: float, count: int) -> list[tuple[float, float]]:
        """The floor that was kept, in truth and as counted, in each of the splits in which any was certified."""
        rng = np.random.default_rng(5)
        found = []
        for _ in range(count):
            shown, counted = np.split(rng.permutation(10_000)[:800], 2)
            share = certified_share(self.world.replay(shown), self.price, floor, SURE)
            if share is not None:
                column = SHARES.index(share)
                found.append((float(self.kept[column]), float(self._kept(counted)[column])))
        return found


def test_over_200_splits_a_hard_floor_is_missed_in_no_more_than_the_stated_share(tried: Tried) -> None:
    floor = min(float(tried.kept.max()) + 1e-4, 1.0)  # just too high for any share, where that is no more than 1
    missed = np.array([(truth < floor, counted < floor) for truth, counted in tried.splits(floor, SPLITS)])
    assert (missed.sum(axis=0) / SPLITS <= LEVEL + SLACK).all()


def test_a_floor_within_reach_is_mostly_certified(tried: Tried) -> None:
    assert len(tried.splits(0.85 * min(float(tried.kept[0]), 1.0), 40)) >= 30


def spend(replay: Replay, price: float) -> float:
    worth = utility(replay.quality, replay.cost_usd, price)
    return float(np.take_along_axis(replay.cost_usd, worth.argmax(axis=1)[:, None], axis=1).mean())


@pytest.mark.parametrize(("kind", "floor"), [("calibrated", 0.95), ("calibrated", 1.0), ("ties", 0.9)])
def test_a_certified_floor_costs_less_than_the_best_single_expert(kind: str, floor: float) -> None:
    made = world(kind, 2_000)
    replay = made.replay()
    price = price_of_quality(replay.quality, replay.cost_usd, 0.05)
    share = certified_share(replay, price, floor, SURE)
    assert share is not None
    assert spend(replay, share * price) < 0.6 * made.cost[made.observed.mean(axis=0).argmax()]


def test_the_higher_the_floor_the_less_is_economised() -> None:
    replay = world("calibrated", 2_000).replay()
    shares = [certified_share(replay, 5000.0, floor, SURE) for floor in (0.98, 0.95, 0.9, 0.8)]
    assert None not in shares and shares == sorted(shares)  # type: ignore[type-var]
    assert shares[0] != shares[-1]


def test_the_best_expert_need_not_be_known() -> None:
    # two experts of the same worth, right on different halves: each is the best as likely as the other
    observed = np.tile([[1.0, 0.0], [0.0, 1.0]], (200, 1))
    right, wrong = observed.astype(np.float32), 1 - observed.astype(np.float32)
    cost = np.ones((400, 2))
    assert certified_share(Replay(right, cost, observed), 0.0, 1.0, SURE) is not None
    assert certified_share(Replay(wrong, cost, observed), 0.0, 0.5, SURE) is None


def test_the_way_up_ends_at_the_first_share_that_is_not_proven() -> None:
    # estimates have it the wrong way round, so only prices high enough to ignore them would keep the floor
    foretold = np.tile(np.array([0.9, 0.6], np.float32), (400, 1))
    observed, cost = np.tile([0.0, 1.0], (400, 1)), np.tile([1.0, 0.1], (400, 1))
    assert certified_share(Replay(foretold, cost, observed), 10.0, 0.9, SURE) is None
    assert certified_share(Replay(foretold[:, ::-1], cost, observed), 10.0, 0.9, SURE) == 1.0


@pytest.mark.parametrize("explore", [0.0, 0.3, 1.0])
def test_the_replayed_rule_is_the_one_that_serves(explore: float) -> None:
    rng = np.random.default_rng(7)
    quality = np.round(rng.uniform(0, 1, (60, 5)), 1).astype(np.float32)  # rounded, so that there are ties
    cost = np.round(rng.uniform(0, 1, (60, 5)), 1)
    observed = rng.uniform(0, 1, (60, 5))
    replayed = served_quality(Replay(quality, cost, observed), 0.5, explore)
    for column, share in enumerate(SHARES):
        for row in range(60):
            terms = Terms(quality[row], cost[row], cost[row])
            choice = choose(terms, {}, Wishes(), share * 0.5, explore=explore)
            assert replayed[row, column] == pytest.approx(choice.propensity @ observed[row], abs=1e-6)
