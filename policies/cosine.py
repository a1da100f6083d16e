"""X-MoE's scores: the cosine of the projected prompt and every expert's embedding, on a sphere of few dimensions.

On the Representation Collapse of Sparse Mixture of Experts (Chi et al., 2022): vectors are projected to few
dimensions and scaled to length one, experts' embeddings too, and the temperature of the cosine is learned.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from router.committee import Committee
from router.descent import Memory, Net, OnSphere, Parameters, drawn
from router.errors import DataError
from router.types import Floats

TEMPERATURE = 0.5  # before training


class Sphere(Net):
    """A sphere of `dimension` dimensions."""

    axes: ClassVar[Mapping[str, str]] = {
        "projection": "ds",
        "projection_bias": "s",
        "experts": "ks",
        "sharpness": "o",  # logarithm of one over the temperature
        "bias": "k",
    }

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension

    def start(self, width: int, usual: Floats, rng: np.random.Generator) -> Parameters:
        return {
            "projection": drawn(rng, width**-0.5, width, self._dimension),
            "projection_bias": np.zeros(self._dimension, np.float32),
            "experts": drawn(rng, 1.0, len(usual), self._dimension),
            "sharpness": np.array([-np.log(TEMPERATURE)], np.float32),
            "bias": usual.copy(),
        }

    def logits(self, parameters: Parameters, design: Floats) -> tuple[Floats, Memory]:
        query = OnSphere.of(design @ parameters["projection"] + parameters["projection_bias"])
        expert = OnSphere.of(parameters["experts"])
        sharp = np.exp(parameters["sharpness"])
        cosine = query.unit @ expert.unit.T
        memory = {"design": design, "query": query, "expert": expert, "cosine": cosine, "sharp": sharp}
        return cosine * sharp + parameters["bias"], memory

    def gradient(self, parameters: Parameters, memory: Memory, slope: Floats) -> Parameters:
        query, expert, sharp = memory["query"], memory["expert"], memory["sharp"]
        turned = slope * sharp
        projected = query.back(turned @ expert.unit)
        return {
            "projection": memory["design"].T @ projected,
            "projection_bias": projected.sum(axis=0),
            "experts": expert.back(turned.T @ query.unit),
            "sharpness": np.array([(turned * memory["cosine"]).sum()], np.float32),
            "bias": slope.sum(axis=0),
        }


@dataclass(kw_only=True, eq=False)
class Cosine(Committee):
    """`dimension` of the sphere; the rest is said in `router.committee`."""

    dimension: int = 32

    def net(self, settings: Mapping[str, Any]) -> Net:
        if self.dimension < 2:
            raise DataError(f"dimension: {self.dimension} is not at least 2")
        return Sphere(self.dimension)
