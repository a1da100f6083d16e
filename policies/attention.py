"""Yuan 2.0-M32's attention router: experts attend to each other, by the prompt, before one is preferred.

A classical router takes experts one by one; that of Wu et al. (2024) makes a query, a key and a value of every
expert from the token and answers with Softmax(Q K^T) V: what is known of one expert speaks for its like.
Here a query is the projected prompt as the expert's learned embedding sees it, keys are learned embeddings, and a
value is what a linear score says of the expert. At the start an expert listens to itself as much as to all others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from router.committee import Committee
from router.descent import Memory, Net, Parameters, drawn, softmax
from router.errors import DataError
from router.types import Floats


class Listeners(Net):
    """Queries and keys of `dimension` dimensions."""

    axes: ClassVar[Mapping[str, str]] = {
        "projection": "ds",
        "projection_bias": "s",
        "experts": "ks",
        "keys": "ks",
        "habit": "kk",  # attention of an expert (row) to another, whatever the prompt
        "values": "dk",
        "bias": "k",
    }

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension

    def start(self, width: int, usual: Floats, rng: np.random.Generator) -> Parameters:
        experts = len(usual)
        return {
            "projection": drawn(rng, width**-0.5, width, self._dimension),
            "projection_bias": np.zeros(self._dimension, np.float32),
            "experts": drawn(rng, 1.0, experts, self._dimension),
            "keys": drawn(rng, self._dimension**-0.5, experts, self._dimension),
            "habit": (np.log(experts) * np.eye(experts)).astype(np.float32),
            "values": np.zeros((width, experts), np.float32),
            "bias": usual.copy(),
        }

    def logits(self, parameters: Parameters, design: Floats) -> tuple[Floats, Memory]:
        projected = design @ parameters["projection"] + parameters["projection_bias"]
        query = projected[:, None, :] * parameters["experts"]
        weight = softmax(query @ parameters["keys"].T + parameters["habit"])
        value = design @ parameters["values"]
        heard = (weight @ value[:, :, None])[:, :, 0]
        memory = {
            "design": design,
            "projected": projected,
            "query": query,
            "weight": weight,
            "value": value,
            "heard": heard,
        }
        return heard + parameters["bias"], memory

    def gradient(self, parameters: Parameters, memory: Memory, slope: Floats) -> Parameters:
        design, weight, value = memory["design"], memory["weight"], memory["value"]
        # d softmax: each weight moves by how its value differs from what was heard
        score = weight * (value[:, None, :] - memory["heard"][:, :, None]) * slope[:, :, None]
        query = score @ parameters["keys"]
        projected = (query * parameters["experts"]).sum(axis=1)
        values = (slope[:, None, :] @ weight)[:, 0, :]
        return {
            "projection": design.T @ projected,
            "projection_bias": projected.sum(axis=0),
            "experts": np.einsum("nks,ns->ks", query, memory["projected"]),
            "keys": np.einsum("nkj,nks->js", score, memory["query"], optimize=True),
            "habit": score.sum(axis=0),
            "values": design.T @ values,
            "bias": slope.sum(axis=0),
        }


@dataclass(kw_only=True, eq=False)
class Attention(Committee):
    """`dimension` of queries and keys; the rest is said in `router.committee`."""

    dimension: int = 16

    def net(self, settings: Mapping[str, Any]) -> Net:
        if self.dimension < 1:
            raise DataError(f"dimension: {self.dimension} is not at least 1")
        return Listeners(self.dimension)
