"""Prompts in disguise: changed where that is harmless, and the same again with the same seed."""

import random

from router.augmentation import MASK, with_masks, with_typos

TEXT = "Alice and then Robert shared 1,250 apples; how many apples remained when Robert gave away 17?"


def test_typos_keep_the_words_apart_and_the_short_ones_whole() -> None:
    changed = [with_typos(TEXT, random.Random(seed)) for seed in range(40)]
    assert sum(text != TEXT for text in changed) > 30
    for text in changed:
        assert len(text.split()) == len(TEXT.split())
        assert "1,250" in text and " and " in text
        assert abs(len(text) - len(TEXT)) <= 5


def test_names_and_numbers_are_hidden_and_nothing_else() -> None:
    every = {
        word
        for seed in range(40)
        for word in set(TEXT.split()) - set(with_masks(TEXT, random.Random(seed)).split())
    }
    assert every == {"Robert", "1,250", "17?"}
    assert MASK in with_masks(TEXT, random.Random(0))


def test_the_same_seed_disguises_alike() -> None:
    assert with_typos(TEXT, random.Random(3)) == with_typos(TEXT, random.Random(3))
