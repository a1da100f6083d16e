"""What a search may try: declared, derived, or given on the command line."""

from typing import Any, Literal

import pytest

from policies import kinds, policy_class
from policies.static import Static
from router.errors import ConfigError
from training.space import Range, space_of


class Plain(Static):
    def __init__(
        self,
        *,
        depth: int = 8,
        rate: float = 0.5,
        drop: float = 0.0,
        how: Literal["fast", "slow"] = "fast",
        warm: bool = True,
        size: int | None = None,
        rng: int = 0,
    ) -> None:
        pass


@pytest.fixture(autouse=True)
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.fit.policy_class", lambda kind: Plain if kind == "plain" else policy_class(kind))


def test_what_is_not_declared_is_derived_from_type_and_default() -> None:
    assert space_of(Plain, "plain", {}, ()) == {
        "depth": Range(2, 32, log=True),
        "rate": Range(0.05, 5.0, log=True),
        "drop": Range(0.0, 1.0),
        "how": ("fast", "slow"),
        "warm": (False, True),
    }


def test_what_is_given_takes_the_place_and_what_is_fixed_stays_out() -> None:
    space = space_of(
        Plain, "plain", {"depth": [1, 2], "size": {"low": 1, "high": 9}}, ("rate", "drop", "how", "warm")
    )
    assert space == {"depth": (1, 2), "size": Range(1, 9)}
    assert isinstance(space["size"], Range) and space["size"].whole


@pytest.mark.parametrize("kind", [kind for kind in kinds() if policy_class(kind).space])
def test_every_declared_space_fits_its_policy(kind: str) -> None:
    assert set(space_of(policy_class(kind), kind, {}, ())) == set(policy_class(kind).space)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"breadth": [1]}, "no parameter 'breadth' to search; it has: depth, rate"),
        ({"rng": [1]}, "no parameter 'rng'"),
        ({"depth": 7}, r"space of depth: expected choices such as \[1, 2\] or a range .* got 7"),
        ({"depth": []}, "space of depth: choices are"),
        ({"depth": [[1]]}, r"choices are numbers, texts, .* got \[\[1\]\]"),
        ({"depth": {"low": 1}}, "expected choices"),
        ({"depth": {"low": 9, "high": 1}}, "low below high"),
        ({"depth": {"low": 0, "high": 1, "log": True}}, "above 0 where it is log"),
        ({"depth": {"low": 1, "high": 2, "step": 1}}, "expected choices"),
        ({"depth": ["many"]}, "parameter depth: .* got 'many'"),
    ],
)
def test_a_wrong_space_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space_of(Plain, "plain", given, ())


def test_a_policy_without_parameters_has_nothing_to_search() -> None:
    with pytest.raises(ConfigError, match="nothing to search: the policy static has no parameters"):
        space_of(Static, "static", {}, ())
