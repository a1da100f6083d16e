"""Matrix factorization of who answers what: an expert's abilities meet what a prompt asks for and how hard it is.

RouteLLM (Ong et al., 2024) factorizes for two models; here for any number, as multidimensional item response
theory does (Reckase, 2009): `logit q(x, k) = ability_k . discrimination(x) - difficulty(x) + bias_k`. All experts
share the difficulty, so every answer of a traffic log, which shows one expert per prompt, tells of it. Abilities
are drawn to nothing, which leaves an expert with few answers at the common difficulty and its own bias.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from router.committee import Committee
from router.descent import Memory, Net, Parameters, drawn
from router.errors import DataError
from router.types import Floats

HIDDEN = 128  # rectified units beside the design itself, of which discrimination and difficulty are made
LATENTS = (8, 16, 2)
START = 0.3


class Responses(Net):
    """Abilities in `latent` dimensions."""

    axes: ClassVar[Mapping[str, str]] = {
        "trunk": "dh",
        "trunk_bias": "h",
        "discrimination": "br",  # of the basis: the design and the hidden units
        "discrimination_bias": "r",
        "difficulty": "bo",
        "ability": "rk",
        "bias": "k",
    }

    def __init__(self, latent: int) -> None:
        self._latent = latent

    def start(self, width: int, usual: Floats, rng: np.random.Generator) -> Parameters:
        basis = width + HIDDEN
        return {
            "trunk": drawn(rng, (2.0 / width) ** 0.5, width, HIDDEN),
            "trunk_bias": np.zeros(HIDDEN, np.float32),
            "discrimination": drawn(rng, START / basis**0.5, basis, self._latent),
            "discrimination_bias": np.zeros(self._latent, np.float32),
            "difficulty": np.zeros((basis, 1), np.float32),
            "ability": drawn(rng, START, self._latent, len(usual)),
            "bias": usual.copy(),
        }

    def logits(self, parameters: Parameters, design: Floats) -> tuple[Floats, Memory]:
        hidden = np.maximum(design @ parameters["trunk"] + parameters["trunk_bias"], 0.0)
        basis = np.hstack([design, hidden])
        asked = basis @ parameters["discrimination"] + parameters["discrimination_bias"]
        logits = asked @ parameters["ability"] - basis @ parameters["difficulty"] + parameters["bias"]
        return logits, {"basis": basis, "asked": asked}

    def gradient(self, parameters: Parameters, memory: Memory, slope: Floats) -> Parameters:
        basis, asked, width = memory["basis"], memory["asked"], len(parameters["trunk"])
        harder = -slope.sum(axis=1, keepdims=True)
        back = slope @ parameters["ability"].T
        hidden = back @ parameters["discrimination"][width:].T + harder @ parameters["difficulty"][width:].T
        hidden *= basis[:, width:] > 0
        return {
            "trunk": basis[:, :width].T @ hidden,
            "trunk_bias": hidden.sum(axis=0),
            "discrimination": basis.T @ back,
            "discrimination_bias": back.sum(axis=0),
            "difficulty": basis.T @ harder,
            "ability": asked.T @ slope,
            "bias": slope.sum(axis=0),
        }


@dataclass(kw_only=True, eq=False)
class Factorization(Committee):
    """`latent` dimensions, chosen on held-out prompts where None; the rest is said in `router.committee`."""

    latent: int | None = None

    def alternatives(self) -> dict[str, Sequence[Any]]:
        if self.latent is not None and self.latent < 1:
            raise DataError(f"latent: {self.latent} is not at least 1")
        most = max(len(self.experts_) - 1, 1)  # more dimensions than that say nothing more
        latents = tuple(dict.fromkeys(min(latent, most) for latent in LATENTS))
        return {"latent": latents if self.latent is None else (self.latent,), **super().alternatives()}

    def net(self, settings: Mapping[str, Any]) -> Net:
        return Responses(settings.get("latent", 0))
