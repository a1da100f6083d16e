"""Prototypes that prompts are near to: each expert has a few, in a space learned for telling good experts from bad.

ProMoE's learnable prototypes with a routing contrastive loss (Wei et al., 2025), and RouterDC's form of that loss
(Chen et al., 2024): a prompt is pulled to the prototypes of the experts that answered it well and pushed from those
of the experts that failed. Each expert's slope and offset, trained along, make its similarity a quality.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from router.committee import Committee
from router.descent import Memory, Net, OnSphere, Parameters, drawn, softmax
from router.errors import DataError
from router.types import Floats

DIMENSION = 32
NEARNESS = 0.2  # temperature at which an expert's prototypes are one, and at which experts are contrasted
HEAD = 2.0  # logits per unit of similarity, before training
PASS = 0.5  # quality above which an answer is a good one


class Nearness(Net):
    """`prototypes` of each expert; `contrast` weighs the contrastive loss beside that of the qualities."""

    axes: ClassVar[Mapping[str, str]] = {
        "projection": "ds",
        "projection_bias": "s",
        "prototypes": "kps",
        "head": "k",  # logits per unit of similarity
        "bias": "k",
    }

    def __init__(self, prototypes: int, contrast: float) -> None:
        self._prototypes, self._contrast = prototypes, contrast

    def start(self, width: int, usual: Floats, rng: np.random.Generator) -> Parameters:
        experts = len(usual)
        return {
            "projection": drawn(rng, width**-0.5, width, DIMENSION),
            "projection_bias": np.zeros(DIMENSION, np.float32),
            "prototypes": drawn(rng, 1.0, experts, self._prototypes, DIMENSION),
            "head": np.full(experts, HEAD, np.float32),
            "bias": usual.copy(),
        }

    def logits(self, parameters: Parameters, design: Floats) -> tuple[Floats, Memory]:
        shape = parameters["prototypes"].shape
        query = OnSphere.of(design @ parameters["projection"] + parameters["projection_bias"])
        prototype = OnSphere.of(parameters["prototypes"].reshape(-1, shape[2]))
        each = (query.unit @ prototype.unit.T).reshape(-1, *shape[:2])
        weight = softmax(each / NEARNESS)
        peak = each.max(axis=2)
        near = peak + NEARNESS * np.log(np.exp((each - peak[:, :, None]) / NEARNESS).mean(axis=2))
        memory = {"design": design, "query": query, "prototype": prototype, "weight": weight, "near": near}
        return near * parameters["head"] + parameters["bias"], memory

    def gradient(self, parameters: Parameters, memory: Memory, slope: Floats) -> Parameters:
        near = slope * parameters["head"] + memory.get("pull", 0.0)
        each = (near[:, :, None] * memory["weight"]).reshape(len(near), -1)
        query, prototype = memory["query"], memory["prototype"]
        projected = query.back(each @ prototype.unit)
        return {
            "projection": memory["design"].T @ projected,
            "projection_bias": projected.sum(axis=0),
            "prototypes": prototype.back(each.T @ query.unit).reshape(parameters["prototypes"].shape),
            "head": (memory["near"] * slope).sum(axis=0),
            "bias": slope.sum(axis=0),
        }

    def beside(self, memory: Memory, quality: Floats) -> tuple[float, Memory]:
        value, pull = contrastive(memory["near"] / NEARNESS, quality)
        return self._contrast * value, {"pull": self._contrast / NEARNESS * pull}


def contrastive(score: Floats, quality: Floats) -> tuple[float, Floats]:
    """RouterDC's loss of scores [n, K], and its derivative: each good expert against all that failed on the prompt.

    Mean over the good experts of a prompt and the prompts with both; queries answered by all or none say nothing.
    """
    good, bad = np.asarray(quality > PASS), np.asarray(quality <= PASS)  # neither where unobserved
    told = np.asarray(good.any(axis=1) & bad.any(axis=1))
    raised = np.exp(score - score.max(axis=1, keepdims=True))
    failed = (raised * bad).sum(axis=1, keepdims=True)
    share = good * told[:, None] / np.maximum(good.sum(axis=1, keepdims=True) * max(int(told.sum()), 1), 1)
    lost = np.log(raised + failed) - np.log(np.maximum(raised, 1e-30))
    missed = share / (raised + failed + 1e-30)
    slope = -missed * failed + bad * raised * missed.sum(axis=1, keepdims=True)
    return float((share * lost).sum()), slope.astype(score.dtype)


@dataclass(kw_only=True, eq=False)
class Prototype(Committee):
    """`prototypes` of each expert, `contrast` the weight of their loss; the rest is said in `router.committee`."""

    prototypes: int = 4
    contrast: float = 0.02

    def net(self, settings: Mapping[str, Any]) -> Net:
        if self.prototypes < 1 or self.contrast < 0:
            raise DataError("an expert needs 1 prototype at least, and contrast must not be below 0")
        return Nearness(self.prototypes, self.contrast)
