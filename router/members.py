"""A policy inside another: built as a parameter describes it."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from router.errors import ConfigError
from router.policy import Policy


def built(member: Mapping[str, Any], name: str, policy_class: Callable[[str], type[Policy]], rng: int) -> Policy:
    """The policy that the parameter `name` describes by its `kind` and parameters; seeded unless it says how."""
    params = dict(member)
    if "kind" not in params:
        raise ConfigError(f"{name} names no kind of policy")
    policy = policy_class(str(params.pop("kind")))
    if "rng" in inspect.signature(policy).parameters:
        params = {"rng": rng, **params}
    try:
        return policy(**params)
    except TypeError as error:
        raise ConfigError(f"{name}: {error}") from error
