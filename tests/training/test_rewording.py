"""Rules that word a prompt otherwise and leave its meaning."""

import re
from itertools import pairwise

import numpy as np
import pytest

from training.studies.rewording import RULES, contractions, politeness, punctuation, question_first, reworded, typos

TEXT = "Ada has 1,250 apples, and Bob's box weighs 3.5 kg. It isn't full. How many apples can't they sell?"


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_changes_the_text_and_keeps_its_numbers(name: str) -> None:
    texts = reworded([TEXT] * 20, RULES[name], seed=0)
    assert any(text != TEXT for text in texts)
    assert all(sorted(re.findall(r"\d[\d.,]*\d|\d", text)) == ["1,250", "3.5"] for text in texts)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_takes_any_text(name: str) -> None:
    for text in ("", " ", "?", "{}", "a", "日本語。", "x" * 5_000, "{0} {name} \\1 \\g<2>", "\n\n.\n"):
        reworded([text], RULES[name], seed=0)


def test_the_same_seed_words_alike_and_another_otherwise() -> None:
    rule = RULES["typos, 10% of letters"]
    assert reworded([TEXT] * 2, rule, 1) == reworded([TEXT] * 2, rule, 1)
    assert reworded([TEXT], rule, 1) != reworded([TEXT], rule, 2)


def test_typing_errors_are_as_many_as_asked() -> None:
    text = "abcdefghij" * 200
    for rate in (0.01, 0.1):
        changed = typos(rate)(text, rng())
        doubled = sum(a == b for a, b in pairwise(changed))
        assert doubled == pytest.approx(2_000 * rate / 3, rel=0.6)
    assert typos(0.0)(text, rng()) == text


def test_only_letters_are_mistyped() -> None:
    assert typos(1.0)("12 + 7 = ?", rng()) == "12 + 7 = ?"


def test_contractions_go_one_way_or_the_other() -> None:
    assert contractions("Do not say it is so", rng()) == "Don't say it's so"
    assert contractions("What's this? Don't!", rng()) == "What is this? Do not!"
    assert contractions("nothing here", rng()) == "nothing here"


def test_punctuation_between_words_and_at_the_end_goes() -> None:
    assert punctuation("If so, then 1, 2 and 3,000: why?\n", rng()) == "If so then 1, 2 and 3,000: why"


def test_the_last_sentence_comes_first() -> None:
    assert question_first("A is 3.5. B is 2. Which is more?", rng()) == "A is 3.5. B is 2. Which is more?"
    assert question_first("Ann ran. Bob sat. Who ran?", rng()) == "Who ran? Ann ran. Bob sat."
    assert question_first("Only one sentence here?", rng()) == "Only one sentence here?"


def test_politeness_keeps_the_text_whole() -> None:
    assert "{x} is {}" in politeness("{x} is {}", rng())
