"""A multilayer perceptron: one hidden layer that all experts share, and a sigmoid head for each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from router.committee import Committee
from router.descent import Memory, Net, Parameters, drawn
from router.errors import DataError
from router.types import Floats

HEADS = 0.3  # of the spread at which logits would start with a variance of one


class Trunk(Net):
    """A hidden layer of `hidden` rectified units."""

    axes: ClassVar[Mapping[str, str]] = {"trunk": "dh", "trunk_bias": "h", "heads": "hk", "bias": "k"}

    def __init__(self, hidden: int) -> None:
        self._hidden = hidden

    def start(self, width: int, usual: Floats, rng: np.random.Generator) -> Parameters:
        return {
            "trunk": drawn(rng, (2.0 / width) ** 0.5, width, self._hidden),
            "trunk_bias": np.zeros(self._hidden, np.float32),
            "heads": drawn(rng, HEADS / self._hidden**0.5, self._hidden, len(usual)),
            "bias": usual.copy(),
        }

    def logits(self, parameters: Parameters, design: Floats) -> tuple[Floats, Memory]:
        hidden = np.maximum(design @ parameters["trunk"] + parameters["trunk_bias"], 0.0)
        return hidden @ parameters["heads"] + parameters["bias"], {"design": design, "hidden": hidden}

    def gradient(self, parameters: Parameters, memory: Memory, slope: Floats) -> Parameters:
        design, hidden = memory["design"], memory["hidden"]
        back = (slope @ parameters["heads"].T) * (hidden > 0)
        return {
            "trunk": design.T @ back,
            "trunk_bias": back.sum(axis=0),
            "heads": hidden.T @ slope,
            "bias": slope.sum(axis=0),
        }


@dataclass(kw_only=True, eq=False)
class Mlp(Committee):
    """`hidden` units; the rest is said in `router.committee`."""

    hidden: int = 256

    def net(self, settings: Mapping[str, Any]) -> Net:
        if self.hidden < 1:
            raise DataError(f"hidden: {self.hidden} is not at least 1")
        return Trunk(self.hidden)
