"""What is embedded of a chat request: the last user message, understood, and never an exception."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.conversation import LIMIT_CHARS, query_text

QUESTION = "How do I convert a list of strings into a list of integers in Python, skipping what is not a number?"


def said(*turns: tuple[str, object]) -> list[dict]:
    return [{"role": role, "content": content} for role, content in turns]


def test_a_question_long_enough_stands_alone():
    chat = said(("system", "You are a pirate."), ("user", "hello"), ("assistant", "Ahoy!"), ("user", QUESTION))
    assert query_text(chat) == QUESTION


def test_a_short_follow_up_is_preceded_by_the_turns_that_explain_it():
    chat = said(
        ("user", "How do I say good morning in French?"), ("assistant", "Bonjour."), ("user", "and in Spanish?")
    )
    assert query_text(chat) == "How do I say good morning in French?\nBonjour.\nand in Spanish?"


def test_a_follow_up_goes_back_to_a_question_past_the_answers():
    chat = said(
        ("user", "old subject"),
        ("assistant", "yes"),
        ("user", QUESTION),
        ("assistant", "A" * 900),
        ("user", "why?"),
    )
    assert query_text(chat) == f"{QUESTION}\n{'A' * 400}\nwhy?"


def test_the_steps_of_an_agents_task_are_embedded_alike():
    asked = said(("user", QUESTION))
    later = [*asked, {"role": "assistant", "content": None, "tool_calls": [{}]}, *said(("tool", "42"))]
    assert query_text(later) == query_text(asked)


def test_the_system_prompt_is_left_out_of_an_ordinary_first_message():
    assert (
        query_text(said(("system", "Be brief."), ("user", "What is the capital of Peru?")))
        == "What is the capital of Peru?"
    )


@pytest.mark.parametrize("role", ["system", "developer"])
def test_the_system_prompt_explains_a_bare_word(role):
    assert (
        query_text(said((role, "Classify the sentiment."), ("user", "great!"))) == "Classify the sentiment.\ngreat!"
    )


def test_without_user_text_the_system_prompt_is_what_there_is():
    assert query_text(said(("system", "Write a poem."))) == "Write a poem."


def test_the_text_parts_of_a_message_are_joined_and_images_left_out():
    parts = [
        {"type": "text", "text": QUESTION},
        {"type": "image_url", "image_url": {"url": "data:..."}},
        {"type": "text", "text": "b"},
    ]
    assert query_text(said(("user", parts))) == f"{QUESTION}\nb"


def test_a_message_of_images_alone_is_understood_from_the_text_before_it():
    image = [{"type": "image_url", "image_url": {"url": "data:..."}}]
    assert query_text(said(("user", QUESTION), ("user", image))) == QUESTION


def test_a_huge_message_keeps_its_head_and_its_tail():
    text = query_text(said(("user", "head " + "x" * 8_000_000 + " tail")))
    assert len(text) <= LIMIT_CHARS + 1
    assert text.startswith("head ")
    assert text.endswith(" tail")


@pytest.mark.parametrize(
    "odd", [None, [], "text", [None], [[]], [{"role": "user"}], [{"role": ["user"], "content": "a"}]]
)
def test_what_is_no_conversation_has_no_text(odd):
    assert query_text(odd) == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
)
ROLES = st.sampled_from(["user", "assistant", "system", "tool"]) | JSON
PARTS = st.lists(st.fixed_dictionaries({"type": JSON, "text": JSON}) | JSON)
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLES, "content": PARTS | JSON}) | JSON)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(MESSAGES)
def test_no_odd_shape_raises(messages):
    assert isinstance(query_text(messages), str)
