"""The contract of a step."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

from numpy.typing import NDArray

from router.types import Estimate, Queries


class Step(ABC):
    """Takes an estimate [n, K] of some queries and returns a truer one, which may have more experts."""

    #: How many experts the step adds to those it is given.
    adds: int = 0

    @property
    def kind(self) -> str:
        """The step's kind is the name of its file."""
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def apply(self, queries: Queries, estimate: Estimate) -> Estimate:
        """Looks at each query by itself: no query's estimate depends on another's."""

    @abstractmethod
    def state(self) -> dict[str, NDArray[Any]]:
        """The learned arrays."""

    @classmethod
    @abstractmethod
    def restored(cls, state: Mapping[str, NDArray[Any]]) -> Self:
        """Takes back what `state` gave; a missing or misshapen array raises `ArtifactError`."""
