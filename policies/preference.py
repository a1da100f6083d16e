"""Who is preferred to whom: abilities learned from pairs of answers to the same prompt, and what they depend on.

Rank analysis of incomplete block designs (Bradley and Terry, 1952): the odds that a's answer beats b's are the
ratio of their strengths. An expert's ability is here its own plus something linear in the prompt's vector, both
drawn towards all experts' mean; a tie is half a win and half a loss. Preferences come from arena votes (the two
experts of a battle have 1 and 0, or 1/2 and 1/2), from ratings, and from benchmark tables alike: wherever several
experts were observed on a prompt, each pair of them was compared. A thumb on a single answer has no opponent; it
counts as a game against an expert of mean ability, whose answers are liked as often as all are.

The anchor that gives abilities back as qualities: what an expert is expected to score above a prompt's level is in
proportion to its chance against an expert of mean ability. The level and the proportion are those of the observed
scores; in a table of battles the level is 1/2.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from router.artifact import take
from router.effects import estimated, held_out, ranking_error
from router.parameters import at_least
from router.policy import Policy
from router.ridge import ridge
from router.types import Floats, Outcomes, Queries

STRENGTHS = (0.3, 0.03, 0.003)  # of the ridge on what depends on the prompt, per observation; tried in turn
PRIOR = 3.0  # observations' worth of belief that an expert's ability is the mean
ROUNDS = 60
CHUNK = 1_024


class Preference(Policy):
    """`strength` of the ridge on what depends on the prompt, per observation; None: chosen on prompts held out."""

    def __init__(self, *, strength: float | None = None, rng: int = 0) -> None:
        self.strength = strength
        self.rng = rng

    def _fit(self, outcomes: Outcomes) -> None:
        at_least(self, strength=1e-6)
        self.centre_ = outcomes.queries.embeddings.mean(axis=0).astype(np.float32)
        vectors, quality = (outcomes.queries.embeddings - self.centre_).astype(np.float32), outcomes.quality
        strength, worth = self._chosen(vectors, quality)
        self.abilities_ = _abilities(vectors, quality, strength).astype(np.float32)
        above = worth * _chance(vectors, self.abilities_)
        seen = np.isfinite(quality)
        left = np.where(seen, quality - above, 0.0).sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
        rows = seen.any(axis=1)
        path = ridge(vectors[rows], left[rows, None])
        best = int(path.error(left[rows, None])[:, 0].argmin())
        self.level_ = np.append(path.intercept[best], path.weights[best]).astype(np.float32)
        self.worth_ = np.array([worth], dtype=np.float32)
        self.evidence_ = (seen.sum(axis=0) / max(float(path.used[best, 0]), 1.0)).astype(np.float32)

    def _chosen(self, vectors: Floats, quality: Floats) -> tuple[float, float]:
        """The strength that errs least on prompts held out, and what a chance is worth there."""
        tried = STRENGTHS if self.strength is None else (self.strength,)
        held = held_out(quality, np.random.default_rng(self.rng))
        if held is None:  # too few to hold some out: the cautious choice
            chance = _chance(vectors, _abilities(vectors, quality, tried[0]))
            return tried[0], _worth(chance, quality)
        errors, start = {}, None
        for strength in tried:
            start = _abilities(vectors[~held], quality[~held], strength, start)
            chance = _chance(vectors[held], start)
            worth = _worth(chance, quality[held])
            errors[strength] = ranking_error(worth * chance, quality[held]), worth
        strength = min(errors, key=lambda one: errors[one][0])
        return strength, errors[strength][1]

    def _predict(self, queries: Queries) -> tuple[Floats, Floats]:
        vectors = queries.embeddings - self.centre_
        level = self.level_[0] + vectors @ self.level_[1:]
        quality = level[:, None] + self.worth_ * _chance(vectors, self.abilities_)
        return estimated(quality, np.broadcast_to(self.evidence_, quality.shape))

    def state(self) -> dict[str, Floats]:
        return {
            "centre": self.centre_,
            "abilities": self.abilities_,
            "level": self.level_,
            "worth": self.worth_,
            "evidence": self.evidence_,
        }

    def restore(self, state: Mapping[str, Floats]) -> None:
        experts = len(self.experts_)
        self.centre_ = take(state, "centre", (None,))
        self.abilities_ = take(state, "abilities", (len(self.centre_) + 1, experts))
        self.level_ = take(state, "level", (len(self.centre_) + 1,))
        self.worth_ = take(state, "worth", (1,))
        self.evidence_ = take(state, "evidence", (experts,))


def _chance(vectors: Floats, abilities: Floats) -> Floats:
    """Beyond 1/2, that each expert is preferred to one of the mean ability on this prompt, [n, K]."""
    ability = abilities[0] + vectors @ abilities[1:]
    return np.asarray(0.5 * np.tanh(0.5 * (ability - ability.mean(axis=1, keepdims=True))))


def _worth(chance: Floats, quality: Floats) -> float:
    """What a chance beyond 1/2 is worth in quality: the slope over the observed cells.

    Not within each prompt: in a battle one score falls as the other rises, and the slope would be twice what it is.
    """
    seen = np.isfinite(quality)
    guess, truth = chance[seen], quality[seen]
    guess = guess - guess.mean()
    return max(float(guess @ (truth - truth.mean())) / (float(guess @ guess) + 1e-9), 0.0)


def _abilities(vectors: Floats, quality: Floats, strength: float, start: Floats | None = None) -> Floats:
    """Abilities [1 + d, K]: each expert's own, and its weights over the vector. Convex, by L-BFGS from `start`."""
    from scipy.optimize import minimize

    seen = np.isfinite(quality)
    rows = seen.any(axis=1)
    vectors, quality, seen = vectors[rows], np.where(seen, quality, 0.0)[rows], seen[rows]
    shape = 1 + vectors.shape[1], quality.shape[1]
    alone = seen.sum(axis=1) == 1
    usual = float(np.clip(quality[alone].sum() / max(int(alone.sum()), 1), 0.01, 0.99))
    weight = strength * seen.sum() / shape[1]

    def loss(flat: Floats) -> tuple[float, Floats]:
        abilities = flat.reshape(shape)
        ability = abilities[0] + vectors @ abilities[1:]
        push = np.empty_like(ability)
        value = 0.5 * PRIOR * float((abilities[0] ** 2).sum()) + 0.5 * weight * float((abilities[1:] ** 2).sum())
        for first in range(0, len(ability), CHUNK):
            part = slice(first, first + CHUNK)
            lost, push[part] = _games(ability[part], quality[part], seen[part], np.log(usual / (1.0 - usual)))
            value += lost
        slope = np.vstack([push.sum(axis=0), vectors.T @ push])
        slope += np.vstack([PRIOR * abilities[:1], weight * abilities[1:]])
        return value, slope.ravel()

    first = np.zeros(shape) if start is None else start
    found = minimize(loss, first.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": ROUNDS})
    return np.asarray(found.x.reshape(shape))


def _games(ability: Floats, quality: Floats, seen: NDArray[np.bool_], bar: float) -> tuple[float, Floats]:
    """The log loss of all games of some prompts, and its slope by `ability` [n, K].

    Each observation counts once, however many opponents it had.
    """
    several = seen.sum(axis=1)
    pair = (seen[:, :, None] & seen[:, None, :]) / np.maximum(several - 1, 1)[:, None, None]
    ahead = 0.5 * (ability[:, :, None] - ability[:, None, :])
    won = 0.5 * np.sign(quality[:, :, None] - quality[:, None, :])  # 1/2, 0 or -1/2
    miss = 0.5 * np.tanh(ahead) - won
    # every pair stands here twice; log(1 + e^x) - won x, symmetric about x = 0
    value = 0.5 * float((pair * (np.logaddexp(ahead, -ahead) - 2.0 * won * ahead)).sum())
    push = (pair * miss).sum(axis=2)
    only = seen & (several == 1)[:, None]
    score = ability + bar
    value += float((only * (np.logaddexp(0.0, score) - quality * score)).sum())
    return value, push + only * (0.5 + 0.5 * np.tanh(0.5 * score) - quality)
