"""The guard: what may be the same question, and what cannot be."""

import pytest

from router.sameness import order, reordered, short, signature


def alike(a: str, b: str) -> bool:
    return signature(a) == signature(b) and not reordered(order(a), order(b))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("How do I reset my password?", "I want to reset my password, what should I do?"),
        ("What does `len()` do?", "Explain what `len()` does."),
        ("Name 2 rivers in Spain", "Tell me two rivers in Spain"),
        ("Isn't it cold?", "Is it not cold?"),
        ("", ""),
    ],
)
def test_paraphrases_pass(a: str, b: str) -> None:
    assert alike(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Convert 5 miles", "Convert 7 miles"),
        ("Add 1.5 and 2", "Add 15 and 2"),
        ("Divide 3 by 7", "Divide 7 by 3"),
        ("Is it safe?", "Is it unsafe?"),
        ("Can I eat it?", "Can't I eat it?"),
        ("Weather in Paris", "Weather in Rome"),
        ("From Paris to Rome", "From Rome to Paris"),
        ("is gold heavier than lead", "is lead heavier than gold"),
        ("What does `len()` do?", "What does `sum()` do?"),
        ('Define "candid"', 'Define "frugal"'),
        ("Open config.yaml", "Open config.toml"),
        ("What is snake_case?", "What is camelCase?"),
        ("Sort ascending", "Sort descending"),
    ],
)
def test_what_changes_the_answer_does_not(a: str, b: str) -> None:
    assert not alike(a, b)


def test_what_the_encoder_may_cut_is_not_compared() -> None:
    assert short("a" * 768) and not short("a" * 769) and not short("語" * 257)


def test_any_text_has_a_signature() -> None:
    for text in ("\ud800", "'" * 500, "`" * 501, "\x00", "A" * 700, "1," * 300, '"' + "x" * 700, "()[]{}" * 100):
        assert signature(text) == signature(text) and not reordered(order(text), order(text))
