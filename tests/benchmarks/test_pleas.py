"""The pairs that the steering benchmark is made of: what the guard finds of them."""

import pytest
from pleas import GADGETS, HELD_OUT, SEEN

from router.guards.steering import heard

QUESTION = "What is the capital of France? Explain in three lines."


@pytest.mark.parametrize(("plea", "neutral"), SEEN)
def test_a_plea_is_not_heard_and_its_neutral_twin_is(plea: str, neutral: str) -> None:
    assert heard(f"{QUESTION} {plea}").rstrip(" [") == QUESTION
    assert heard(f"{QUESTION} {neutral}") == f"{QUESTION} {neutral}"


@pytest.mark.parametrize("neutral", [neutral for _, neutral in (*HELD_OUT, *GADGETS)])
def test_no_other_neutral_text_is_kept_from_the_router(neutral: str) -> None:
    assert heard(f"{neutral} {QUESTION}") == f"{neutral} {QUESTION}"


def test_twins_are_of_about_one_length() -> None:
    for plea, neutral in (*SEEN, *HELD_OUT, *GADGETS):
        assert abs(len(plea) - len(neutral)) <= 0.2 * len(plea), (plea, neutral)
