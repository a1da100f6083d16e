"""UniRoute's learned cluster map: which clusters a prompt belongs to, so that their error vectors explain outcomes.

Universal Model Routing for Efficient LLM Inference (Jitkrittum et al., 2025), section on the learned map: a softmax
of linear scores of the vector, trained on the log loss of (shares x the experts' error vectors), the vectors held
fixed. Here it starts where K-means left it and is drawn back there, so that it errs at most as K-means does on the
prompts held out.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.descent import Descent, Memory, Net, Parameters, descend, softmax
from router.effects import Effects
from router.types import Floats

HOW = Descent(rate=3e-3, decay=1.0, batch=256, epochs=20, patience=3)
MARGIN = 0.01  # by which a chance stays away from 0 and 1


@dataclass(frozen=True)
class _Map(Net):
    """Of `mean` + the shares in each level's clusters x that level's `effects`, as logits.

    The parameters are what is added to `centroids` [C, d] and `offsets` [C].
    """

    centroids: Floats
    offsets: Floats
    effects: Effects
    sharpness: float

    def start(self, width: int, usual: Floats, rng: np.random.Generator) -> Parameters:
        assert width == self.centroids.shape[1]
        return {"centroids": np.zeros_like(self.centroids), "offsets": np.zeros_like(self.offsets)}

    def logits(self, parameters: Parameters, design: Floats) -> tuple[Floats, Memory]:
        centroids, offsets = self.centroids + parameters["centroids"], self.offsets + parameters["offsets"]
        score = (design @ centroids.T - offsets) * self.sharpness
        chance = np.tile(self.effects.mean, (len(design), 1))
        parts, start = [], 0
        for effect in self.effects.effects:
            parts.append(softmax(score[:, start : start + len(effect)]))
            chance += parts[-1] @ effect
            start += len(effect)
        inside = (chance > MARGIN) & (chance < 1.0 - MARGIN)
        chance = np.clip(chance, MARGIN, 1.0 - MARGIN)
        memory = {
            "design": design,
            "shares": parts,
            "steep": np.where(inside, 1.0 / (chance * (1.0 - chance)), 0.0),
        }
        return np.log(chance / (1.0 - chance)), memory

    def gradient(self, parameters: Parameters, memory: Memory, slope: Floats) -> Parameters:
        by_chance = (slope * memory["steep"]).astype(np.float32)
        pushes = []
        for share, effect in zip(memory["shares"], self.effects.effects, strict=True):
            push = by_chance @ effect.T
            pushes.append(share * (push - (share * push).sum(axis=1, keepdims=True)))
        by_score = self.sharpness * np.concatenate(pushes, axis=1)
        return {"centroids": by_score.T @ memory["design"], "offsets": -by_score.sum(axis=0)}


def refined(
    start: tuple[Floats, Floats],
    effects: Effects,
    temperature: float,
    vectors: Floats,
    quality: Floats,
    held: NDArray[np.bool_],
    seed: int,
) -> tuple[Floats, Floats]:
    """Centroids [C, d] and offsets [C] of all levels, so that shares are softmax((v . c - o) x 2 / temperature).

    `start`: those of K-means. The prompts `held` out say when to stop.
    """
    net = _Map(*start, effects, 2.0 / temperature)
    found, _ = descend(net, vectors, quality, held, HOW, np.random.default_rng(seed))
    return start[0] + found["centroids"], start[1] + found["offsets"]
