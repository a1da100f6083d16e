"""Prompts as they might also have been written: with typos, or with their names and numbers hidden.

Knows nothing of models. Typos are the noisy inputs of S2MoE (Do et al., 2025); hidden entities, as in R2R, keep a
router from learning a name in the place of what is asked.
"""

import random
import re

SLIPS = 0.15  # share of the longer words in which a finger slips
SHORTEST = 4  # letters of a word that is long enough to slip in
HIDDEN = 0.5  # share of the entities that are hidden
MASK = "[MASK]"

_WORD = re.compile(rf"[A-Za-z]{{{SHORTEST},}}")
#: A number, or a capitalised word inside a sentence.
_ENTITY = re.compile(r"\d+(?:[.,]\d+)*|(?<=[a-z,;] )[A-Z][a-z]+")


def with_typos(text: str, rng: random.Random) -> str:
    """Some words with two letters swapped, one letter lost or one doubled."""

    def slip(word: re.Match[str]) -> str:
        letters = word.group()
        if rng.random() >= SLIPS:
            return letters
        at = rng.randrange(1, len(letters) - 1)
        before, pair, after = letters[:at], letters[at : at + 2], letters[at + 2 :]
        return before + rng.choice((pair[::-1], pair[1:], pair[0] + pair)) + after

    return _WORD.sub(slip, text)


def with_masks(text: str, rng: random.Random) -> str:
    """Some numbers and names replaced by a mask."""
    return _ENTITY.sub(lambda entity: MASK if rng.random() < HIDDEN else entity.group(), text)
