"""What each part of a policy is worth: the policy without it, or with another setting, on the same queries."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from router.errors import ConfigError
from router.policy import Policy
from router.stepped import Stepped
from training.evaluate import evaluated
from training.interval import Interval, interval, p_value
from training.studies.base import Setup, Tick, silent


@dataclass(frozen=True)
class Ablated:
    """`gain` is the variant's area above the static mix, `lost` how much less it is than the whole policy's."""

    variant: str
    gain: Interval
    lost: Interval
    p: float  # one-sided, of the variant being no worse


@dataclass(frozen=True)
class AblationStudy:
    gain: Interval  # of the whole policy
    variants: tuple[Ablated, ...]


def ablated(setup: Setup, variants: Mapping[str, Callable[[], Policy]], tick: Tick = silent) -> AblationStudy:
    """Trains the policy and every variant, all without the steps that follow one, and judges them on one sample."""
    whole, figures = _judged(setup, setup.build, tick, "the whole policy")
    found = []
    for name, build in variants.items():
        gain, other = _judged(setup, build, tick, name)
        lost = figures["gain"] - other["gain"]
        found.append(Ablated(name, gain, interval(lost), p_value(lost)))
    return AblationStudy(whole, tuple(found))


def _judged(setup: Setup, build: Callable[[], Policy], tick: Tick, name: str) -> Any:
    report, figures = evaluated(setup.fitted(build(), setup.train), setup.held_out, setup.rng(), dataset=name)
    tick(name)
    return report.gain, figures


def variants_of(policy: Policy, settings: Mapping[str, Any] | None = None) -> dict[str, Callable[[], Policy]]:
    """The policy without each of its `members`, where it is fitted and has several, and with each other setting.

    A policy that is made of one that has members (`best` is of a stack) is taken apart as that one. Raises
    `ConfigError` where there is nothing to vary.
    """
    found: dict[str, Callable[[], Policy]] = {}
    policy = policy.policy if isinstance(policy, Stepped) else policy
    parted = next((p for p in (policy, *vars(policy).values()) if isinstance(p, Policy) and _members(p)), None)
    if parted is not None:
        members = _members(parted)
        for number, member in enumerate(members):
            rest = members[:number] + members[number + 1 :]
            found[f"without {_named(member, number)}"] = _building(parted, {"members": rest})
    for name, value in (settings or {}).items():
        found[f"{name} = {value}"] = _building(policy, {name: value})
    if not found:
        known = ", ".join(inspect.signature(type(policy)).parameters) or "none"
        raise ConfigError(
            f"the policy {policy.kind} has no members to leave out: give settings to try; its parameters: {known}"
        )
    return found


def _members(policy: Policy) -> list[Any]:
    members = policy.params.get("members")
    return list(members) if isinstance(members, list | tuple) and len(members) > 1 else []


def _named(member: Any, number: int) -> str:
    if not isinstance(member, Mapping):
        return f"member {number + 1}: {member}"
    rest = ", ".join(f"{name} {value}" for name, value in member.items() if name != "kind")
    return f"member {number + 1}: {member.get('kind', '?')}" + (f" ({rest})" if rest else "")


def _building(policy: Policy, change: Mapping[str, Any]) -> Callable[[], Policy]:
    params = {**policy.params, **change}
    return lambda: type(policy)(**params)
