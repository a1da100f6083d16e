"""Policies that ask forests, several of them together: on one query, asking is mostly numpy's own time."""

from abc import abstractmethod
from collections.abc import Sequence

from router.features import ReadingPolicy
from router.policy import Policy
from router.trees import Forest, Grove
from router.types import Estimate, Floats, Queries


class TreePolicy(ReadingPolicy):
    """A policy whose estimate comes of what its `forests` say of its `tree_features`."""

    axes_: Floats  # [d, A], of the vectors: what tree features beside the reader's depend on

    @abstractmethod
    def forests(self) -> Sequence[Forest]: ...

    @abstractmethod
    def tree_features(self, queries: Queries) -> Floats:
        """[n, F] float32, of queries that are `described`."""

    @abstractmethod
    def of_trees(self, said: Sequence[Floats]) -> Estimate:
        """The estimate by what each of the `forests` says, [n, outputs]."""

    def _estimate(self, queries: Queries) -> Estimate:
        return self.of_trees([forest.predict(self.tree_features(queries)) for forest in self.forests()])


class Together:
    """Parts of one policy, lent one reader; forests over the same axes are asked at once."""

    def __init__(self, parts: Sequence[Policy]) -> None:
        self._parts = tuple(parts)
        alike: dict[bytes, list[int]] = {}
        for number, part in enumerate(parts):
            if isinstance(part, TreePolicy):
                alike.setdefault(part.axes_.tobytes(), []).append(number)
        self._groves = [
            (numbers, Grove([forest for number in numbers for forest in self._of(number).forests()]))
            for numbers in alike.values()
        ]

    def _of(self, number: int) -> TreePolicy:
        part = self._parts[number]
        assert isinstance(part, TreePolicy)
        return part

    def estimates(self, queries: Queries) -> list[Estimate]:
        """Each part's, of queries that are `described`."""
        found: dict[int, Estimate] = {}
        for numbers, grove in self._groves:
            said = iter(grove.predict(self._of(numbers[0]).tree_features(queries)))
            for number in numbers:
                part = self._of(number)
                found[number] = part.of_trees([next(said) for _ in part.forests()])
        return [found.get(number) or part.predict(queries) for number, part in enumerate(self._parts)]
