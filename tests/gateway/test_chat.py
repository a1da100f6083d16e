"""Whole answers: what reaches the expert, and what comes back."""

from serving import Gateway
from upstream import Upstream


def test_an_answer_names_the_expert_that_served(gateway: Gateway) -> None:
    answer = gateway.chat("small")
    assert answer.status_code == 200
    assert answer.json()["model"] == "small"


def test_x(gateway: Gateway, small: Upstream) -> None:
    answer = gateway.chat("small", stream=True)
    print(answer.text)
    assert answer.status_code == 200
