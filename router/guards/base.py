"""The contract that every guard keeps, and how one is found by its kind.

A guard is a small class with keyword-only arguments, which are its settings. The two that ship are found by their
names here, all others by the entry points of the group `pointsman.guards`: another package declares
`mine = "package.module:Class"` there, and the configuration says `guards: [{kind: mine, ...}]`.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any

from router.config import GuardSettings
from router.errors import ConfigError
from router.types import ExpertSpec

GROUP = "pointsman.guards"
SHIPPED = {"pii": "router.guards.pii:PersonalData", "steering": "router.guards.steering:Steering"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a guard makes of a request or an answer; all None: it may go on as it is.

    `block` says why it may not, and the caller reads it. `body` goes on in its place. `heard` is the text that the
    router chooses by, while the expert still reads what was sent. Only the experts of `only` may answer; `reason`
    says why, in decisions and errors. None of them may repeat what is to be kept back.
    """

    block: str | None = None
    body: dict[str, Any] | None = None
    heard: str | None = None
    only: frozenset[str] | None = None
    reason: str = ""


PASS = Verdict()


class Guard:
    """Both hooks may run in a thread, and for several requests at once; neither changes what it is given."""

    reads_answers: bool = False  # or `after` is never called

    def open(self, experts: Sequence[ExpertSpec]) -> None:
        """Called once at start, with the whole pool. Raises `ConfigError` for what the guard cannot work with."""

    def before(self, body: Mapping[str, Any]) -> Verdict:
        """Of a request in the words of chat completions, or of embeddings (`input`), before it is routed."""
        return PASS

    def after(self, answer: Mapping[str, Any]) -> Verdict:
        """Of a whole chat completion, before it is sent. Streams are never shown."""
        return PASS


def load_guard(settings: GuardSettings, experts: Sequence[ExpertSpec]) -> Guard:
    """Raises `ConfigError` for a kind, an argument or an extra that is not there."""
    kind = settings.kind
    made = _class(kind)
    known = list(inspect.signature(made).parameters)
    given = settings.arguments()
    for name in given:
        if name not in known:
            raise ConfigError(f"guards: {kind!r} knows no {name!r}; there are: {', '.join(known) or 'none'}")
    try:
        guard = made(**given)
    except TypeError as error:
        raise ConfigError(f"guards: {kind!r}: {error}") from error
    guard.open(experts)
    return guard


def _class(kind: str) -> type[Guard]:
    try:
        if kind in SHIPPED:
            module, _, name = SHIPPED[kind].partition(":")
            found = getattr(import_module(module), name)
        else:
            entries = metadata.entry_points(group=GROUP)
            if kind not in entries.names:
                there = ", ".join(sorted({*SHIPPED, *entries.names}))
                raise ConfigError(f"guards: no guard is called {kind!r}; there are: {there}")
            found = entries[kind].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"guards: {kind!r} cannot be loaded: {error}") from error
    if not (inspect.isclass(found) and issubclass(found, Guard)):
        raise ConfigError(f"guards: {kind!r} is {found!r}, which is no Guard")
    return found


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """The same JSON value with every text changed; names of fields, models and inline media are left alone."""
    if isinstance(value, str):
        return value if value.startswith("data:") else change(value)
    if isinstance(value, list):
        return [mapped(item, change) for item in value]
    if isinstance(value, dict):
        return {
            name: item if name in ("model", "input_audio") else mapped(item, change) for name, item in value.items()
        }
    return value
