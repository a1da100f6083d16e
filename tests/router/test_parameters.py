"""A value under its bound is named, with the policy."""

import pytest

from policies import policy_class
from router.errors import ConfigError
from router.parameters import at_least


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_value_under_its_bound_is_named_with_its_policy(value: float) -> None:
    policy = policy_class("mixture")(sharpness=value)
    with pytest.raises(ConfigError, match="mixture, parameter sharpness: expected at least"):
        at_least(policy, sharpness=0.5)


def test_what_is_left_to_be_chosen_is_no_error() -> None:
    at_least(policy_class("mixture")(sharpness=None), sharpness=0.5)
