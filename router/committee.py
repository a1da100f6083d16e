"""Several nets of one kind, each trained on all but one part of the prompts, that answer as one policy.

Neural network ensembles, cross validation, and active learning (Krogh and Vedelsby, 1995). The part that a member
did not learn from stops its training, gives the honest predictions by which all are shrunk towards the experts'
means, and decides between settings. How far the members lie apart is the delete-a-group jackknife's measure of
uncertainty (Kott, 2001), that of the expert's mean added.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from router.artifact import nested, take, within
from router.descent import Descent, Net, Parameters, descend, sigmoid
from router.directions import directions, slope
from router.errors import DataError
from router.features import ReadingPolicy, table_of
from router.types import Floats, Outcomes, Queries

BLOCKS = (1.0, 1.0, 0.5, 1.0)  # weights of vector, topics, counts and domains in the design
SCREENED = 2  # parts on which settings are compared
NOISES = (1.0, 0.4)
LEAST_VARIANCE = 0.05  # of one answer
LEAST_STD = 0.01
NEARLY_ALL = 0.9  # of the cells: in sparser tables experts are not compared with each other, but all trusted alike


@dataclass(kw_only=True, eq=False)
class Committee(ReadingPolicy):
    """`members` nets; `noise` and `features` (read the prompt's beside its vector) are chosen where they are None.

    `noise`, `expert_dropout` and `balance` are those of `router.descent.Descent`.
    """

    noise: float | None = None
    features: bool | None = None
    expert_dropout: float = 0.0
    balance: float = 0.0
    members: int = 5
    rng: int = 0

    how: ClassVar[Descent] = Descent()

    @abstractmethod
    def net(self, settings: Mapping[str, Any]) -> Net:
        """The net of the settings; for a net whose parameters are there, the settings may be empty."""

    def alternatives(self) -> dict[str, Sequence[Any]]:
        """Settings to choose between; the first of each is what the others are tried with."""
        return {
            "features": (True, False) if self.features is None else (self.features,),
            "noise": NOISES if self.noise is None else (self.noise,),
        }

    def _learn(self, outcomes: Outcomes) -> None:
        if self.members < 2 or not 0 <= self.expert_dropout < 1 or min(self.noise or 0.0, self.balance) < 0:
            raise DataError(
                "a committee needs 2 members, expert_dropout in [0, 1), and noise and balance of at least 0"
            )
        table, quality = table_of(outcomes.queries), outcomes.quality
        self.centre_ = table.mean(axis=0)
        parts = np.random.default_rng(self.rng).permutation(np.arange(len(table)) % self.members)
        trained = _Trials(self, table, quality, parts)
        settings = trained.settled()
        self.scale_ = self.scale(table, settings["features"])
        self.net_ = self.net(settings)
        design = (table - self.centre_) * self.scale_
        self.nets_ = [_halved(trained.member(number, settings)[0]) for number in range(self.members)]
        honest = np.empty(quality.shape)
        for number, parameters in enumerate(self.nets_):
            held = parts == number
            honest[held] = sigmoid(self.net_.logits(parameters, design[held])[0])
        self._shrink(honest, quality)

    def _shrink(self, honest: Floats, quality: Floats) -> None:
        """Each direction in which experts differ, by how far what was said of it can be trusted."""
        seen = np.isfinite(quality)
        # of a traffic log, the mean over the queries that the expert did not get is foretold
        mean = honest.mean(axis=0) + np.nanmean(quality - honest, axis=0)
        guess, truth = honest - mean, np.where(seen, quality, honest) - mean
        if seen.mean() < NEARLY_ALL:
            mixing = slope(guess[seen], truth[seen]) * np.eye(len(mean))
        else:
            turned = directions(honest, quality)
            pairs = zip((guess @ turned.there).T, (truth @ turned.there).T, strict=True)
            mixing = (turned.there * [slope(said, was) for said, was in pairs]) @ turned.back
        self.mean_, self.mixing_ = mean.astype(np.float32), mixing.astype(np.float32)
        variance = np.maximum(mean * (1.0 - mean), LEAST_VARIANCE) / seen.sum(axis=0)
        self.variance_ = np.maximum(variance, LEAST_STD**2).astype(np.float32)
        self.honest_ = mean + guess @ mixing

    def scale(self, table: Floats, features: bool) -> Floats:
        """The factor of each column of `table`, [d + F], so that the columns read have a variance of about one."""
        blocks = self.reader_.blocks
        vector = table.shape[1] - blocks.domains.stop
        scale = np.zeros(table.shape[1], dtype=np.float32)
        places = (slice(0, vector), *(slice(vector + b.start, vector + b.stop) for b in blocks))
        for place, weight in zip(places[: None if features else 1], BLOCKS, strict=False):
            power = float(table[:, place].var(axis=0).sum())
            scale[place] = weight / np.sqrt(power) if power > 1e-9 else 0.0
        power = float((table.var(axis=0) * scale**2).sum())
        return scale * np.float32(np.sqrt(np.count_nonzero(scale) / max(power, 1e-9)))

    def _predict(self, queries: Queries) -> tuple[Floats, Floats]:
        design = (table_of(queries) - self.centre_) * self.scale_
        said = np.stack([sigmoid(self.net_.logits(parameters, design)[0]) for parameters in self.nets_])
        each = self.mean_ + (said - self.mean_) @ self.mixing_
        quality = np.minimum(np.maximum(each.mean(axis=0), 0.0), 1.0)
        return quality, np.sqrt((self.members - 1) * each.var(axis=0) + self.variance_)

    def _learned(self) -> dict[str, NDArray[Any]]:
        stacked = {name: np.stack([net[name] for net in self.nets_]) for name in self.net_.axes}
        return {
            "centre": self.centre_,
            "scale": self.scale_,
            "mean": self.mean_,
            "mixing": self.mixing_,
            "variance": self.variance_,
            **nested("nets", {n: a.astype(np.float16) if a.ndim > 2 else a for n, a in stacked.items()}),
        }

    def _relearn(self, state: Mapping[str, NDArray[Any]]) -> None:
        experts = len(self.experts_)
        self.centre_ = take(state, "centre", (None,))
        self.scale_ = take(state, "scale", self.centre_.shape)
        self.mean_ = take(state, "mean", (experts,))
        self.mixing_ = take(state, "mixing", (experts, experts))
        self.variance_ = take(state, "variance", (experts,))
        self.net_ = self.net({})
        sizes = {"d": len(self.centre_), "k": experts}
        found = within("nets", state)
        stacked = {}
        for name, axes in self.net_.axes.items():
            array = take(found, name, (self.members, *(sizes.get(axis) for axis in axes)))
            sizes |= dict(zip(axes, array.shape[1:], strict=True))
            stacked[name] = array
        self.nets_ = [{name: array[m] for name, array in stacked.items()} for m in range(self.members)]


class _Trials:
    """The members by settings; one that was trained to compare settings is not trained again."""

    def __init__(self, policy: Committee, table: Floats, quality: Floats, parts: NDArray[np.intp]) -> None:
        self._policy, self._table, self._quality, self._parts = policy, table, quality, parts
        self._found: dict[tuple[Any, ...], tuple[Parameters, float]] = {}

    def settled(self) -> dict[str, Any]:
        """The settings that err least on the parts held out, changed one by one."""
        choices = self._policy.alternatives()
        best = {name: values[0] for name, values in choices.items()}
        for name, values in choices.items():
            best = min(({**best, name: value} for value in values), key=self._loss) if len(values) > 1 else best
        return best

    def _loss(self, settings: Mapping[str, Any]) -> float:
        return sum(self.member(number, settings)[1] for number in range(SCREENED))

    def member(self, number: int, settings: Mapping[str, Any]) -> tuple[Parameters, float]:
        key = (number, *settings.values())
        if key not in self._found:
            policy = self._policy
            design = (self._table - policy.centre_) * policy.scale(self._table, settings["features"])
            how = replace(
                policy.how,
                noise=settings["noise"],
                dropout=policy.expert_dropout,
                balance=policy.balance,
            )
            rng = np.random.default_rng((policy.rng, number))
            held = self._parts == number
            self._found[key] = descend(policy.net(settings), design, self._quality, held, how, rng)
        return self._found[key]


def _halved(parameters: Parameters) -> Parameters:
    """In half precision, as they are stored."""
    return {
        name: array.astype(np.float16).astype(np.float32) if array.ndim > 1 else array
        for name, array in parameters.items()
    }
