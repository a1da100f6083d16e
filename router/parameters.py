"""Bounds of what a policy was built with: a value below them is named, with the policy and what was expected."""

from router.errors import ConfigError
from router.policy import Policy


def at_least(policy: Policy, **bounds: float) -> None:
    """Raises `ConfigError` for a parameter under its bound, or no number; None, for one chosen later, is none."""
    for name, least in bounds.items():
        value = getattr(policy, name)
        if value is not None and not value >= least:
            raise ConfigError(f"the policy {policy.kind}, parameter {name}: expected at least {least}, got {value}")
