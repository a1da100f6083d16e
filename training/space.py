"""What a search may try for each parameter of a policy: ranges and choices, in JSON's terms.

A list is a choice among its members; `{"low": 1, "high": 64, "log": true}` a range, of whole numbers where both
ends are whole. A policy declares its own (`Policy.space`); else it is derived from the types and defaults of its
parameters.
"""

import inspect
import types
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from router.errors import ConfigError
from router.policy import Policy
from training.fit import build

WIDER = 4  # a derived range of whole numbers: from a quarter of the default to four times it
FAR_WIDER = 10  # the same for other numbers
SEED = "rng"


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, both included; on a `log` scale where the ratio counts."""

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def as_json(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, "log": self.log}


Choices = tuple[Any, ...]
Space = dict[str, Range | Choices]


def space_of(policy: type[Policy], kind: str, given: Mapping[str, Any], fixed: Collection[str]) -> Space:
    """What is searched: what the policy declares (else what can be derived), with what is `given` in its place.

    Parameters that are `fixed` stay out. Raises `ConfigError` for a parameter that the policy does not have, for
    what is no range or choice, and where nothing is left to search.
    """
    known = {name: p for name, p in inspect.signature(policy).parameters.items() if name != SEED}
    for name in (*given, *fixed):
        if name not in known:
            raise ConfigError(f"the policy {kind} has no parameter {name!r} to search; it has: {_listed(known)}")
    declared = policy.space or {
        name: found for name, parameter in known.items() if (found := _derived(parameter)) is not None
    }
    space = {name: _read(name, form) for name, form in {**declared, **given}.items() if name not in fixed}
    if not space:
        raise ConfigError(
            f"there is nothing to search: the policy {kind} has "
            + (f"the parameters {_listed(known)}; give a --space to one" if known else "no parameters")
        )
    for name, form in space.items():
        for value in (form.low, form.high) if isinstance(form, Range) else form:
            build(kind, {name: value}, 0)
    return space


def _derived(parameter: inspect.Parameter) -> Any:
    """From type and default; None where they say too little."""
    default, annotation = parameter.default, parameter.annotation
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    for option in options:
        if get_origin(option) is Literal:
            return list(get_args(option))
        if option is bool:
            return [False, True]
    if isinstance(default, int) and default > 0:
        return {"low": max(1, default // WIDER), "high": default * WIDER, "log": True}
    if isinstance(default, float) and default > 0:
        return {"low": default / FAR_WIDER, "high": default * FAR_WIDER, "log": True}
    if isinstance(default, float) and default == 0:
        return {"low": 0.0, "high": 1.0}
    return None


def _read(name: str, form: Any) -> Range | Choices:
    if isinstance(form, list | tuple):
        if not form or not all(value is None or isinstance(value, bool | int | float | str) for value in form):
            raise ConfigError(f"the space of {name}: choices are numbers, texts, true, false or null, got {form!r}")
        return tuple(form)
    expected = f"the space of {name}: expected choices such as [1, 2] or a range such as {{'low': 1, 'high': 9}}"
    if not isinstance(form, Mapping) or not {"low", "high"} <= set(form) <= {"low", "high", "log"}:
        raise ConfigError(f"{expected}, got {form!r}")
    low, high, log = form["low"], form["high"], form.get("log", False)
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    if not numbers or not low < high or (log and low <= 0):
        raise ConfigError(f"{expected}, low below high and above 0 where it is log, got {dict(form)!r}")
    return Range(low, high, bool(log))


def _listed(names: Collection[str]) -> str:
    return ", ".join(names) or "none"
